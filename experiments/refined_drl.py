"""Fig. 4 of Yu & Gao (ICML 2024): actor-critic agents trained plain and with actions refined by ADR-GD.

With probability 0.25 the exploring action is moved to where the critic likes it best, by ADR-GD with the settings of
Table 2(c); losses are untouched. Each seed is trained both ways from the same networks, the same random steps and
judged by the same episodes, played by the bare actor. Networks and runs are smaller than the paper's (SB3's 400-300 for
a million steps), so compare the two columns with each other, not with the paper's curves.

Run by: .venv/bin/python experiments/refined_drl.py --out benchmarks/results/refined_drl.json
    [--cells "td3 Pendulum-v1;td3 HalfCheetah-v5"] [--runs out/refined_drl] [--plot FOLDER] [--quick]
Results are written after every evaluation; a run that was killed goes on at its last checkpoint in `--runs`. The last
line printed is one JSON object; the exit code is 1 where an expected figure is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from expectations import check, verdict
from rich.console import Console

from gatewise.applications.action_refinement import Config, compare
from gatewise.report.folder import replace_json
from gatewise.report.learning_curves import curves_table, draw_curves

NAME = "refined_drl"
# As many environments in step as make refinement cheap: all chosen actions of a step are refined together. A stretch is
# one episode of each.
PENDULUM = {"steps": 10_000, "seeds": 5, "warm_up": 1_000, "stretch": 2_000, "episodes": 10, "environments": 10}
MUJOCO = {"steps": 100_000, "seeds": 2, "warm_up": 10_000, "stretch": 20_000, "episodes": 5, "environments": 20}
# What the rest of a processor's day allowed; three seeds where a run is short.
SHORT = MUJOCO | {"steps": 40_000, "seeds": 3, "warm_up": 5_000, "stretch": 10_000}
CELLS: dict[str, dict[str, Any]] = {
    "td3 Pendulum-v1": PENDULUM,
    "ddpg Pendulum-v1": PENDULUM,
    "td3 HalfCheetah-v5": MUJOCO,
    "ddpg HalfCheetah-v5": SHORT,
    "td3 Walker2d-v5": SHORT,
    "ddpg Walker2d-v5": SHORT,
    "td3 Ant-v5": SHORT,
    "ddpg Ant-v5": SHORT,
}
QUICK = {"steps": 120, "seeds": 1, "warm_up": 60, "stretch": 60, "episodes": 1, "net": (16, 16), "budget": 4}


def config_of(cell: str, settings: dict[str, Any], folder: Path) -> Config:
    algorithm, environment = cell.split()
    return Config(
        algo=algorithm,  # type: ignore[arg-type]
        env=environment,
        out=str(folder / cell.replace(" ", "-")),
        **{"net": (64, 64)} | settings,
    )


def recorded(summary: dict[str, Any]) -> dict[str, Any]:
    """What of a summary is kept: settings, curves, and each run's evaluations."""
    return summary | {"load": round(os.getloadavg()[0], 1), "machine": platform.machine()}


def figures(cells: dict[str, Any]) -> dict[str, float]:
    """By cell: the last mean return of both kinds, their difference, and how much longer training took."""
    told: dict[str, float] = {}
    for cell, summary in cells.items():
        plain, better = (summary["curves"][kind] for kind in ("plain", "refined"))
        steps = {point["step"] for point in plain} & {point["step"] for point in better}
        if not steps or summary["steps_done"] < 2 * summary["settings"]["steps"]:
            continue
        by_step = {kind: {point["step"]: point["mean"] for point in summary["curves"][kind]} for kind in KINDS}
        last = {kind: means[max(steps)] for kind, means in by_step.items()}
        key = cell.replace(" ", "_").replace("-", "_").lower()
        told |= {f"{key}_{kind}": mean for kind, mean in last.items()}
        told[f"{key}_gain"] = last["refined"] - last["plain"]
        told[f"{key}_slowdown"] = summary["seconds"]["refined"] / summary["seconds"]["plain"]
    return told


KINDS = ("plain", "refined")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file that the results are put into")
    parser.add_argument("--runs", type=Path, default=Path("out") / NAME, help="folder of the checkpoints")
    parser.add_argument("--cells", default="td3 Pendulum-v1;ddpg Pendulum-v1;td3 HalfCheetah-v5")
    parser.add_argument("--plot", type=Path, help="folder for one picture a cell")
    parser.add_argument("--quick", action="store_true", help="a few hundred steps of one cell")
    asked = parser.parse_args()
    cells: dict[str, Any] = {}
    if asked.out is not None and asked.out.is_file():
        cells = json.loads(asked.out.read_text()).get(NAME, {}).get("cells", {})

    def save() -> None:
        if asked.out is not None:
            content = json.loads(asked.out.read_text()) if asked.out.is_file() else {}
            replace_json(asked.out, content | {NAME: {"cells": cells}})

    wanted = ["td3 Pendulum-v1"] if asked.quick else [cell.strip() for cell in asked.cells.split(";")]
    for cell in wanted:

        def note(summary: dict[str, Any], cell: str = cell) -> None:
            cells[cell] = recorded(summary)
            save()

        summary = compare(config_of(cell, QUICK if asked.quick else CELLS[cell], asked.runs), note)
        Console(stderr=True).print(curves_table(summary), highlight=False)
        if asked.plot is not None:
            draw_curves(asked.plot / f"{NAME}_{cell.replace(' ', '_')}.png", summary["curves"], cell)
    measured = figures(cells)
    failures = check(NAME, measured, table="quick" if asked.quick else "figures", part=True)
    print(json.dumps(measured))
    return verdict(NAME, failures)


if __name__ == "__main__":
    sys.exit(main())
