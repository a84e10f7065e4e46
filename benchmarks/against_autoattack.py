"""gate-annealing and strongest against AutoAttack and its peers on one network, in one run: rows broken and time.

The PGD-trained MNIST network of ADR-GD's authors (GATEWISE_DATA), linf 0.2 inside [0, 1], the first 100 test images.
AutoAttack's standard run comes first (Croce & Hein 2020; its source by path in AUTOATTACK, left out with a note where
that is not set). foolbox and torchattacks follow where they can be imported, from the folder named by PEERS where it is
set (`pip install --no-deps --target`; what the packages here have already is not taken from it). Last come gate
annealing with 100 backward passes and one start, and `strongest` with half of AutoAttack's time (30 s without it).

The settings of the peers are their own, with 100 steps, but for three: torchattacks' PGD steps by a quarter of the
radius; foolbox's FMN takes the best first step of 1, 3, 5, 10, 20 and 50, found on these very images (15 to 21 broken);
and torchattacks' AutoAttack, whose gradient attacks make 10 steps each as released, is run a second time with the 100
of the paper. Brendel & Bethge's attack needs numba too; its time includes numba's compilation.

Every point is clipped into the ball and [0, 1] and judged there by the plain network; `farthest` and `outside` are its
distance to the image and to [0, 1] before that. `cpu` counts seconds of all threads and says more than `seconds` on a
machine that others use: `load` is its load average of one minute, before and after (this run's own threads count).

Run by: .venv/bin/python benchmarks/against_autoattack.py [--threads 2] [--out FILE], AUTOATTACK and PEERS set.
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
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


def from_foolbox(name: str, **settings: float) -> Attack:
    def run(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        foolbox = importlib.import_module("foolbox")
        model = foolbox.PyTorchModel(module, bounds=(0, 1))
        return getattr(foolbox.attacks, name)(**settings)(model, images, labels, epsilons=RADIUS)[1]

    return run


def from_torchattacks(name: str, **settings: float | str) -> Attack:
    def run(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        torchattacks = importlib.import_module("torchattacks")
        return getattr(torchattacks, name)(module, eps=RADIUS, **settings)(images, labels)

    return run


def torchattacks_in_full(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The four attacks of torchattacks' AutoAttack, with the 100 steps that Croce & Hein give them."""
    torchattacks = importlib.import_module("torchattacks")
    parts = [
        torchattacks.APGD(module, eps=RADIUS, steps=100, loss="ce"),
        torchattacks.APGDT(module, eps=RADIUS, steps=100),
        torchattacks.FAB(module, eps=RADIUS, steps=100, multi_targeted=True),
        torchattacks.Square(module, eps=RADIUS, n_queries=5000),
    ]
    return torchattacks.MultiAttack(parts)(images, labels)


# The package first, then what it needs besides.
PEERS: list[tuple[tuple[str, ...], str, Attack]] = [
    (("foolbox",), "foolbox LinfPGD-40", from_foolbox("LinfPGD", steps=40)),
    (("foolbox",), "foolbox LinfPGD-100", from_foolbox("LinfPGD", steps=100)),
    (("foolbox",), "foolbox LInfFMN-100", from_foolbox("LInfFMNAttack", steps=100, max_stepsize=20.0)),
    (
        ("foolbox", "numba"),
        "foolbox LinfinityBrendelBethge-1000",
        from_foolbox("LinfinityBrendelBethgeAttack", steps=1000),
    ),
    (("torchattacks",), "torchattacks PGD-100", from_torchattacks("PGD", steps=100, alpha=RADIUS / 4)),
    (("torchattacks",), "torchattacks APGD-CE-100", from_torchattacks("APGD", steps=100, loss="ce")),
    (("torchattacks",), "torchattacks APGD-DLR-100", from_torchattacks("APGD", steps=100, loss="dlr")),
    (("torchattacks",), "torchattacks APGDT-100", from_torchattacks("APGDT", steps=100)),
    (("torchattacks",), "torchattacks AutoAttack as released", from_torchattacks("AutoAttack", seed=0)),
    (("torchattacks",), "torchattacks AutoAttack, 100 steps", torchattacks_in_full),
]


def ours(method: gw.methods.Method, **limits: float | None) -> Attack:
    def run(module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return gw.attack(module, images, labels, radius=RADIUS, method=method, progress=False, **limits).x  # type: ignore[arg-type]

    return run


def rivals() -> Iterator[tuple[str, Attack]]:
    if os.environ.get("AUTOATTACK"):
        yield "autoattack", autoattack
    else:
        print("LEFT OUT: AutoAttack; name its source by AUTOATTACK.", file=sys.stderr)
    if os.environ.get("PEERS"):
        sys.path.append(os.environ["PEERS"])
    missing = {package: why for package in ("foolbox", "numba", "torchattacks") if (why := reason_missing(package))}
    for package, why in missing.items():
        print(f"LEFT OUT: what needs {package}, which cannot be imported ({why}).", file=sys.stderr)
    for packages, name, attack in PEERS:
        if missing.keys().isdisjoint(packages):
            yield name, attack


def reason_missing(package: str) -> str:
    """Why the package cannot be imported; empty where it can."""
    try:
        importlib.import_module(package)
    except (ImportError, RuntimeError) as error:  # a torchvision that does not fit its torch raises RuntimeError
        return str(error)
    return ""


def measure(attack: Attack, module: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    torch.manual_seed(0)  # the peers' random starts
    began, worked = time.perf_counter(), time.process_time()
    points = attack(module, images, labels).detach()
    seconds, cpu = time.perf_counter() - began, time.process_time() - worked
    inside = torch.minimum(torch.maximum(points, images - RADIUS), images + RADIUS).clamp(0, 1)
    with torch.no_grad():
        broken = int((module(inside).argmax(1) != labels).sum())
    return {
        "broken": broken,
        "seconds": round(seconds, 2),
        "cpu": round(cpu, 2),
        "farthest": (points - images).abs().max().item(),
        "outside": (points - points.clamp(0, 1)).abs().max().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="AutoAttack, its peers and gatewise on one network.")
    parser.add_argument("--threads", type=int, default=2, help="torch threads, for all")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    weights = Path(os.environ.get("GATEWISE_DATA", "")) / "models" / "adr_gd_mnist" / "mnist_pgd.pt"
    module = read_model("zoo:adr-mnist-cnn", weights).eval()
    data = read_images("mnist:test", count=COUNT)
    found, load = {}, os.getloadavg()[0]

    def tell(name: str, attack: Attack) -> None:
        found[name] = measure(attack, module, data.images, data.labels)
        print(name, found[name], flush=True)

    for name, attack in rivals():
        tell(name, attack)
    half = found["autoattack"]["seconds"] / 2 if "autoattack" in found else 30.0
    tell("gate-annealing", ours(GateAnnealing(), budget=100))
    tell("strongest", ours(Strongest(workers=given.threads), budget=None, seconds=half))
    told = {
        "images": COUNT,
        "radius": RADIUS,
        "found": found,
        "load": [round(load, 2), round(os.getloadavg()[0], 2)],
        "machine": f"{platform.machine()}, {given.threads} threads, torch {torch.__version__}",
        "peers": {name: sys.modules[name].__version__ for name in ("foolbox", "torchattacks") if name in sys.modules},
    }
    if given.out:
        given.out.write_text(json.dumps(told, indent=2) + "\n")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
