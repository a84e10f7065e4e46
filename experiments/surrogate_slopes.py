"""Fig. 5 of Yu & Gao (ICML 2024): ADR-GD on random networks under surrogate gates of growing steepness.

T = 3000 iterations from x = 0, best so far, for the authors' form (`adr-gd-reference`) and for Algorithm 1 as printed
(`adr-gd`); gradient descent with as many steps is the line that the figure compares with.

Run by: .venv/bin/python experiments/surrogate_slopes.py [--models A,C] [--methods …] [--quick] [--out FILE.json]
The last line printed is one JSON object; the exit code is 1 where an expected figure is missed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

import torch
from expectations import check, verdict
from random_network_problems import add_flags, climb, mean_gap, seeds_of, write
from rich.console import Console
from rich.table import Table

from gatewise.methods import ActivationDescent, ActivationDescentReference, GradientDescent

SLOPES = (20, 200, 2000, 20000)
ITERATIONS, QUICK_ITERATIONS = 3000, 20
METHODS = {method.name: method for method in (ActivationDescentReference, ActivationDescent)}
PAPER = {
    "A": {"gd": 40.58, "20": 25.84, "200": 43.75, "2000": 43.95, "20000": 44.12},
    "C": {"gd": 35807.10, "20": 19942.94, "200": 36219.05, "2000": 37672.04, "20000": 37054.31},
}


def measured(
    model: str, names: Sequence[str], slopes: Sequence[str], seeds: Sequence[int], iterations: int
) -> dict[str, dict]:
    """Mean, gap and seconds by method, and by slope where it has one."""

    def line(method, backwards: int) -> dict[str, float]:
        began = time.perf_counter()
        values = climb(model, seeds, method, backwards).value
        seconds = round(time.perf_counter() - began, 1)
        return {"mean": values.mean().item(), "gap": mean_gap(values, model, seeds), "seconds": seconds}

    preset = f"random-{model.lower()}"
    return {"gd": line(GradientDescent(step_size=0.5), iterations)} | {
        name: {slope: line(METHODS[name].preset(preset, slope=float(slope)), 2 * iterations) for slope in slopes}
        for name in names
    }


def table(model: str, lines: dict[str, dict]) -> Table:
    """Means and gains over gd: the paper's, then ours by method."""
    names = [name for name in lines if name != "gd"]
    shown = Table("slope", "paper", *names, title=f"Model {model}: mean value (gain over gd)")
    digits, paper, base = (2 if model == "A" else 0), PAPER[model], lines["gd"]["mean"]
    shown.add_row("gd", f"{paper['gd']:.{digits}f}", *[f"{base:.{digits}f}"] * len(names))
    for slope in dict.fromkeys(slope for name in names for slope in lines[name]):
        means = [lines[name][slope]["mean"] for name in names]
        cells = [f"{value:.{digits}f} ({value / base:.3f})" for value in means]
        shown.add_row(slope, f"{paper[slope]:.{digits}f} ({paper[slope] / paper['gd']:.3f})", *cells)
    return shown


def figures(by_model: dict[str, dict]) -> dict[str, float]:
    """The means by their keys in the expected file, such as `A-adr-gd-reference-2000`."""
    flat = {f"{model}-gd": lines["gd"]["mean"] for model, lines in by_model.items()}
    for model, lines in by_model.items():
        for name in lines.keys() - {"gd"}:
            flat |= {f"{model}-{name}-{slope}": line["mean"] for slope, line in lines[name].items()}
    return flat


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add_flags(parser, "A,C")
    parser.add_argument("--methods", default=",".join(METHODS), help="of adr-gd-reference,adr-gd (default both)")
    parser.add_argument("--slopes", default=",".join(map(str, SLOPES)), help="with commas (default %(default)s)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    console, by_model = Console(width=140), {}
    names, slopes = options.methods.split(","), options.slopes.split(",")
    for model in options.models.split(","):
        iterations = QUICK_ITERATIONS if options.quick else ITERATIONS
        by_model[model] = measured(model, names, slopes, seeds_of(model, options.quick), iterations)
        console.print(table(model, by_model[model]))
    if options.out:
        write(options.out, "surrogate_slopes", by_model)
    part = set(by_model) != set(PAPER) or set(names) != set(METHODS) or set(slopes) != {str(slope) for slope in SLOPES}
    mode = "quick" if options.quick else "figures"
    code = verdict("surrogate_slopes", check("surrogate_slopes", figures(by_model), table=mode, part=part))
    print(json.dumps(by_model))
    return code


if __name__ == "__main__":
    sys.exit(main())
