"""The random networks of Yu & Gao (ICML 2024), Section 6.4, as problems: all networks of a model are rows of one batch.

The networks are drawn as the authors draw them (`tests/reference/random_networks.py`), from the seeds on which the
authors' released code was measured. Best values ever seen: `expected/random_networks_best_known.csv`; those of A and
of B 0-9 are where three independent large searches agree, those of C may still be beaten. None is certified.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import gatewise as gw
from gatewise.result import Result

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from reference.random_networks import LAYERS, RandomNetworks, published

__all__ = [
    "LAYERS",
    "SEEDS",
    "RandomNetworks",
    "add_flags",
    "best_known",
    "climb",
    "mean_gap",
    "published",
    "seeds_of",
    "write",
]

SEEDS = {"A": range(20), "B": range(10), "C": range(7)}
QUICK_SEEDS = range(2)
_BEST = Path(__file__).with_name("expected") / "random_networks_best_known.csv"


def seeds_of(model: str, quick: bool) -> range:
    return QUICK_SEEDS if quick else SEEDS[model]


def best_known(model: str, seeds: Sequence[int]) -> Tensor:
    """The largest value anyone saw, (networks,) float64."""
    with _BEST.open(newline="") as file:
        rows = {int(row["seed"]): float(row["best_value"]) for row in csv.DictReader(file) if row["model"] == model}
    return torch.tensor([rows[seed] for seed in seeds], dtype=torch.float64)


def mean_gap(values: Tensor, model: str, seeds: Sequence[int]) -> float:
    """Mean over the networks of `1 - value / best known`."""
    return (1 - values.double() / best_known(model, seeds)).mean().item()


def climb(model: str, seeds: Sequence[int], method: gw.methods.Method, backwards: int, seed: int = 0) -> Result:
    """Maximise the output over [-1, 1]^n from x = 0, in float32 as the authors; the best point of each network."""
    network = RandomNetworks(model, seeds)
    problem = gw.Problem(gw.view(network), gw.Box(-1.0, 1.0), gw.objectives.Linear(torch.ones(1)))
    start = torch.zeros(len(seeds), LAYERS[model][0][0])
    return gw.maximize(problem, method, start, budget=backwards, seed=seed, rows=list(seeds), progress=False)


def add_flags(parser: argparse.ArgumentParser, models: str) -> None:
    """What the scripts on these networks have in common on the command line."""
    parser.add_argument("--models", default=models, help=f"models to run, with commas (default {models})")
    parser.add_argument("--quick", action="store_true", help="two networks a model and short runs, for CI")
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file, beside what it has of others")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")


def write(file: Path, name: str, by_model: dict[str, dict]) -> None:
    """Put what ran into the file; what did not run keeps the figures that it has there."""
    content = json.loads(file.read_text()) if file.exists() else {}
    torch_here = {"torch": torch.__version__, "threads": torch.get_num_threads()}
    content["machine"] = {"processor": platform.machine(), "dtype": "float32"} | torch_here
    content[name] = _merged(content.get(name, {}), by_model)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1) + "\n")


def _merged(before: dict, after: dict) -> dict:
    """`after` over `before`, by key at every depth."""
    both = {key: _merged(before[key], after[key]) for key in before.keys() & after if isinstance(after[key], dict)}
    return before | after | both
