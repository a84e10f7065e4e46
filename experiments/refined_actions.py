"""Refinement of a trained agent's actions at test time: Q gain at equal passes, true returns, overestimation.

The published agents of the data folder (DDPG in Pendulum-v1 and LunarLanderContinuous, SAC in Hopper; trained in older
versions of the environments, so that scores may differ from those published). States are those that the bare actor
visits. Every method starts at the actor's action and may change each entry of the scaled action by `radius`, inside
[-1, 1]. One pass is one row sent forward or one gradient brought back: a query of cem or random-search is one pass, a
step of pgd two. The best known value of a state is the best of a fine grid and of all methods.

Run by: .venv/bin/python experiments/refined_actions.py --out benchmarks/results/refined_actions.json
    [--agents pendulum,lunarlander,hopper] [--parts gain,returns] [--quick]
What the file has already is not run again. The last line printed is one JSON object; the exit code is 1 where an
expected figure is missed.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from expectations import check, verdict
from rich.console import Console
from rich.table import Table
from torch import Tensor

from gatewise.agents.critics import ActionValue, Refinement, Twins, refine
from gatewise.agents.environments import play
from gatewise.agents.published import PublishedActor, PublishedCritic, read_agent
from gatewise.report.folder import replace_json
from gatewise.report.learning_curves import mean_and_interval

NAME = "refined_actions"
PASSES = 200
# Backward passes such that forward and backward passes come to 200 a state, or a few less.
METHODS: dict[str, tuple[str, int]] = {
    "pgd": ("pgd", 99),
    "apgd": ("apgd", 99),
    "adr-gd": ("adr-gd:preset=action-refinement", 90),
    "gate-annealing": ("gate-annealing", 50),
    "gate-annealing, every second draw": ("gate-annealing:refresh=2", 66),
    "cem": ("cem", 199),
    "random-search": ("random-search", 199),
}
PLAYED = ("pgd", "adr-gd", "gate-annealing", "cem")
GATE_AWARE = ("adr-gd", "gate-annealing", "gate-annealing, every second draw")
RADII = (0.1, 0.3, 1.0)
TIE = 1e-4  # of the best known gain, or of a thousandth of |Q|: what counts as the same value


@dataclass(frozen=True)
class Agent:
    """A published agent and where it plays; `discount` as it was trained, `scale` of its actions, `later` the steps
    that must follow a step for its discounted return to be told.
    """

    file: str
    environment: str
    options: tuple[tuple[str, Any], ...]
    scale: float
    discount: float
    twins: Twins
    later: int
    episodes: int
    grid: int


AGENTS = {
    "pendulum": Agent("ddpg_pendulum", "Pendulum-v1", (), 2.0, 0.98, "first", 120, 50, 4001),
    "lunarlander": Agent(
        "ddpg_lunarlandercontinuous", "LunarLander-v3", (("continuous", True),), 1.0, 0.98, "first", 100, 30, 101
    ),
    "hopper": Agent("sac_hopper", "Hopper-v5", (), 1.0, 0.99, "min", 200, 20, 25),
}


def loaded(agent: Agent) -> tuple[PublishedActor, PublishedCritic]:
    folder = os.environ.get("GATEWISE_DATA")
    if not folder:
        sys.exit("GATEWISE_DATA is not set; name the folder that has models/.")
    return read_agent(Path(folder) / "models" / "rl" / f"{agent.file}.pt")


def visited(agent: Agent, actor: PublishedActor, states: int) -> Tensor:
    """States along the bare actor's episodes, spread evenly, (states, entries)."""
    seen: list[np.ndarray] = []

    def act(observations: np.ndarray, _: list[int]) -> np.ndarray:
        seen.extend(observations)
        with torch.no_grad():
            return agent.scale * actor(torch.from_numpy(observations).float()).numpy()

    play(agent.environment, act, 5, 1_000, at_once=5, **dict(agent.options))
    every = torch.from_numpy(np.stack(seen)).float()
    return every[torch.linspace(0, len(every) - 1, states).long()]


