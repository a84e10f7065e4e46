"""Fig. 3(a, b) of Yu & Gao (ICML 2024) for ImageNet: Wide-ResNet-50-2, linf 2/255, gates of the last layer only.

Needs torchvision's `wide_resnet50_2` weights (`--weights FILE.pth`, keys as published) and labelled images: a folder
with a `labels.csv`, or the 20 photos of GATEWISE_DATA/imagenet_samples, whose names end in the class. Photos are
resized to 256 at the shorter side and cropped to the middle 224. Without weights there is only `--smoke`: random
weights, the network's own answers as labels, a step or two. Its numbers mean nothing.

Run by: .venv/bin/python experiments/imagenet_attacks.py --weights wide_resnet50_2.pth --out out/imagenet.json
The last line printed is one JSON object.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from attack_grid import Cell, Victim, arguments, run_grid, victim
from PIL import Image

from gatewise.readers import read_images, read_model

RADIUS = "2/255"
NETWORK = "wide-resnet-50-2"


def attacks(aim: str) -> dict[str, str]:
    """Label to method; steps of a quarter of the radius are the customary constant at 2/255."""
    return {
        "fgsm": "fgsm",
        "pgd constant 0.5/255": "pgd:schedule=constant,random_start=true,step_size=0.25",
        "pgd": "pgd",
        "apgd": "apgd",
        "adr-gd": "adr-gd:preset=imagenet" + ("" if aim == "untargeted" else "-targeted"),
        "gate-reach": "gate-reach",
    }


def cells(budgets: tuple[int, ...], chosen: tuple[str, ...] | None) -> Iterator[Cell]:
    for budget in budgets:
        for aim in ("untargeted", "targeted") if chosen is None else ("untargeted",):
            for attack, method in attacks(aim).items():
                if chosen is None or attack in chosen:
                    yield Cell(
                        network=NETWORK,
                        aim=aim,
                        radius=RADIUS,
                        bounds="box",
                        loss="ce",
                        budget=budget,
                        attack=attack,
                        method=method,
                    )


def photos(count: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first photos (count, 3, size, size) in [0, 1] and their classes, from GATEWISE_DATA/imagenet_samples."""
    folder = Path(os.environ.get("GATEWISE_DATA", "")) / "imagenet_samples"
    files = sorted(folder.glob("imagenet_*.jpg"))[:count]
    if not files:
        sys.exit("There are no photos: set GATEWISE_DATA to the folder that holds imagenet_samples/, or give --data.")
    images = [torch.from_numpy(np.array(_cropped(Image.open(file), size))).permute(2, 0, 1) / 255 for file in files]
    return torch.stack(images), torch.tensor([int(file.stem.rpartition("_")[2]) for file in files])


def _cropped(photo: Image.Image, size: int) -> Image.Image:
    """Shorter side to size * 256 / 224, then the middle, as torchvision's evaluation does."""
    side = round(size * 256 / 224)
    scale = side / min(photo.size)
    resized = photo.convert("RGB").resize(tuple(round(scale * edge) for edge in photo.size), Image.Resampling.BILINEAR)
    left, top = ((edge - size) // 2 for edge in resized.size)
    return resized.crop((left, top, left + size, top + size))


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, help="torchvision's wide_resnet50_2 state dict")
    parser.add_argument("--data", help="labelled images of 224 x 224: an .npz, or a folder with labels.csv")
    parser.add_argument("--smoke", action="store_true", help="random weights: whether it runs, nothing more")
    parser.add_argument("--size", type=int, default=224, help="pixels across")
    parser.set_defaults(batch=4)
    given = parser.parse_args()
    if given.quick:
        given.smoke, given.count, given.size = True, 1, 64
    if given.weights is None and not given.smoke:
        parser.error("ImageNet weights cannot be had here: give --weights, or --smoke to see that it runs.")
    torch.set_num_threads(1)
    if given.smoke:
        given.count = given.count or 2
        print("SMOKE RUN: random weights, a step or two, labels from the network itself. THE NUMBERS MEAN NOTHING.")

    def open_victim(_: str, count: int | None) -> Victim:
        module = read_model(f"zoo:{NETWORK}", given.weights)
        if given.data:
            data = read_images(given.data)
            images, labels = data.images, data.labels
        else:
            images, labels = photos(count if given.smoke and count else 20, given.size)
        if given.smoke:
            with torch.no_grad():
                labels = module(images).argmax(1)
        return victim(module, images, labels, torch.arange(len(labels)), count or len(labels))

    grid = cells((4,), ("fgsm", "pgd", "adr-gd")) if given.smoke else cells((100, 1000), None)
    sys.exit(run_grid("imagenet_attacks", grid, open_victim, given))


if __name__ == "__main__":
    main()
