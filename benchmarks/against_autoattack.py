"""gate-annealing and strongest against AutoAttack on one network, in one run: rows broken and wall time.

The PGD-trained MNIST network of ADR-GD's authors (GATEWISE_DATA), linf 0.2 inside [0, 1], the first 100 test images.
AutoAttack's standard run comes first (Croce & Hein 2020; its source by path in AUTOATTACK, left out with a note where
that is not set), then gate annealing with 100 backward passes and one start, then `strongest` with half of AutoAttack's
time (30 s without it). foolbox and torchattacks are further columns where they are installed. Every point is judged by
the plain network, and its distance to the image and to [0, 1] is checked.

Run by: AUTOATTACK=path/to/auto-attack .venv/bin/python benchmarks/against_autoattack.py [--threads 2] [--out FILE]
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

import gatewise as gw
from gatewise.combinators import Strongest
from gatewise.methods import GateAnnealing
from gatewise.readers import read_images, read_model

RADIUS, COUNT = 0.2, 100
Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]


def autoattack(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    sys.path.insert(0, os.environ["AUTOATTACK"])
    standard = importlib.import_module("autoattack").AutoAttack
    with contextlib.redirect_stdout(sys.stderr):
        attack = standard(module, norm="Linf", eps=RADIUS, version="standard", device="cpu", verbose=True)
        return attack.run_standard_evaluation(images, labels, bs=COUNT)


def foolbox_pgd(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    foolbox = importlib.import_module("foolbox")
    model = foolbox.PyTorchModel(module, bounds=(0, 1))
    return foolbox.attacks.LinfPGD(steps=100, rel_stepsize=0.025)(model, images, labels, epsilons=RADIUS)[1]


def torchattacks_apgdt(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    torchattacks = importlib.import_module("torchattacks")
    return torchattacks.APGDT(module, norm="Linf", eps=RADIUS, steps=100, n_classes=10)(images, labels)


def ours(method: gw.methods.Method, **limits: float | None) -> Attack:
    def run(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return gw.attack(module, images, labels, radius=RADIUS, method=method, progress=False, **limits).x  # type: ignore[arg-type]

    return run


def rivals() -> Iterator[tuple[str, Attack]]:
    if os.environ.get("AUTOATTACK"):
        yield "autoattack", autoattack
    else:
        print("LEFT OUT: AutoAttack; name its source by AUTOATTACK.", file=sys.stderr)
    for package, name, attack in (
        ("foolbox", "foolbox LinfPGD-100", foolbox_pgd),
        ("torchattacks", "torchattacks APGDT", torchattacks_apgdt),
    ):
        if importlib.util.find_spec(package):
            yield name, attack
        else:
            print(f"LEFT OUT: {package} is not installed.", file=sys.stderr)


def measure(attack: Attack, module: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    began = time.perf_counter()
    points = attack(module, images, labels).detach()
    seconds = time.perf_counter() - began
    with torch.no_grad():
        broken = int((module(points).argmax(1) != labels).sum())
    return {
        "broken": broken,
        "seconds": round(seconds, 2),
        "farthest": (points - images).abs().max().item(),
        "outside": (points - points.clamp(0, 1)).abs().max().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="torch threads, for all")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    weights = Path(os.environ.get("GATEWISE_DATA", "")) / "models" / "adr_gd_mnist" / "mnist_pgd.pt"
    module = read_model("zoo:adr-mnist-cnn", weights).eval()
    data = read_images("mnist:test", count=COUNT)
    found = {}

    def tell(name: str, attack: Attack) -> None:
        found[name] = measure(attack, module, data.images, data.labels)
        print(name, found[name], flush=True)

    for name, attack in rivals():
        tell(name, attack)
    half = found["autoattack"]["seconds"] / 2 if "autoattack" in found else 30.0
    tell("gate-annealing", ours(GateAnnealing(), budget=100))
    tell("strongest", ours(Strongest(), budget=None, seconds=half))
    told = {
        "images": COUNT,
        "radius": RADIUS,
        "found": found,
        "machine": f"{platform.machine()}, {given.threads} threads, torch {torch.__version__}",
    }
    if given.out:
        given.out.write_text(json.dumps(told, indent=2) + "\n")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
