"""Table 1(c) of Yu & Gao (ICML 2024): the maximum of random networks over [-1, 1]^n, at equal budget, best so far.

Every row gets 3000 backward passes a network (1500 ADR-GD iterations, which cost two each); the authors' own protocol,
T = 3000 ADR-GD iterations and thus 6000 backward passes, is a column of its own. The paper's networks are not known:
its absolute figures belong to other seeds, its gains over its own GD can be compared.

Run by: .venv/bin/python experiments/random_networks.py [--models A,B,C] [--quick] [--out FILE.json]
The last line printed is one JSON object; the exit code is 1 where an expected figure is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence

import torch
from expectations import check, verdict
from random_network_problems import add_flags, climb, mean_gap, published, seeds_of, write
from rich.console import Console
from rich.table import Table

from gatewise.combinators import Restarts, WarmStart
from gatewise.methods import (
    ActivationDescent,
    ActivationDescentReference,
    Adagrad,
    Adam,
    AutoProjectedGradient,
    GateAnnealing,
    GateReachingDescent,
    GradientDescent,
    LocalMilp,
    Method,
    PerturbedGradientDescent,
    ProjectedGradient,
)

BACKWARDS, QUICK_BACKWARDS = 3000, 40
ABLATIONS = {
    "M1": {"objective_moves_gates": False},
    "M2": {"penalty_moves_input": False},
    "M3": {"normalise_distances": False},
    "M4": {"kicks": False},
}
METHODS: dict[str, Callable[[str], Method]] = {
    "gd": lambda model: GradientDescent(step_size=0.5),
    "adam": lambda model: Adam(step_size=0.05),
    "adagrad": lambda model: Adagrad(),
    "perturbed-gd": lambda model: PerturbedGradientDescent(),
    "adr-gd": lambda model: ActivationDescent.preset(f"random-{model.lower()}"),
    **{
        f"adr-gd {name}": lambda model, switch=switch: ActivationDescent.preset(f"random-{model.lower()}", **switch)
        for name, switch in ABLATIONS.items()
    },
    "adr-gd-reference": lambda model: ActivationDescentReference.preset(f"random-{model.lower()}"),
    "pgd, 60 restarts": lambda model: Restarts(member=ProjectedGradient(step_size=0.5), times=60),
    "pgd, 30 restarts of step 1": lambda model: Restarts(member=ProjectedGradient(), times=30),
    "apgd": lambda model: AutoProjectedGradient(),
    "gate-reach, 30 restarts": lambda model: Restarts(member=GateReachingDescent(step_size=0.5, reach=2.0), times=30),
    "gate-annealing, 30 restarts": lambda model: Restarts(member=GateAnnealing(), times=30),
    "gate-reach, then local-milp": lambda model: then_exact(model),
}


def then_exact(model: str) -> Method:
    """Restarts for most of the budget, exact local steps from the best point for the rest."""
    gates, radius, share = {"A": (128, 0.5, 0.8), "B": (300, 0.1, 0.69), "C": (300, 0.1, 0.69)}[model]
    return WarmStart(
        first=Restarts(member=GateReachingDescent(step_size=0.5, reach=2.0), times=24 if model == "A" else 20),
        then=LocalMilp(gates=gates, most_gates=gates, radius=radius),
        share=share,
    )


ALONE = {"gate-reach, then local-milp"}  # takes rows apart, and here each row is another network
KEYS = {"gate-reach, then local-milp": "then-local-milp", "pgd, 30 restarts of step 1": "pgd-30"}
# Rows that are run from other driver seeds, too: what they are held to is a mean over random draws.
REPEATED = {
    "gate-reach, 30 restarts": range(3),
    "pgd, 30 restarts of step 1": range(3),
    "adr-gd-reference": range(5),
}
PAPER = {
    "gd": {"A": 40.58, "B": 3873.76, "C": 35807.10},
    "adam": {"A": 41.17, "B": 3914.07, "C": 36531.20},
    "adagrad": {"A": 41.72, "B": 3884.90, "C": 35513.52},
    "perturbed-gd": {"A": 40.62, "B": 3903.20, "C": 35964.02},
    "adr-gd": {"A": 43.95, "B": 4047.99, "C": 37672.04},
    "adr-gd M1": {"A": 43.33, "B": 3914.25, "C": 36609.58},
    "adr-gd M2": {"A": 43.74, "B": 3940.10, "C": 36822.27},
    "adr-gd M3": {"A": 43.90, "B": 3995.62, "C": 36064.52},
    "adr-gd M4": {"A": 43.13, "B": 3882.18, "C": 36036.73},
}
AUTHORS = {"gd": "gd_best", "adr-gd-reference": "adr_gd"}


def measured(model: str, name: str, seeds: Sequence[int], backwards: int) -> dict:
    """Mean value and gap of one row of the table, and of the authors' protocol where the method is theirs."""
    method, began = METHODS[name](model), time.perf_counter()
    own_protocol = name in ("adr-gd", "adr-gd-reference")
    if name in ALONE:
        values = torch.cat([climb(model, [seed], method, backwards).value for seed in seeds])
        gap, seconds = mean_gap(values, model, seeds), round(time.perf_counter() - began, 1)
        return {"mean": values.mean().item(), "gap": gap, "seconds": seconds}
    # ADR-GD has no schedule: its run of T iterations begins with its run of T / 2.
    result = climb(model, seeds, method, 2 * backwards if own_protocol else backwards)
    values = result.history[backwards // 2] if own_protocol else result.value
    line = {"mean": values.mean().item(), "gap": mean_gap(values, model, seeds), "seconds": 0.0}
    if own_protocol:
        line |= {"mean_T": result.value.mean().item(), "gap_T": mean_gap(result.value, model, seeds)}
    if name in REPEATED:
        whole = 2 * backwards if own_protocol else backwards
        by_seed = [result.value, *(climb(model, seeds, method, whole, seed).value for seed in REPEATED[name][1:])]
        line["means_by_driver_seed"] = [value.mean().item() for value in by_seed]
        line["gaps_by_driver_seed"] = [mean_gap(value, model, seeds) for value in by_seed]
    line["seconds"] = round(time.perf_counter() - began, 1)
    return line


def table(model: str, seeds: Sequence[int], lines: dict[str, dict]) -> Table:
    """Paper, authors' code as measured, ours."""
    title = f"Model {model}, seeds {seeds[0]}-{seeds[-1]}: mean value (gain over gd)"
    shown = Table(
        "method", "paper", "authors' code, T iterations", "ours", "gap", "ours, T iterations", "gap", title=title
    )
    for column in shown.columns[1:]:
        column.justify = "right"

    def gain(value: float, base: float | None, digits: int) -> str:
        return f"{value:.{digits}f}" + (f" ({value / base:.3f})" if base else "")

    digits, base = (2 if model == "A" else 0), lines.get("gd", {}).get("mean")
    authors_gd = sum(published(model, "gd_last", seeds)) / len(seeds)
    for name, line in lines.items():
        paper = gain(PAPER[name][model], PAPER["gd"][model], digits) if name in PAPER else ""
        by_authors = published(model, AUTHORS[name], seeds) if name in AUTHORS else None
        shown.add_row(
            name,
            paper,
            gain(sum(by_authors) / len(seeds), authors_gd, digits) if by_authors else "",
            gain(line["mean"], base, digits),
            f"{line['gap']:.3%}",
            gain(line["mean_T"], base, digits) if "mean_T" in line else "",
            f"{line['gap_T']:.3%}" if "gap_T" in line else "",
        )
    return shown


def figures(by_model: dict[str, dict]) -> dict[str, float]:
    """The figures by their keys in the expected file, such as `A-adr-gd-reference-mean_T`."""
    flat = {}
    for model, lines in by_model.items():
        for name, line in lines.items():
            short = KEYS.get(name, name.split(",")[0].replace(" ", "-"))
            key = f"{model}-{short}"
            flat |= {f"{key}-{figure}": value for figure, value in line.items() if isinstance(value, float)}
            for figures_by_seed, mean in (("means_by_driver_seed", "mean"), ("gaps_by_driver_seed", "mean_gap")):
                if by_seed := line.get(figures_by_seed):
                    flat[f"{key}-{mean}_of_driver_seeds"] = sum(by_seed) / len(by_seed)
    return flat


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_flags(parser, "A,B,C")
    parser.add_argument("--methods", default=";".join(METHODS), help="rows to run, with semicolons (default all)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    console, by_model, names = Console(width=140), {}, options.methods.split(";")
    for model in options.models.split(","):
        seeds, backwards = seeds_of(model, options.quick), QUICK_BACKWARDS if options.quick else BACKWARDS
        by_model[model] = lines = {}
        for name in names:
            lines[name] = measured(model, name, seeds, backwards)
            if options.out:
                write(options.out, "random_networks", by_model)
        console.print(table(model, seeds, lines))
        for name, line in lines.items():
            if name in REPEATED:
                told = zip(line["means_by_driver_seed"], line["gaps_by_driver_seed"], strict=True)
                console.print(f"{name}, by driver seed from 0: {', '.join(f'{m:.6g} (gap {g:.3%})' for m, g in told)}")
    mode, part = "quick" if options.quick else "figures", set(by_model) != set("ABC") or set(names) != set(METHODS)
    failures = check("random_networks", figures(by_model), table=mode, part=part)
    code = verdict("random_networks", failures)
    print(json.dumps(by_model))
    return code


if __name__ == "__main__":
    sys.exit(main())
