"""What refining actions costs, beside projected gradient on one state: 100 inner steps, 1 and 8 environments.

The critic is Stable-Baselines3's for Pendulum-v1, untrained, with hidden layers of 64-64 and of the usual 400-300. A
step of `adr-gd` is two passes forward and two backward, one of `gate-annealing` at its defaults three and one, one of
`pgd` one and one. Rounds alternate between all of them on one thread; ratios are the median over the rounds of
processor time divided by that of `pgd` on one state in the same round.

Run by: .venv/bin/python benchmarks/refinement_cost.py [--rounds 15] [--out FILE]
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
import warnings
from pathlib import Path

import torch
from stable_baselines3 import TD3

from gatewise.agents.critics import Refinement, refine

STEPS = 100
HIDDEN = {"64-64": [64, 64], "400-300": [400, 300]}
CASES = {
    "pgd, 1 state": ("pgd", STEPS, 1),
    "pgd": ("pgd", STEPS, 8),
    "gate-annealing": ("gate-annealing", STEPS, 8),
    "adr-gd": ("adr-gd", 2 * STEPS, 8),
    "pgd, as many passes as adr-gd": ("pgd", 2 * STEPS, 8),
}


def seconds(critic: torch.nn.Module, states: torch.Tensor, actions: torch.Tensor, method: str, budget: int) -> float:
    asked, began = Refinement(method=method, budget=budget), time.process_time()
    refine(critic, states, actions, asked)
    return time.process_time() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    generator = torch.Generator().manual_seed(0)
    states, actions = torch.randn(8, 3, generator=generator), torch.rand(8, 1, generator=generator) * 2 - 1
    told: dict[str, dict[str, dict[str, float]]] = {}
    for name, hidden in HIDDEN.items():
        critic = TD3("MlpPolicy", "Pendulum-v1", seed=0, device="cpu", policy_kwargs={"net_arch": hidden}).critic
        rounds: dict[str, list[float]] = {case: [] for case in CASES}
        for _ in range(asked.rounds):
            for case, (method, budget, rows) in CASES.items():
                rounds[case].append(seconds(critic, states[:rows], actions[:rows], method, budget))
        one = rounds["pgd, 1 state"]
        told[name] = {
            case: {
                "milliseconds": round(1e3 * statistics.median(spent), 1),
                "ratio": round(statistics.median(a / b for a, b in zip(spent, one, strict=True)), 2),
            }
            for case, spent in rounds.items()
        }
        for case, cell in told[name].items():
            print(f"{name:8s} {case:30s} {cell['milliseconds']:7.1f} ms {cell['ratio']:6.2f}", file=sys.stderr)
    result = {
        "refinement_cost": told,
        "load": round(os.getloadavg()[0], 1),
        "machine": f"{platform.machine()}, 1 thread, torch {torch.__version__}",
    }
    if asked.out is not None:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
