"""Nearest points on larger networks: Tables 2 and 3 of Croce & Hein (GCPR 2018), and two convolution networks.

The networks, from GATEWISE_DATA: `mnist-cnn`, the plainly trained one of ADR-GD's authors (8,396 gates); `resnet20`
for CIFAR-10; and three MNIST ones of ours with the paper's layers, `1x1024`, `5x1024` and `1x1024_at`, adversarially
trained. From the folder --trained: `10x1024`, `gtsrb-1x1024` and `cifar10-1x1024`, by `fully_connected.py`. The images
are the first test images that a network classifies right, inside [0, 1]; the norm is l2.

Whatever a method returns is brought to the boundary in float64 by one and the same binary search, ours and the peers'
(foolbox, from the folder that PEERS names; left out with a note where it cannot be imported). A point that float64 does
not confirm is first moved outward, by a thousandth of its distance at most; else it counts as not found. All search in
float32. A method is best on an image where no other is nearer by more than 1e-4 of the distance.

Run by: .venv/bin/python experiments/nearest_large.py --out benchmarks/results/nearest_large.json
The last line printed is one JSON object; the exit code is 1 where an expected figure is missed.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import math
import multiprocessing
import os
import platform
import resource
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeGuard

import torch
from attack_grid import Victim, victim
from expectations import check, verdict
from fully_connected import reopened
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

import gatewise as gw
from gatewise.catalogue import method_named
from gatewise.combinators import FaceWalk, MultiTargeted, WarmStart
from gatewise.geometry import per_row, row_norm
from gatewise.methods import AugmentedLagrangian, DecoupledDirectionNorm, Method
from gatewise.nearest import Segments
from gatewise.objectives import Distance, Margin
from gatewise.readers import read_images, read_model

DATA = Path(os.environ.get("GATEWISE_DATA", ""))
TRAINED = ""  # by fully_connected.py
# Model, file, images, how many.
NETWORKS = {
    "mnist-cnn": ("zoo:adr-mnist-cnn", "models/adr_gd_mnist/mnist_clean.pt", "mnist:test", 50),
    "resnet20": ("zoo:cifar10-resnet20", "models/cifar10_resnet20/resnet20.pt", "cifar10:test", 20),
    "1x1024": ("zoo:mnist-mlp", "models/mnist_mlp/1x1024.safetensors", "mnist:test", 100),
    "5x1024": ("zoo:mnist-mlp", "models/mnist_mlp/5x1024.safetensors", "mnist:test", 100),
    "10x1024": (TRAINED, "10x1024", "mnist:test", 30),
    "1x1024_at": ("zoo:mnist-mlp", "models/mnist_mlp/1x1024_at.safetensors", "mnist:test", 100),
    "gtsrb-1x1024": (TRAINED, "gtsrb-1x1024", "gtsrb:test", 30),
    "cifar10-1x1024": (TRAINED, "cifar10-1x1024", "cifar10:test", 30),
}
DEEP = ("5x1024", "10x1024")
OWN_PROCESS = ("resnet20",)
REGION, RIVAL = "face-walk", "carlini-wagner"
AGAIN = "1x1024_at"  # the network of Table 3
ONCE = "rlr-qp from deepfool"  # Table 3's first application
NUMERALS = ("I", "II", "III", "IV", "V")
MOST_AGAIN = 10
OUTWARD = (0.0, 1e-6, 1e-5, 1e-4, 1e-3)  # shares of the distance
TIED = 1e-4
Cell = dict[str, Any]
Cells = dict[str, Cell]

# On one hidden layer programs for every class. On several for one, as in the paper: the one that the warm start finds
# the nearest, which tries all.
SHALLOW_START = WarmStart(first=DecoupledDirectionNorm(steps=100), then=AugmentedLagrangian(steps=300))
SHALLOW_WALK = FaceWalk(first=SHALLOW_START)
TOWARD_ONE = WarmStart(first=DecoupledDirectionNorm(steps=60), then=AugmentedLagrangian(steps=200))
DEEP_START = WarmStart(first=AugmentedLagrangian(steps=1000), then=MultiTargeted(member=TOWARD_ONE))
DEEP_WALK = FaceWalk(first=DEEP_START, rivals=1, steps=15)


def methods(network: str, quick: bool) -> dict[str, str | Method]:
    """Label to method, in the order in which they are run; a class of foolbox's by its name."""
    if quick:
        return {"face-walk": "face-walk:rivals=1,steps=1,faces=1", "ddn": "ddn:steps=50", "deepfool": "deepfool"}
    if network == "mnist-cnn":
        walk, toward_all = "face-walk:rivals=9,steps=4,faces=4,slack=1.05", "multi-targeted:member=(ddn:steps=100)"
        return {"face-walk": walk, "ddn": "ddn:steps=1000", "ddn toward all": toward_all}
    if network == "resnet20":
        walk, ddn = "rivals=1,steps=1,faces=2,slack=1.05", "ddn:steps=1000"
        return {"face-walk": f"face-walk:{walk}", "ddn": ddn, "face-walk from ddn": f"face-walk:first=({ddn}),{walk}"}
    return {
        "face-walk": DEEP_WALK if network in DEEP else SHALLOW_WALK,
        "ddn": "ddn:steps=1000",
        "alma": "alma:steps=1000",
        "fab": "fab:steps=100",
        "fab toward all": "multi-targeted:member=(fab:steps=100),classes=42",
        "deepfool": "deepfool",
        "foolbox DDN": "DDNAttack:1000",
        "foolbox FMN": "L2FMNAttack:1000",
        "foolbox CW": "L2CarliniWagnerAttack:1000",
        "carlini-wagner": "carlini-wagner:preset=short",
        **({ONCE: "rlr-qp:first=deepfool,rivals=1"} if network == AGAIN else {}),
    }