def best_on_a_grid(agent: Agent, critic: PublishedCritic, states: Tensor, actions: Tensor, radius: float) -> Tensor:
    """The largest value on a grid over each state's set, (states,)."""
    found = []
    entries = actions.shape[1]
    line = torch.linspace(0, 1, agent.grid)
    unit = torch.cartesian_prod(*[line] * entries).view(-1, entries)
    for state, action in zip(states, actions, strict=True):
        low, high = (action - radius).clamp(-1, 1), (action + radius).clamp(-1, 1)
        with torch.no_grad():
            value = ActionValue(critic, state[None], agent.twins)(low + unit * (high - low))
        found.append(value.max())
    return torch.stack(found)


def gains(agent: Agent, states: int, radius: float, methods: dict[str, tuple[str, int]]) -> dict[str, Any]:
    """Each method's rise of Q on the same states."""
    actor, critic = loaded(agent)
    observations = visited(agent, actor, states)
    with torch.no_grad():
        actions = actor(observations)
        before = ActionValue(critic, observations, agent.twins)(actions)[:, 0]
    told: dict[str, Any] = {}
    rises: dict[str, Tensor] = {}
    for name, (method, budget) in methods.items():
        asked, began = Refinement(method=method, radius=radius, budget=budget, twins=agent.twins), time.process_time()
        result = refine(critic, observations, actions, asked)
        rises[name] = result.value - before
        told[name] = {
            "gain": float(rises[name].mean()),
            "forwards": round(result.forwards_per_row, 2),
            "backwards": round(result.backwards_per_row, 2),
            "cpu_seconds": round(time.process_time() - began, 3),
        }
    grid = best_on_a_grid(agent, critic, observations, actions, radius) - before
    best = torch.stack([grid, *rises.values()]).amax(0)
    tie = TIE * torch.maximum(best, 1e-3 * before.abs())
    for name, rise in rises.items():
        told[name]["at_best"] = share(rise >= best - tie)
        told[name]["of_best"] = float(rise.sum() / best.sum())
        for rival in ("pgd", "cem"):
            if rival in rises:
                told[name][f"not_below_{rival}"] = share(rise >= rises[rival] - tie)
                told[name][f"above_{rival}"] = share(rise > rises[rival] + tie)
    return {"states": states, "radius": radius, "value": float(before.mean()), "best": float(best.mean())} | {
        "methods": told
    }


def share(flags: Tensor) -> float:
    return float(flags.double().mean())


def returned(agent: Agent, method: str | None, radius: float, budget: int, episodes: int) -> dict[str, Any]:
    """Episodes with every action refined (None: none), against what the critic promised on the way."""
    actor, critic = loaded(agent)
    promised: list[list[float]] = [[] for _ in range(episodes)]
    asked = None if method is None else Refinement(method=method, radius=radius, budget=budget, twins=agent.twins)

    def act(observations: np.ndarray, playing: list[int]) -> np.ndarray:
        states = torch.from_numpy(observations).float()
        with torch.no_grad():
            actions = actor(states)
        if asked is not None:
            steps = [len(promised[episode]) * episodes + episode for episode in playing]
            actions = refine(critic, states, actions, asked, rows=steps).x
        with torch.no_grad():
            values = ActionValue(critic, states, agent.twins)(actions)[:, 0].tolist()
        for episode, value in zip(playing, values, strict=True):
            promised[episode].append(value)
        return agent.scale * actions.numpy()

    rewards = play(agent.environment, act, episodes, 0, at_once=episodes, **dict(agent.options))
    realised = [discounted(one, agent.discount) for one in rewards]
    pairs = [
        (value, later)
        for values, laters in zip(promised, realised, strict=True)
        for value, later in list(zip(values, laters, strict=True))[: max(0, len(values) - agent.later)]
    ]
    told: dict[str, Any] = {"returns": [round(sum(one), 4) for one in rewards], "length": np.mean([*map(len, rewards)])}
    told |= mean_and_interval(told["returns"])
    if pairs:
        told |= {"promised": float(np.mean([p for p, _ in pairs])), "realised": float(np.mean([r for _, r in pairs]))}
    return told


