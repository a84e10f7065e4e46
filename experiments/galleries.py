"""The pictures of Yu & Gao (ICML 2024), Appendix D and Fig. 6-8: clean, PGD, FGSM and ADR-GD, with class and loss.

MNIST at 0.2 (the authors' PGD-trained network), CIFAR-10 at 8/255 (ResNet-20), and with `--imagenet-weights` ImageNet
at 1/255 and 4/255 (Wide-ResNet-50-2, gates of the last layer). A line an image; beside each method's image stands
what it changed, scaled. Pictures go to `--out`; they show the data, so none is kept in the repository.

Run by: .venv/bin/python experiments/galleries.py --out out/galleries
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from attack_grid import Victim, fraction, victim
from expectations import check, verdict
from imagenet_attacks import photos
from rich import box
from rich.console import Console
from rich.table import Table

import gatewise as gw
from gatewise.objectives import CrossEntropy
from gatewise.readers import read_images, read_model
from gatewise.report.gallery import Column, draw_gallery


def column(title: str, shown: Victim, images: torch.Tensor) -> tuple[Column, list[float]]:
    """A column of the gallery, and the losses under it."""
    with torch.no_grad():
        logits = shown.module(images)
    classes, losses = logits.argmax(1), CrossEntropy(shown.labels)(images, logits).tolist()
    captions = [f"{chosen}  loss {loss:.3g}" for chosen, loss in zip(classes.tolist(), losses, strict=True)]
    return Column(title, images, captions, (classes != shown.labels).tolist()), losses


def gallery(path: Path, shown: Victim, radius: str, preset: str, budget: int, seed: int) -> dict[str, float]:
    """Draw one gallery; the mean loss of each column."""
    clean, losses = column("clean", shown, shown.images)
    columns, means = [], {"clean": sum(losses) / len(losses)}
    for title, method in {"PGD": "pgd", "FGSM": "fgsm", "ADR-GD": f"adr-gd:preset={preset}"}.items():
        found = gw.attack(
            shown.module,
            shown.images,
            shown.labels,
            radius=fraction(radius),
            method=method,
            loss="ce",
            budget=budget,
            full_budget=True,
            seed=seed,
            rows=shown.index,
            progress=False,
        )
        drawn, losses = column(title, shown, found.x)
        columns.append(drawn)
        means[title] = round(sum(losses) / len(losses), 4)
    draw_gallery(path, clean, *columns)
    return means


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two images and a few backward passes, for CI")
    parser.add_argument("--count", type=int, default=6, help="images in a gallery")
    parser.add_argument("--budget", type=int, default=100, help="backward passes a row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--imagenet-weights", type=Path, help="torchvision's wide_resnet50_2 state dict")
    parser.add_argument("--out", type=Path, default=Path("out/galleries"))
    given = parser.parse_args()
    count, budget = (2, 4) if given.quick else (given.count, given.budget)
    torch.set_num_threads(1)
    models = Path(os.environ.get("GATEWISE_DATA", "")) / "models"
    given.out.mkdir(parents=True, exist_ok=True)

    asked = [
        ("mnist", "0.2", "mnist", "zoo:adr-mnist-cnn", models / "adr_gd_mnist" / "mnist_pgd.pt"),
        ("cifar10", "8/255", "cifar10", "zoo:cifar10-resnet20", models / "cifar10_resnet20" / "resnet20.pt"),
    ]
    if given.imagenet_weights is None:
        print("LEFT OUT: ImageNet; give --imagenet-weights.")
    else:
        asked += [
            ("imagenet", radius, "imagenet", "zoo:wide-resnet-50-2", given.imagenet_weights)
            for radius in ("1/255", "4/255")
        ]
    found = {}
    for data, radius, preset, name, weights in asked:
        if data == "imagenet":
            images, labels = photos(20, 224)
        else:
            source = read_images(f"{data}:test", count=2 * count + 8)
            images, labels = source.images, source.labels
        shown = victim(read_model(name, weights), images, labels, torch.arange(len(labels)), count)
        path = given.out / f"{data}_{radius.replace('/', '_')}.png"
        found[path.name] = gallery(path, shown, radius, preset, budget, given.seed)
    table = Table(title="Mean cross-entropy", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for heading in ("picture", "clean", "PGD", "FGSM", "ADR-GD"):
        table.add_column(heading, justify="left" if heading == "picture" else "right")
    for picture, means in found.items():
        table.add_row(picture, *(f"{mean:.3g}" for mean in means.values()))
    Console(width=100).print(table)
    measured = {f"{picture}|{title}": mean for picture, means in found.items() for title, mean in means.items()}
    code = verdict("galleries", check("galleries", measured, table="quick" if given.quick else "figures", part=True))
    print(json.dumps({"pictures": found, "seed": given.seed}))
    sys.exit(code)


if __name__ == "__main__":
    main()