def opened(network: str, trained: Path) -> Victim:
    """The network and the images that it classifies right."""
    model, file, data, count = NETWORKS[network]
    module = reopened(file, trained) if model == TRAINED else read_model(model, DATA / file)
    images = read_images(data, count=4 * count)  # the worst of them is right on half
    return victim(module, images.images, images.labels, images.index, count)


def search(known: Victim, method: str | Method, rows: list[int]) -> dict[str, Any]:
    """Distances of the images `rows`, counted among those classified right; CPU seconds; peak memory in GiB."""
    torch.set_num_threads(1)
    images, labels = known.images[rows], known.labels[rows]
    module = copy.deepcopy(known.module)
    began = time.process_time()
    if of_foolbox(method):
        points = by_foolbox(method, module, images, labels)
    else:
        index = [known.index[row] for row in rows]
        points = gw.nearest(module, images, labels, method=method, rows=index, progress=False).x
    distances = to_boundary(module.double(), images.double(), labels, points.double())
    return {
        "distances": [round(distance, 7) if distance < math.inf else None for distance in distances.tolist()],
        "cpu_seconds": round(time.process_time() - began, 2),
        "memory": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def of_foolbox(method: str | Method) -> TypeGuard[str]:
    return isinstance(method, str) and method[0].isupper()


def by_foolbox(method: str, module: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    foolbox = importlib.import_module("foolbox")
    name, _, steps = method.partition(":")
    model = foolbox.PyTorchModel(module, bounds=(0, 1), device="cpu")
    attack, goal = getattr(foolbox.attacks, name)(steps=int(steps)), foolbox.criteria.Misclassification(labels)
    return attack(model, images, goal, epsilons=None)[0].detach()


def to_boundary(module: nn.Module, images: Tensor, labels: Tensor, points: Tensor) -> Tensor:
    """The distances (batch,) of points (batch, …) once they are drawn to the boundary; infinite where none is found."""
    network, domain = gw.view(module), gw.Box(0.0, 1.0)
    found, met = points, torch.zeros(len(points), dtype=torch.bool)
    for outward in OUTWARD:
        tried = domain.project(images + (1 + outward) * (points - images))
        past = ~met & (network.plain(tried).detach().argmax(1) != labels)
        found, met = torch.where(per_row(past, tried), tried, found), met | past
    drawn = Segments(network, labels).drawn(images, found, met, domain)
    return row_norm(drawn - images).where(met, torch.inf)


def hard(cells: Cells, below: float) -> list[int]:
    """The images of Table 3: where the rival is at less than `below` of the first application, the least first."""
    once, theirs = both(cells, AGAIN, ONCE if f"{AGAIN}|{ONCE}" in cells else REGION, rival_in(cells))
    order = (theirs / once).argsort()
    return order[(theirs / once)[order] < below].tolist()


def rival_in(cells: Cells) -> str:
    """The rival of Table 3; ddn where it was not run, in the quick mode."""
    return RIVAL if f"{AGAIN}|{RIVAL}" in cells else "ddn"


def apply_again(known: Victim, row: int, applications: int) -> dict[str, Any]:
    """Table 3 on one image: the distance of DeepFool's point, that on the boundary, and that of each application of
    rlr-qp from the last result, toward the class that wins there.
    """
    images, labels, index = known.images[[row]].double(), known.labels[[row]], [known.index[row]]
    module = copy.deepcopy(known.module).double()
    problem = gw.Problem(gw.view(module), gw.Box(0.0, 1.0), Distance(images), Margin(labels))
    x = gw.minimize(problem, method_named("deepfool"), images, rows=index, progress=False).x
    distances, began = [row_norm(x - images).item(), to_boundary(module, images, labels, x).item()], time.process_time()
    for seed in range(applications):
        # The one step of ddn begins with a look at the point that it is given: the search goes on from there.
        method = method_named("rlr-qp:first=(ddn:steps=1),rivals=1")
        x = gw.minimize(problem, method, x, rows=index, seed=seed, progress=False).x
        distances.append(to_boundary(module, images, labels, x).item())
    return {
        "distances": [round(distance, 7) if distance < math.inf else None for distance in distances],
        "cpu_seconds": round(time.process_time() - began, 2),
    }


def added(cell: Cell, told: dict[str, Any]) -> Cell:
    return cell | {
        "distances": cell["distances"] + told["distances"],
        "cpu_seconds": round(cell["cpu_seconds"] + told["cpu_seconds"], 2),
        "memory": max(cell["memory"], told["memory"]),
    }


def run(known: Victim, method: str | Method, rows: list[int], own_process: bool) -> dict[str, Any]:
    if not own_process:
        return search(known, method, rows)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(search, known, method, rows).result()


def foolbox_is_here() -> bool:
    sys.path.append(os.environ.get("PEERS", ""))
    try:
        importlib.import_module("foolbox")
    except ImportError:
        print("LEFT OUT: foolbox, which cannot be imported; name its folder in PEERS.", file=sys.stderr)
        return False
    return True


def distances_of(cell: Cell) -> Tensor:
    """(images,) float64; infinite where none is."""
    return torch.tensor([math.inf if one is None else one for one in cell["distances"]], dtype=torch.float64)


def both(cells: Cells, network: str, *labels: str) -> list[Tensor]:
    """Distances of several methods on the images that all of them have, (images,) each."""
    several = [distances_of(cells[f"{network}|{label}"]) for label in labels]
    count = min(map(len, several))
    return [distances[:count] for distances in several]


def figures_of(cells: Cells, network: str) -> dict[str, dict[str, float]]:
    """By method: images, mean distance and failures, CPU seconds an image, the share of images where it is best or
    tied; for the others against ours mean, least and largest ratio, and the share of images where ours is nearer.
    """
    here = {key.removeprefix(f"{network}|"): cell for key, cell in cells.items() if key.startswith(f"{network}|")}
    least = pad_sequence([distances_of(cell) for cell in here.values()], True, math.inf).amin(0)
    told = {}
    for label, cell in here.items():
        distances = distances_of(cell)
        count, found, over = len(distances), distances.isfinite(), distances / least[: len(distances)]
        told[label] = {
            "images": count,
            "failed": count - int(found.sum()),
            "mean": distances[found].mean().item(),
            "over_best": over[found].mean().item(),
            "best": (over <= 1 + TIED).double().mean().item(),
            "cpu_seconds": cell["cpu_seconds"] / count,
            "memory": cell["memory"],
        }
        if label != REGION and f"{network}|{REGION}" in cells:
            ours, theirs = both(cells, network, REGION, label)
            ratio = (theirs / ours)[theirs.isfinite()]
            told[label] |= {
                "ratio_mean": ratio.mean().item(),
                "ratio_least": ratio.min().item(),
                "ratio_largest": ratio.max().item(),
                "ours_nearer": (theirs > (1 + TIED) * ours).double().mean().item(),
                "total_ratio": (ours[theirs.isfinite()].sum() / theirs[theirs.isfinite()].sum()).item(),
            }
    return told


def again_figures(again: dict[str, Any], cells: Cells) -> dict[str, dict[str, float]]:
    """Table 3: by application the mean of the rival's distance over ours, and how often ours is nearer."""
    rows = [int(row) for row in again]
    rival = distances_of(cells[f"{AGAIN}|{rival_in(cells)}"])[rows, None]
    ratio = rival / torch.stack([distances_of(again[str(row)]) for row in rows])
    names = ["deepfool", "boundary", *NUMERALS][: ratio.shape[1]]
    nearer = (ratio > 1 + TIED).sum(0).tolist()
    return {
        name: {"mean": mean, "nearer": n} for name, mean, n in zip(names, ratio.mean(0).tolist(), nearer, strict=True)
    }


def flat(cells: Cells, again: dict[str, Any]) -> dict[str, float]:
    """The figures by their keys in the expected file, such as `1x1024|face-walk|best`."""
    told = {
        f"{network}|{label}|{figure}": value
        for network in {key.partition("|")[0] for key in cells}
        for label, line in figures_of(cells, network).items()
        for figure, value in line.items()
    }
    if again:
        told |= {
            f"again|{name}|{figure}": value
            for name, line in again_figures(again, cells).items()
            for figure, value in line.items()
        }
    return told


def tables(cells: Cells, again: dict[str, Any], console: Console) -> None:
    for network in NETWORKS:
        if not any(key.startswith(f"{network}|") for key in cells):
            continue
        shown = Table(title=f"{network}, l2", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
        shown.add_column("method", no_wrap=True)
        of_all = ("images", "failed", "mean", "over best", "best", "CPU s", "GiB")
        for head in (*of_all, f"over {REGION}: mean", "least", "largest", f"{REGION} nearer"):
            shown.add_column(head, justify="right")
        for label, line in sorted(figures_of(cells, network).items(), key=lambda entry: entry[1]["over_best"]):
            entries = [f"{line['images']}", f"{line['failed']}", f"{line['mean']:.4f}", f"{line['over_best']:.4f}"]
            entries += [f"{line['best']:.0%}", f"{line['cpu_seconds']:.2f}", f"{line['memory']:.1f}"]
            if "ratio_mean" in line:
                entries += [f"{line[f'ratio_{figure}']:.4f}" for figure in ("mean", "least", "largest")]
                entries += [f"{line['ours_nearer']:.0%}"]
            shown.add_row(label, *entries)
        console.print(shown)
    if again:
        shown = Table(title=f"{rival_in(cells)} over ours, {AGAIN}, {len(again)} images", box=box.SIMPLE_HEAD)
        lines = again_figures(again, cells)
        for name in ("", *lines):
            shown.add_column(name, justify="right")
        shown.add_row("mean", *(f"{line['mean']:.3f}" for line in lines.values()))
        shown.add_row("ours nearer", *(f"{line['nearer']:g}" for line in lines.values()))
        console.print(shown)


def write(file: Path | None, told: dict[str, Any]) -> None:
    """One line a cell."""
    if file is None:
        return
    parts = [f' "{name}": {json.dumps(value)}' for name, value in told.items() if not isinstance(value, dict)]
    for name, value in told.items():
        if isinstance(value, dict):
            lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(entry)}" for key, entry in value.items())
            parts.append(f' "{name}": {{\n{lines}\n }}' if lines else f' "{name}": {{}}')
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("{\n" + ",\n".join(parts) + "\n}\n")


def flags() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two images and short runs, for CI")
    parser.add_argument("--networks", default=",".join(NETWORKS), help="which to run, with commas (default all)")
    parser.add_argument("--methods", help="which to run, with semicolons (default all)")
    parser.add_argument("--count", type=int, help="images, at most, of each network")
    parser.add_argument("--block", type=int, default=10, help="images searched together (default 10)")
    parser.add_argument("--seconds", type=float, help="begin nothing new after so long; --out keeps what is done")
    parser.add_argument(
        "--trained", type=Path, default=Path("out/fully_connected"), help="folder of the networks of fully_connected.py"
    )
    parser.add_argument("--out", type=Path, help="JSON file, written after every block; what is in it is not run again")
    return parser


def main() -> int:
    given = flags().parse_args()
    torch.set_num_threads(1)
    told: dict[str, Any] = {"machine": "", "cells": {}, "again": {}}
    if given.out and given.out.is_file():
        told = json.loads(given.out.read_text())
    told["machine"] = f"{platform.machine()}, 1 thread, torch {torch.__version__}"
    cells, again, began, left = told["cells"], told["again"], time.perf_counter(), 0
    networks = ["mnist-cnn", "1x1024_at"] if given.quick else given.networks.split(",")
    known = {network: opened(network, given.trained) for network in networks}
    most = 2 if given.quick else given.count or 1000
    peers = not given.quick and foolbox_is_here()

    def late() -> bool:
        return given.seconds is not None and time.perf_counter() - began > given.seconds

    for network in networks:
        for label, method in methods(network, given.quick).items():
            if (given.methods and label not in given.methods.split(";")) or (of_foolbox(method) and not peers):
                continue
            count = min(most, len(known[network].labels))
            fresh = {"method": str(method), "distances": [], "cpu_seconds": 0.0, "memory": 0}
            cell = cells.get(f"{network}|{label}", fresh)
            if cell["method"] != str(method):  # of other settings
                cell = fresh
            while (done := len(cell["distances"])) < count:
                if late():
                    left += 1
                    break
                rows = list(range(done, min(done + given.block, count)))
                cell = added(cell, run(known[network], method, rows, network in OWN_PROCESS))
                cells[f"{network}|{label}"] = cell
                said = f"{network}|{label}: {len(cell['distances'])} images, {cell['cpu_seconds']} s"
                print(said, file=sys.stderr, flush=True)
                write(given.out, told)
    if AGAIN in networks and not given.methods and f"{AGAIN}|{rival_in(cells)}" in cells:
        for row in hard(cells, math.inf)[:1] if given.quick else hard(cells, 1.0)[:MOST_AGAIN]:
            if str(row) not in again and not late():
                again[str(row)] = apply_again(known[AGAIN], row, 1 if given.quick else len(NUMERALS))
                write(given.out, told)
    tables(cells, again, Console(width=150))
    if left:
        print(f"{left} cells are left; run the same command again.")
    part = not given.quick and (set(networks) != set(NETWORKS) or given.methods or given.count or not peers)
    failures = check("nearest_large", flat(cells, again), table="quick" if given.quick else "figures", part=bool(part))
    code = verdict("nearest_large", failures)
    print(json.dumps(told))
    return code


if __name__ == "__main__":
    sys.exit(main())
