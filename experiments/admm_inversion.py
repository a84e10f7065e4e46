"""Inversion by operator splitting: the experiments of Wong & Kolter (OPT 2017) on networks for CIFAR-10.

LeNet (`experiments/weights/cifar10_lenet.safetensors`), 50 test images, cross-entropy toward the next class, from the
image: with weight/2 times the squared distance to the image, pixels in [-9, 10] (Fig. 2), by four orders of the updates
(Fig. 1); and without it, in the linf ball of 0.05 inside [0, 1]. VGG-11, `--weights`: the same with a penalty, with
residuals (Fig. 3), and a linear functional of the logits (label minus next class) in that ball (Fig. 4); once as in the
paper, and once with local projections, a rho that grows, and units of their own for its activations.

Adam and projected gradients take steps of 0.01. Held beside each other, best point so far on both sides: after equal
iterations; after equal passes, forward and backward (a sweep of ADMM with its look at the network is two and one where
no conjugate gradients are needed); and after equal CPU seconds, the preparation of ADMM's factors included.
The paper prints no penalty weight, no box and no counts: they are chosen here.

Run by: .venv/bin/python experiments/admm_inversion.py [--out benchmarks/results/admm_lenet.json]
    [--vgg-out benchmarks/results/admm_vgg.json] [--weights out/vgg11b/weights.safetensors] [--plots docs/reproduction]
    [--parts lenet,vgg,vgg-box] [--quick]
What the files have already is not run again. The last line printed is one JSON object; the exit code is 1 where an
expected figure is missed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from activation_units import in_units, measured_units
from expectations import check, verdict
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import gatewise as gw
from gatewise.methods import Adam, Admm, GradientDescent, ProjectedGradient
from gatewise.methods.base import Method
from gatewise.objectives import CrossEntropy, Linear, Penalised
from gatewise.problem import Problem
from gatewise.readers import read_images, read_model
from gatewise.result import Result

NAME = "admm_inversion"
LENET = Path(__file__).with_name("weights") / "cifar10_lenet.safetensors"
VGG = Path("out/vgg11b/weights.safetensors")
TRAIN_VGG = (
    "gatewise train --model zoo:vgg-11 --data cifar10:train --mode normal --optimiser sgd --rate 0.05 "
    "--weight-decay 5e-4 --epochs 12 --augment --out out/vgg11\n"
    "gatewise train --model zoo:vgg-11 --weights out/vgg11/weights.safetensors --data cifar10:train --mode normal "
    "--optimiser adam --rate 0.001 --epochs 6 --augment --out out/vgg11b"
)
LOW, HIGH = -9.0, 10.0  # pixels, where nothing but the penalty is to hold them
STEP = 0.01
RADIUS, WIDE = 0.05, 0.1
ORDERS = ("backward", "forward", "alternating", "classical")
TUNED = 0.01
VGG_WEIGHT = 0.1
BATCH = 5
LOOKS = (*range(10, 401, 10), 600, 800, 1000, 1200)  # iterations after which each image's value is kept
Cells = dict[str, dict[str, Any]]


def free_methods(rhos: Sequence[float]) -> dict[str, Method]:
    """Steps of Adam are in units of the box, those of gd in pixels."""
    return {
        "adam": Adam(step_size=STEP / ((HIGH - LOW) / 2), schedule="constant"),
        "gd": GradientDescent(step_size=STEP, normalise=False),
    } | {f"admm, rho {rho:g}": Admm(rho=rho) for rho in rhos}


def ball_methods(rhos: Sequence[float]) -> dict[str, Method]:
    return {
        "adam": Adam(step_size=STEP / RADIUS, schedule="constant"),
        "pgd": ProjectedGradient(step_size=STEP / RADIUS, schedule="constant"),
    } | {f"admm, rho {rho:g}": Admm(rho=rho) for rho in rhos}


# Methods, iterations, and whether VGG-11's activations get units of their own (`in_units`).
LOCAL = Admm(rho=0.02, growth=1.003, largest_rho=0.6, projection="local")
VGG_IMAGES = 5
VGG_METHODS: dict[str, tuple[Method, int, bool]] = {
    "adam": (free_methods(())["adam"], 200, False),
    "admm, rho 0.001": (Admm(rho=1e-3), 100, False),
    "admm, rho 1e-05": (Admm(rho=1e-5), 100, False),
    "admm, local, units": (LOCAL, 3000, True),
    "admm, nearest, units": (replace(LOCAL, projection="nearest"), 200, True),
    "admm, local": (LOCAL, 200, False),
}


# Methods, iterations, units, and the ball's radius.
BOX_METHODS: dict[str, tuple[Method, int, bool, float]] = {
    "pgd": (ProjectedGradient(step_size=STEP / RADIUS, schedule="constant"), 40, False, RADIUS),
    "admm, local, units": (replace(LOCAL, rho=0.1, growth=1.0), 60, True, RADIUS),
    "pgd, radius 0.1": (ProjectedGradient(step_size=STEP / WIDE, schedule="constant"), 40, False, WIDE),
    "admm, local, units, radius 0.1": (replace(LOCAL, rho=0.1, growth=1.0), 60, True, WIDE),
    "admm, rho 1e-05": (Admm(rho=1e-5), 40, False, RADIUS),
}


def victim(model: str, weights: Path, count: int) -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """Network, and the first images that it classifies right, with labels and the next classes."""
    module = read_model(model, weights)
    data = read_images("cifar10:test", count=6 * count)
    with torch.no_grad():
        right = (module(data.images).argmax(1) == data.labels).nonzero()[:count, 0]
    labels = data.labels[right]
    return module, data.images[right], labels, (labels + 1) % 10


def penalised(module: nn.Module, x: Tensor, targets: Tensor, weight: float) -> Problem:
    return gw.Problem(gw.view(module), gw.Box(LOW, HIGH), Penalised(CrossEntropy(targets), x, weight))


def in_ball(x: Tensor, radius: float = RADIUS) -> gw.Intersection:
    return gw.Intersection(gw.LinfBall(x, radius), gw.Box(0.0, 1.0))


def run(problem: Problem, method: Method, x: Tensor, budget: int) -> tuple[dict[str, Any], Result]:
    """`budget` iterations. Best values so far: mean by iteration, each image's after some; CPU seconds; residuals."""
    began = time.process_time()
    # A sweep may cost more than one pass: ADMM is given iterations, and what it paid is told.
    if isinstance(method, Admm):
        found = gw.minimize(problem, replace(method, steps=budget), x, progress=False)
    else:
        found = gw.minimize(problem, method, x, budget=budget, progress=False)
    seconds = time.process_time() - began
    history = found.history.double()
    cell: dict[str, Any] = {
        "images": len(x),
        "iterations": len(history) - 1,
        "start": round(float(history[0].mean()), 4),
        "mean": [round(float(value), 5) for value in history.mean(1)],
        "at": {at: [round(float(v), 5) for v in history[at]] for at in LOOKS if at < len(history)},
        "passes": round(found.backwards_per_row + found.forwards_per_row, 2),
        "cpu_seconds": round(seconds, 2),
    }
    for kind in ("primal residual", "dual residual"):
        if kind in found.diagnostics:
            told = found.diagnostics[kind][1:].double()
            cell[kind] = [float(f"{float(value):.3g}") for value in told.mean(1)]
            cell[f"{kind} falls"] = round(float((told.amax(0) / told[-1]).median()), 2)
    return cell, found


