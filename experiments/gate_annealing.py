"""What makes gate annealing work: one setting changed at a time, at equal backward passes.

Attacks with 100 backward passes a row from the clean image, margin loss, on the PGD-trained MNIST network of ADR-GD's
authors (linf 0.2, first 100 test images) and on CIFAR-10 CNN-A (8/255, those of the first 200 that it classifies
right): rows broken and mean margin, mean over driver seeds. Random networks A, B, C: mean gap to the best known value,
3000 backward passes in 30 restarts. `pgd` is beside each.

Run by: .venv/bin/python experiments/gate_annealing.py --out benchmarks/results/gate_annealing.json
    [--plot docs/gate_annealing.png] [--quick]
The last line printed is one JSON object; the exit code is 1 where an expected figure is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from expectations import check, verdict
from random_network_problems import climb, mean_gap, seeds_of
from torch import Tensor

import gatewise as gw
from gatewise.combinators import Restarts
from gatewise.geometry import per_row, unit_rows
from gatewise.methods import GateAnnealing, ProjectedGradient
from gatewise.methods.base import Method, Start, Steps, cosine_decay
from gatewise.network import Fixed, RunningNorms, Smoothed, exact_norms
from gatewise.objectives import Margin
from gatewise.problem import Iterate, Problem, input_gradient
from gatewise.readers import read_images, read_model

RADII = {"mnist": 0.2, "cifar10": 8 / 255}


@dataclass(frozen=True, kw_only=True)
class Variant(Method):
    """The loop of `gate-annealing` with its choices as settings."""

    name: ClassVar[str] = "variant"

    width: float = 0.5
    settle: float = 0.15
    deviation: str = "sample"  # or "mean" (running, fresh 0.3), or "exact"
    noise: str = "normal"  # or "signs", or "by gate": a draw for each gate, so that no two gates move together
    power: float = 1.0  # of the width's fall
    steps_of: str = "set"  # or "2-norm": the set's own steepest steps, or normalised gradients of the same length
    refresh: int = 1

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Look at the network and its hyperplanes, step along the smoothed network's gradient."""
        network, domain, steps = problem.network, problem.domain, start.steps(None)
        x, size, slopes = start.points, domain.size(start.points), ()
        running = RunningNorms(network, start.streams, refresh=1, fresh=0.3, first=1)
        for step in range(steps):
            with torch.no_grad():
                here = network.trace(x)
            yield Iterate(x, problem.measure(x, here.output), here.output)
            if step % self.refresh == 0:
                slopes = self._slopes(problem, start, running, here, x)
            width = self.width * size * max(0.0, 1 - (step + 1) / ((1 - self.settle) * steps)) ** self.power
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                smooth = Smoothed([per_row(width, slope) * slope for slope in slopes])
                value = problem.measure(x, network.trace(x, smooth, keep=False).output)
            length = per_row(cosine_decay(step, steps) * size, x)
            gradient = input_gradient(value, x)
            if self.steps_of == "set":
                move = domain.steepest(gradient)
            else:  # as long in 2-norm as a sign step is
                move = unit_rows(gradient) * x[0].numel() ** 0.5
            x = domain.project(x.detach() - length * move)
        yield problem.at(x)

    def _slopes(self, problem: Problem, start: Start, running: RunningNorms, here, x: Tensor) -> tuple[Tensor, ...]:
        held = Fixed(here.pattern())
        if self.deviation == "exact":
            return exact_norms(problem.network, here, held)[:-1]
        if self.deviation == "mean":
            running.look(here, lambda: held)
            return running.norms()[:-1]
        if self.noise == "by gate":
            draws = [
                gw.network.squared_norms(problem.network, here, held, start.streams.normal(x), [gate])[0]
                for gate in range(len(here.gates))
            ]
            return tuple(square.sqrt() for square in draws)
        z = start.streams.normal(x)
        squares = gw.network.squared_norms(problem.network, here, held, z.sign() if self.noise == "signs" else z)
        return tuple(square.sqrt() for square in squares[:-1])


VARIANTS: dict[str, Method] = {
    "pgd": ProjectedGradient(),
    "gate-annealing": GateAnnealing(),
    "width 0.3": GateAnnealing(width=0.3),
    "width 0.7": GateAnnealing(width=0.7),
    "width 1": GateAnnealing(width=1.0),
    "running mean of norms": Variant(deviation="mean"),
    "exact norms": Variant(deviation="exact"),
    "noise of signs": Variant(noise="signs"),
    "noise by gate": Variant(noise="by gate"),
    "width by row, 5% in reach": GateAnnealing(within=0.05),
    "width by row, 10% in reach": GateAnnealing(within=0.1),
    "width by row, 20% in reach": GateAnnealing(within=0.2),
    "refresh 3": GateAnnealing(refresh=3),
    "refresh 10": GateAnnealing(refresh=10),
    "quadratic fall": Variant(power=2.0),
    "square-root fall": Variant(power=0.5),
    "settle 0": GateAnnealing(settle=0.0),
    "settle 0.5": GateAnnealing(settle=0.5),
    "step 0.5": GateAnnealing(step_size=0.5),
    "normalised steps": Variant(steps_of="2-norm"),
}
SHIPPED = "gate-annealing"
EXACT = "exact norms"  # a forward pass for each input coordinate and step: random networks with 10 inputs alone
ON_RANDOM_NETWORKS = {
    name: "AB" if name == EXACT else "ABC"
    for name in (
        "pgd",
        "gate-annealing",
        "width 1",
        "width by row, 10% in reach",
        "running mean of norms",
        EXACT,
        "refresh 3",
    )
}


