"""Fig. 3(a, b) of Yu & Gao (ICML 2024) for MNIST: success and objective of attacks at linf 0.2, at equal budget.

Three networks of the paper's architecture: plainly trained and PGD-trained by the authors (their published weights, in
GATEWISE_DATA), FGSM-trained by us (`experiments/weights/`; left out, with a note, where the file is absent). Untargeted
and aimed at (label + 1) mod 10; cross-entropy as in the paper, and the margin. 500 backward passes a row are the
paper's T = 250 iterations of ADR-GD. `box` keeps the image inside [0, 1]; `unclipped` is the set of the authors' code,
which forgets that box and so explains their 28%.

Run by: .venv/bin/python experiments/mnist_attacks.py --out benchmarks/results/mnist_attacks.json
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from attack_grid import Cell, Victim, arguments, grid, run_grid, victim

from gatewise.readers import read_images, read_model

RADIUS = "0.2"
FGSM_TRAINED = Path(__file__).parent / "weights" / "mnist_fgsm.safetensors"
COUNTS = {"pgd-trained": 100, "normal": 50, "fgsm-trained": 50}  # of the first test images
# set, loss, budget; the paper's own columns first.
COLUMNS = (
    ("box", "ce", 100),
    ("box", "margin", 100),
    ("unclipped", "ce", 100),
    ("box", "ce", 500),
    ("unclipped", "ce", 500),
    ("box", "margin", 500),
)


def weights_of(network: str) -> Path:
    published = Path(os.environ.get("GATEWISE_DATA", "")) / "models" / "adr_gd_mnist"
    files = {"normal": "mnist_clean.pt", "pgd-trained": "mnist_pgd.pt"}
    return FGSM_TRAINED if network == "fgsm-trained" else published / files[network]


def attacks(network: str, radius: str, aim: str) -> dict[str, str]:
    """Label to method. The constant step is the customary 2/255 in units of the radius, from a random start."""
    preset = "mnist" if aim == "untargeted" else "mnist-targeted"
    released = "mnist-clean" if network == "normal" else "mnist-robust"
    return {
        "fgsm": "fgsm",
        "pgd constant 2/255": f"pgd:schedule=constant,random_start=true,step_size={2 / 255 / float(radius):.6f}",
        "pgd": "pgd",
        "apgd": "apgd",
        "adr-gd": f"adr-gd:preset={preset}",
        "adr-gd-reference": f"adr-gd-reference:preset={released}",
        "gate-reach": "gate-reach",
    }


def cells(networks: list[str], given: argparse.Namespace) -> Iterator[Cell]:
    columns = (("box", "ce", 4), ("unclipped", "margin", 4)) if given.quick else COLUMNS
    return grid(((network, RADIUS, *column) for column in columns for network in networks), attacks)


def open_victim(network: str, count: int | None) -> Victim:
    count = count or COUNTS[network]
    data = read_images("mnist:test", count=count + 50)
    module = read_model("zoo:adr-mnist-cnn", weights_of(network))
    return victim(module, data.images, data.labels, data.index, count)


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    given = parser.parse_args()
    if given.quick:
        given.count = 4
    torch.set_num_threads(1)
    networks = [name for name in COUNTS if weights_of(name).is_file()]
    for name in COUNTS:
        if name not in networks:
            print(f"LEFT OUT: the {name} network; there is no file {weights_of(name).name}.")
    sys.exit(run_grid("mnist_attacks", cells(networks, given), open_victim, given))


if __name__ == "__main__":
    main()