def lenet(told: dict[str, Any], quick: bool, save) -> dict[str, float]:
    """Fig. 1 and 2, and the figures that compare."""
    module, x, _, targets = victim("zoo:lenet-5", LENET, 2 if quick else 50)
    budget, longer = (10, 30) if quick else (100, 400)
    rhos = (TUNED,) if quick else (TUNED, 1e-5, 0.1)
    tasks = {
        "l2 0.01": (penalised(module, x, targets, 0.01), free_methods(rhos)),
        "box": (gw.Problem(gw.view(module), in_ball(x), CrossEntropy(targets)), ball_methods(rhos[:2])),
    }
    if not quick:
        tasks["l2 0.1"] = penalised(module, x, targets, 0.1), free_methods(rhos[:1])
    cells: Cells = told.setdefault("cells", {})
    for task, (problem, methods) in tasks.items():
        for name, method in methods.items():
            # As many as the dearest comparison asks for: in a ball ADMM's least squares are iterative.
            rounds = longer * (3 if task == "box" else 1) if name == "adam" else budget
            done(cells, f"{task}|{name}", problem, method, x, rounds, save)
        beside = told.setdefault("against_adam", {})
        for key in [f"{task}|{name}" for name in methods if name.startswith("admm")]:
            beside[key] = against(cells[f"{task}|adam"], cells[key], budget)
        save()
    for order in ORDERS[:2] if quick else ORDERS:
        done(cells, f"order|{order}", tasks["l2 0.01"][0], Admm(rho=TUNED, order=order), x, budget, save)
    ours = told["against_adam"][f"l2 0.01|admm, rho {TUNED:g}"]
    told["share_better_than_adam_at_100"] = ours["equal iterations"]["share"]
    save()
    return {
        f"{key}|{how}": line["share"] for key, entry in told["against_adam"].items() for how, line in entry.items()
    } | {"share_better_than_adam_at_100": told["share_better_than_adam_at_100"]}