def discounted(rewards: list[float], discount: float) -> list[float]:
    """What follows each step, discounted."""
    return list(itertools.accumulate(reversed(rewards), lambda later, reward: reward + discount * later))[::-1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file that the results are put into")
    parser.add_argument("--agents", default=",".join(AGENTS))
    parser.add_argument("--parts", default="gain,returns")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    content: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out and asked.out.is_file() else {}
    cells: dict[str, Any] = content.get(NAME, {})

    def once(key: str, make) -> None:
        if key not in cells:
            cells[key] = make()
            print(key, json.dumps(cells[key])[:300], file=sys.stderr, flush=True)
            if asked.out is not None:
                replace_json(asked.out, content | {NAME: cells})

    states, radii = (10, (0.3,)) if asked.quick else (200, RADII)
    for name in ["pendulum"] if asked.quick else asked.agents.split(","):
        agent = replace(AGENTS[name], episodes=2, grid=401) if asked.quick else AGENTS[name]
        for radius in radii:
            if "gain" in asked.parts:
                once(f"gain|{name}|{radius}", lambda a=agent, r=radius: gains(a, states, r, METHODS))
        if "returns" in asked.parts:
            once(f"returns|{name}|bare", lambda a=agent: returned(a, None, 0.0, 1, a.episodes))
            for radius, method in itertools.product(radii, ("pgd",) if asked.quick else PLAYED):
                named, budget = METHODS[method] if not asked.quick else (method, 5)
                once(
                    f"returns|{name}|{radius}|{method}",
                    lambda a=agent, m=named, r=radius, b=budget: returned(a, m, r, b, a.episodes),
                )
    show(cells)
    measured = {
        f"{key.split('|')[1]}_{key.split('|')[2]}_{name.split(',')[0]}_{against}": cell["methods"][name][against]
        for key, cell in cells.items()
        if key.startswith("gain")
        for name in ("adr-gd", "gate-annealing")
        for against in ("not_below_pgd", "not_below_cem")
    }
    print(json.dumps(measured))
    return verdict(NAME, check(NAME, measured, table="quick" if asked.quick else "figures", part=True))


def show(cells: dict[str, Any]) -> None:
    console = Console(stderr=True, width=140)
    for key, cell in cells.items():
        if not key.startswith("gain"):
            continue
        shown = Table(title=f"{key}: {cell['states']} states, mean Q {cell['value']:.4g}, best gain {cell['best']:.4g}")
        for heading in (
            "method",
            "gain",
            "of best",
            "at best",
            ">= pgd",
            "> pgd",
            ">= cem",
            "> cem",
            "passes",
            "cpu s",
        ):
            shown.add_column(heading, justify="left" if heading == "method" else "right")
        for name, one in cell["methods"].items():
            numbers = [f"{one['gain']:.4g}", *(f"{one[k]:.1%}" for k in ("of_best", "at_best"))]
            numbers += [f"{one[f'{k}_{r}']:.0%}" for r in ("pgd", "cem") for k in ("not_below", "above")]
            shown.add_row(name, *numbers, f"{one['forwards'] + one['backwards']:.0f}", f"{one['cpu_seconds']:.2f}")
        console.print(shown)
    shown = Table(title="returns of episodes with every action refined")
    for heading in ("agent, radius, method", "return", "95%", "minus bare", "95%", "length", "promised", "realised"):
        shown.add_column(heading)
    for key, cell in cells.items():
        if key.startswith("returns"):
            bare = cells[f"returns|{key.split('|')[1]}|bare"]["returns"]
            apart = mean_and_interval([a - b for a, b in zip(cell["returns"], bare, strict=True)])
            intervals = [f"{one['low']:.4g} to {one['high']:.4g}" for one in (cell, apart)]
            promised = [f"{cell[k]:.4g}" if k in cell else "" for k in ("promised", "realised")]
            paired = ["", ""] if key.endswith("bare") else [f"{apart['mean']:+.4g}", intervals[1]]
            row = [f"{cell['mean']:.4g}", intervals[0], *paired, f"{cell['length']:.0f}", *promised]
            shown.add_row(key.removeprefix("returns|"), *row)
    console.print(shown)


if __name__ == "__main__":
    sys.exit(main())
