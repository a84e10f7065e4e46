"""Table 1(a) of Yu & Gao (ICML 2024): seconds per iteration of PGD and of ADR-GD, and how many variables each moves.

One image at a time, as the paper's code works, and the batch of `benchmarks/adr_cost.py`, which has the ratios by
themselves. Weights are random: cost does not depend on them. Variables are input coordinates, plus one eta for each
neuron of the gates that carry one.

Run by: .venv/bin/python experiments/iteration_cost.py --out benchmarks/results/iteration_cost.json
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from pathlib import Path

import torch
from expectations import check, verdict
from rich import box
from rich.console import Console
from rich.table import Table

import gatewise as gw
from gatewise import zoo
from gatewise.methods import ActivationDescent, ProjectedGradient
from gatewise.network.consistency import choose_switches

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from adr_cost import CASES, seconds_per_iteration

# case of adr_cost: the paper's seconds (PGD, ADR-GD) and variables (ADR-GD)
PAPER = {
    "mnist-cnn": ("MNIST", 6.22e-4, 1.08e-2, 9_180),
    "vgg19": ("CIFAR-10, VGG-19", 1.07e-3, 1.36e-2, 23_552),
    "wide-resnet-50-2": ("ImageNet, Wide-ResNet-50-2", 6.58e-3, 4.17e-2, 351_232),
}


def measure(case: str, batch: int, rounds: int, steps: int) -> dict[str, float | int]:
    """Medians over rounds of seconds per iteration and image; the two methods take turns."""
    name, _, shape, radius, preset = CASES[case]
    network = zoo.build(name)
    images = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(0))
    view = gw.view(network)
    labels = view.plain(images).argmax(1)
    domain = gw.Intersection(gw.LinfBall(images, radius), gw.Box(0.0, 1.0))
    problem = gw.Problem(view, domain, -gw.objectives.CrossEntropy(labels))
    adr_gd = ActivationDescent.preset(preset)
    with torch.no_grad():
        trace = view.trace(images[:1])
    eta = sum(trace.preactivations[gate].numel() for gate in choose_switches(trace, adr_gd.gates))
    methods = {"pgd": ProjectedGradient(), "adr_gd": adr_gd}
    timed = [
        {key: seconds_per_iteration(problem, images, method, steps) for key, method in methods.items()}
        for _ in range(rounds)
    ]
    return {
        "batch": batch,
        "pgd_seconds": round(statistics.median(entry["pgd"] for entry in timed) / batch, 6),
        "adr_gd_seconds": round(statistics.median(entry["adr_gd"] for entry in timed) / batch, 6),
        "ratio": round(statistics.median(entry["adr_gd"] / entry["pgd"] for entry in timed), 2),
        "inputs": images[0].numel(),
        "variables": images[0].numel() + eta,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="MNIST alone, one round, for CI")
    parser.add_argument("--count", type=int, help="images together (default: one, and adr_cost's batch)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=9, help="iterations a round; ||P|| is refreshed every 3")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    rounds, steps = (1, 3) if given.quick else (given.rounds, given.steps)
    found = {}
    for case in ["mnist-cnn"] if given.quick else PAPER:
        batches = {1, CASES[case][1]} if given.count is None and not given.quick else {given.count or 1}
        for batch in sorted(batches):
            found[f"{case}, batch {batch}"] = measure(case, batch, rounds, steps)
    table = Table(title="Seconds per iteration and image", title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
    for heading in ("network", "batch", "PGD", "ADR-GD", "ratio", "paper", "variables", "paper's"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for key, entry in found.items():
        label, pgd, adr_gd, variables = PAPER[key.partition(",")[0]]
        table.add_row(
            label,
            str(entry["batch"]),
            f"{entry['pgd_seconds']:.2e}",
            f"{entry['adr_gd_seconds']:.2e}",
            f"{entry['ratio']:.2f}",
            f"{pgd:.2e} → {adr_gd:.2e} ({adr_gd / pgd:.1f})",
            f"{entry['inputs']:,} → {entry['variables']:,}",
            f"{variables:,}",
        )
    Console(width=140).print(table)
    told = {"machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}", "cases": found}
    if given.out:
        given.out.write_text(json.dumps(told, indent=1) + "\n")
    measured = {f"{key}|{figure}": entry[figure] for key, entry in found.items() for figure in ("ratio", "variables")}
    code = verdict("iteration_cost", check("iteration_cost", measured, table="quick" if given.quick else "figures"))
    print(json.dumps(told))
    sys.exit(code)


if __name__ == "__main__":
    main()