def done(cells: Cells, key: str, problem: Problem, method: Method, x: Tensor, budget: int, save) -> None:
    """The cell, run if it is not there."""
    if key not in cells:
        cells[key], _ = run(problem, method, x, budget)
        print(f"{key}: {cells[key]['mean'][-1]}, {cells[key]['cpu_seconds']} s", file=sys.stderr, flush=True)
        save()


def against(adam: dict[str, Any], admm: dict[str, Any], at: int) -> dict[str, dict[str, float]]:
    """The share of images on which ADMM after `at` iterations is at or below Adam after as many, after as many passes
    and after as many seconds; Adam's count is rounded up to one that was kept.
    """
    ratio = {what: of(admm, what) / of(adam, what) for what in ("passes", "cpu_seconds")}
    both = values(admm, at)
    lines = {}
    for how, count in (("iterations", at), ("passes", ratio["passes"] * at), ("seconds", ratio["cpu_seconds"] * at)):
        looks = [look for look in LOOKS if str(look) in {str(k) for k in adam["at"]}]
        look = next((look for look in looks if look >= count), looks[-1])
        rivals = values(adam, look)
        lines[f"equal {how}"] = {
            "share": sum(a <= b for a, b in zip(both, rivals, strict=True)) / len(both),
            "admm": round(sum(both) / len(both), 5),
            "adam": round(sum(rivals) / len(rivals), 5),
            "adam_iterations": look,
        }
    return lines


def of(cell: dict[str, Any], what: str) -> float:
    """An iteration's share."""
    return cell[what] / cell["iterations"]


def values(cell: dict[str, Any], at: int) -> list[float]:
    """Each image's, after `at` iterations; keys are strings once read back from JSON."""
    return cell["at"][at] if at in cell["at"] else cell["at"][str(at)]


def vgg(told: dict[str, Any], weights: Path, save) -> None:
    """Objective and residuals on a few images (Fig. 3)."""
    module, x, _, targets = victim("zoo:vgg-11", weights, VGG_IMAGES)
    cells: Cells = told.setdefault("cells", {})
    units = measured_units(module, x, CrossEntropy(targets))
    for name, (method, budget, own) in VGG_METHODS.items():
        problem = penalised(in_units(module, units) if own else module, x, targets, VGG_WEIGHT)
        done(cells, f"vgg|{name}", problem, method, x, budget, save)
    adam = cells["vgg|adam"]["mean"][-1]
    for name in VGG_METHODS:
        cells[f"vgg|{name}"]["over Adam"] = round(cells[f"vgg|{name}"]["mean"][-1] / adam, 4)
    save()


def vgg_box(told: dict[str, Any], weights: Path, count: int, save) -> None:
    """A linear functional in a ball (Fig. 4), batch by batch: labels changed, the functional beside that of `pgd`."""
    module, x, labels, targets = victim("zoo:vgg-11", weights, count)
    cells: Cells = told.setdefault("cells", {})
    told["box"] = {}
    for name in BOX_METHODS:
        entries = []
        for first in range(0, count, BATCH):
            part = slice(first, min(first + BATCH, count))
            key = f"vgg box|{name}|{first}"
            if key not in cells:
                cells[key] = box_cell(module, x[part], labels[part], targets[part], BOX_METHODS[name])
                print(f"{key}: {cells[key]['changed']} of {len(x[part])}", file=sys.stderr, flush=True)
            entries.append(cells[key])
            changed, images = (sum(entry[what] for entry in entries) for what in ("changed", "images"))
            told["box"][name] = {
                "images": images,
                "label changed": changed,
                "share changed": changed / images,
                "to the wanted class": sum(entry["wanted"] for entry in entries),
                "functional": round(sum(entry["mean"][-1] * entry["images"] for entry in entries) / images, 4),
                "cpu_seconds": round(sum(entry["cpu_seconds"] for entry in entries), 1),
            }
            save()


def box_cell(
    module: nn.Module, x: Tensor, labels: Tensor, targets: Tensor, how: tuple[Method, int, bool, float]
) -> dict[str, Any]:
    """One batch: label minus wanted logit made small, judged by the module."""
    functional = nn.functional.one_hot(labels, 10).float() - nn.functional.one_hot(targets, 10).float()
    method, budget, own, radius = how
    split = in_units(module, measured_units(module, x, Linear(functional))) if own else module
    entry, result = run(gw.Problem(gw.view(split), in_ball(x, radius), Linear(functional)), method, x, budget)
    with torch.no_grad():
        decided = module(result.x).argmax(1)
    changed, wanted = int((decided != labels).sum()), int((decided == targets).sum())
    return entry | {"changed": changed, "wanted": wanted, "outside": float(result.violation.max())}