def victim(name: str, count: int | None):
    """Network, images, labels; only rows that are classified right."""
    models = Path(os.environ.get("GATEWISE_DATA", "")) / "models"
    if name == "mnist":
        module = read_model("zoo:adr-mnist-cnn", models / "adr_gd_mnist" / "mnist_pgd.pt")
        data = read_images("mnist:test", count=count or 100)
    else:
        module = read_model("zoo:cifar10-cnn-a", models / "cifar10_cnn_a_adv" / "cnn_a_adv.pt")
        data = read_images("cifar10:test", count=count or 200)
    with torch.no_grad():
        right = module(data.images).argmax(1) == data.labels
    return module, data.images[right], data.labels[right]


def attacked(name: str, method: Method, victim_of, seeds: Sequence[int], budget: int) -> dict[str, float]:
    """Rows broken and mean margin, over driver seeds."""
    module, images, labels = victim_of
    broken, margins, began = [], [], time.perf_counter()
    for seed in seeds:
        found = gw.attack(
            module, images, labels, radius=RADII[name], method=method, budget=budget, full_budget=True, seed=seed,
            progress=False,
        )  # fmt: skip
        with torch.no_grad():
            margins.append(Margin(labels)(found.x, module(found.x)).mean().item())
        broken.append(int(found.goal_met.sum()))
    seconds = round((time.perf_counter() - began) / len(seeds), 1)
    mean = sum(broken) / len(seeds)
    return {"broken": mean, "rows": len(images), "margin": round(sum(margins) / len(seeds), 4), "seconds": seconds}


def plot(told: dict[str, dict], file: Path) -> None:
    """Mean margin by variant, one panel a network: a dot each, the method as it ships and pgd as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in reversed(VARIANTS) if told.get(name, {}).get("mnist")]
    titles = {"mnist": "MNIST, PGD-trained, linf 0.2", "cifar10": "CIFAR-10 CNN-A, linf 8/255"}
    figure, panels = plt.subplots(1, 2, figsize=(9, 0.28 * len(names) + 1), sharey=True, layout="constrained")
    for panel, place in zip(panels, RADII, strict=True):
        margins = [told[name][place]["margin"] for name in names]
        shades = ["tab:gray" if name == "pgd" else "tab:orange" if name == SHIPPED else "tab:blue" for name in names]
        panel.scatter(margins, range(len(names)), color=shades, s=30)
        for name, shade in (("pgd", "tab:gray"), (SHIPPED, "tab:orange")):
            if name in names:
                panel.axvline(told[name][place]["margin"], color=shade, linewidth=1, alpha=0.6)
        for height, name in enumerate(names):
            broken = told[name][place]["broken"]
            panel.annotate(f" {broken:.1f}", (margins[height], height), fontsize=7, va="center", xytext=(4, 0),
                           textcoords="offset points")  # fmt: skip
        panel.set_title(f"{titles[place]}: rows broken of {told[names[0]][place]['rows']}", fontsize=9)
        panel.set_xlabel("mean margin (less is better)")
        panel.set_yticks(range(len(names)), names, fontsize=8)
        panel.locator_params(axis="x", nbins=5)
        panel.margins(x=0.12)
        panel.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a few rows and passes, for CI")
    parser.add_argument("--only", default="", help="names of variants, with semicolons")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path, help="draw the margins into this PNG")
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    chosen = given.only.split(";") if given.only else list(VARIANTS)
    seeds, budget = ((0,), 6) if given.quick else ((0, 1, 2), 100)
    told: dict[str, dict] = json.loads(given.out.read_text()) if given.out and given.out.is_file() else {}
    victims = {name: victim(name, 3 if given.quick else None) for name in RADII}
    for name in chosen:
        places = () if name == EXACT else RADII
        line = {place: attacked(place, VARIANTS[name], victims[place], seeds, budget) for place in places}
        if not given.quick:
            for model in ON_RANDOM_NETWORKS.get(name, ""):
                nets = seeds_of(model, False)
                values = climb(model, nets, Restarts(member=VARIANTS[name], times=30), 3000).value
                line[model] = {"gap": mean_gap(values, model, nets)}
        told[name] = line
        print(name, json.dumps(line), file=sys.stderr, flush=True)
        if given.out:
            given.out.write_text(json.dumps(told, indent=1) + "\n")
    if given.plot:
        plot(told, given.plot)
    measured = {
        f"{name}|{where}|{figure}": value
        for name, line in told.items()
        for where, entry in line.items()
        for figure, value in entry.items()
    }
    mode = "quick" if given.quick else "figures"
    code = verdict("gate_annealing", check("gate_annealing", measured, table=mode, part=chosen != list(VARIANTS)))
    print(json.dumps(told))
    return code


if __name__ == "__main__":
    sys.exit(main())
