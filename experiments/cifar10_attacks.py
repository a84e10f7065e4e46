"""Fig. 3(a, b) of Yu & Gao (ICML 2024) for CIFAR-10: success and objective of attacks at linf 8/255, at equal budget.

The paper attacks VGG-19 trained plainly, with FGSM and with PGD; nobody published those weights. Here stand a plain
ResNet-20 (a published network without defence, 91.7% clean) and CNN-A (published, adversarially trained, 65.6% clean;
also at 2/255, the radius it was trained for); VGG-19 is attacked only where `--weights` brings it. Settings of ADR-GD
are Table 2's for CIFAR-10; the authors shipped none for their code, so that row takes their MNIST ones with Table 2's
steps. A thousand backward passes a row are the paper's T = 500 iterations of ADR-GD.

Run by: .venv/bin/python experiments/cifar10_attacks.py --out benchmarks/results/cifar10_attacks.json
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from attack_grid import Cell, Victim, arguments, fraction, grid, run_grid, victim

from gatewise.readers import read_images, read_model

PUBLISHED = {
    "cnn-a": "cifar10_cnn_a_adv/cnn_a_adv.pt",
    "resnet20": "cifar10_resnet20/resnet20.pt",
}
ZOO = {"cnn-a": "zoo:cifar10-cnn-a", "resnet20": "zoo:cifar10-resnet20", "vgg-19": "zoo:vgg-19"}
COUNTS = {"cnn-a": 100, "resnet20": 40, "vgg-19": 10}  # images that one CPU core attacks in minutes
# network, radius, set, loss, budget
COLUMNS = (
    ("cnn-a", "8/255", "box", "ce", 100),
    ("cnn-a", "2/255", "box", "ce", 100),
    ("resnet20", "8/255", "box", "ce", 100),
    ("cnn-a", "8/255", "box", "margin", 100),
    ("cnn-a", "2/255", "box", "margin", 100),
    ("cnn-a", "8/255", "unclipped", "ce", 100),
    ("cnn-a", "8/255", "box", "ce", 1000),
    ("resnet20", "8/255", "box", "margin", 100),
    ("resnet20", "8/255", "unclipped", "ce", 100),
    ("vgg-19", "8/255", "box", "ce", 100),
)
QUICK = (("cnn-a", "8/255", "box", "ce", 6), ("resnet20", "8/255", "box", "ce", 2))


def attacks(network: str, radius: str, aim: str) -> dict[str, str]:
    """Label to method. The constant step is the customary 2/255 in units of the radius, from a random start."""
    step = 2 / 255 / fraction(radius)
    return {
        "fgsm": "fgsm",
        "pgd constant 2/255": f"pgd:schedule=constant,random_start=true,step_size={step:.6f}",
        "pgd": "pgd",
        "apgd": "apgd",
        "adr-gd": "adr-gd:preset=cifar10" + ("" if aim == "untargeted" else "-targeted"),
        "adr-gd-reference": "adr-gd-reference:preset=mnist-robust,step_size=0.1,gate_step_size=0.5",
        "gate-reach": "gate-reach",
    }


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    columns = QUICK if given.quick else COLUMNS
    return grid((column for column in columns if column[0] != "vgg-19" or given.weights is not None), attacks)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="state dict of a VGG-19 (zoo:vgg-19)")
    given = parser.parse_args()
    if given.quick:
        given.count = 2
    torch.set_num_threads(1)
    if given.weights is None:
        print("LEFT OUT: VGG-19, the paper's network; its weights were never published (give some by --weights).")

    def open_victim(network: str, count: int | None) -> Victim:
        count = count or COUNTS[network]
        published = Path(os.environ.get("GATEWISE_DATA", "")) / "models" / PUBLISHED.get(network, "")
        module = read_model(ZOO[network], given.weights if network == "vgg-19" else published)
        data = read_images("cifar10:test", count=2 * count + 20)
        return victim(module, data.images, data.labels, data.index, count)

    sys.exit(run_grid("cifar10_attacks", cells(given), open_victim, given))


if __name__ == "__main__":
    main()