def plots_of_lenet(cells: Cells, folder: Path) -> None:
    """Fig. 1 and 2."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    for panel, task, title in zip(
        panels,
        ("l2 0.01|", "box|", "order|"),
        ("cross-entropy + 0.005 |x - x0|^2", f"cross-entropy, linf ball {RADIUS}", f"orders, rho {TUNED:g}"),
        strict=True,
    ):
        for key, cell in cells.items():
            if key.startswith(task):
                panel.plot(cell["mean"][:101], label=key.removeprefix(task), linewidth=1.2)
        panel.set_yscale("log")
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("iterations", fontsize=8)
        panel.legend(fontsize=7)
    panels[0].set_ylabel("objective, mean of 50 images", fontsize=8)
    figure.savefig(folder / "admm_lenet.png", dpi=80)
    plt.close(figure)


def plots_of_vgg(cells: Cells, folder: Path) -> None:
    """Fig. 3."""
    import matplotlib.pyplot as plt

    cells = {key: cell for key, cell in cells.items() if key.startswith("vgg|")}
    figure, panels = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    for shade, (key, cell) in enumerate(cells.items()):
        for panel, kind in zip(panels, ("mean", "primal residual", "dual residual"), strict=True):
            if kind in cell:
                panel.plot(cell[kind], label=key.removeprefix("vgg|"), linewidth=1.2, color=f"C{shade}")
    for panel, title in zip(panels, ("VGG-11: objective", "primal residual", "dual residual"), strict=True):
        panel.set_title(title, fontsize=9)
        panel.set_yscale("log")
        panel.set_xlabel("iterations", fontsize=8)
        panel.legend(fontsize=7)
    figure.savefig(folder / "admm_vgg.png", dpi=80)
    plt.close(figure)


def table(told: dict[str, Any]) -> Table:
    shown = Table("", "compared after", "ADMM", "Adam", "its iterations", "share at or below Adam")
    for key, entry in told["against_adam"].items():
        for how, line in entry.items():
            numbers = (
                f"{line['admm']:.4f}",
                f"{line['adam']:.4f}",
                str(line["adam_iterations"]),
                f"{line['share']:.0%}",
            )
            shown.add_row(key, how, *numbers)
    return shown


def opened(file: Path | None) -> tuple[dict[str, Any], Any]:
    """What a file holds, and how to save it: one line a cell."""
    told: dict[str, Any] = json.loads(file.read_text()) if file and file.is_file() else {}
    told["machine"] = f"{platform.machine()}, 1 thread, torch {torch.__version__}"

    def save() -> None:
        if file is None:
            return
        rest = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in told.items() if key != "cells"]
        cells = ",\n".join(f"  {json.dumps(key)}: {json.dumps(cell)}" for key, cell in told["cells"].items())
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{\n" + ",\n".join([*rest, f' "cells": {{\n{cells}\n }}']) + "\n}\n")

    return told, save


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="LeNet, two images and ten iterations, for CI")
    parser.add_argument("--parts", default="lenet,vgg,vgg-box", help="with commas (default lenet,vgg,vgg-box)")
    parser.add_argument("--weights", type=Path, default=VGG, help=f"of VGG-11 (default {VGG})")
    parser.add_argument("--count", type=int, default=50, help="images of VGG-11 in the ball (default 50)")
    parser.add_argument("--out", type=Path, help="JSON file for LeNet; what it has is not run again")
    parser.add_argument("--vgg-out", type=Path, help="JSON file for VGG-11, likewise")
    parser.add_argument("--plots", type=Path, help="folder for the plots")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    parts = {"lenet"} if given.quick else set(given.parts.split(","))
    if parts & {"vgg", "vgg-box"} and not given.weights.is_file():
        print(f"{given.weights} is not there; train it (an hour on one core):\n{TRAIN_VGG}", file=sys.stderr)
        return 2
    (small, save_small), (large, save_large) = opened(given.out), opened(given.vgg_out)
    measured: dict[str, float] = {}
    if "lenet" in parts:
        measured |= lenet(small, given.quick, save_small)
        Console(width=110).print(table(small))
    if "vgg" in parts:
        vgg(large, given.weights, save_large)
    if "vgg-box" in parts:
        vgg_box(large, given.weights, given.count, save_large)
    for key, cell in large.get("cells", {}).items():
        measured |= {f"{key}|{name}": value for name, value in cell.items() if isinstance(value, int | float)}
    measured |= {
        f"vgg box|{name}|{figure}": value
        for name, line in large.get("box", {}).items()
        for figure, value in line.items()
    }
    for draw, told in ((plots_of_lenet, small), (plots_of_vgg, large)):
        if given.plots and "cells" in told:
            draw(told["cells"], given.plots)
    mode = "quick" if given.quick else "figures"
    code = verdict(NAME, check(NAME, measured, table=mode, part=given.parts != parser.get_default("parts")))
    print(json.dumps({"lenet": small, "vgg": large}))
    return code


if __name__ == "__main__":
    sys.exit(main())
