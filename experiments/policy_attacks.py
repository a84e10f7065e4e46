"""Attacks on policies that see images: FruitBot and CoinRun of Procgen, as in Fig. 3(c) of Yu & Gao (ICML 2024).

The policies are those of `procgen_policies.py`, and take the likeliest action. Each of the 50 levels they were trained
on is played once a cell, so that episodes are paired; an episode is left after 200 steps, whoever plays. A method
raises the cross-entropy of the action that the policy would take, with at most 27 forward and backward passes a step,
counted alike, and stops as soon as the policy would take another one; "to the end" it does not.

Run by: OMP_NUM_THREADS=1 .venv-procgen/bin/python experiments/policy_attacks.py
    --out benchmarks/results/policy_attacks.json [--games fruitbot,coinrun] [--pictures docs/policy-attacks] [--quick]
What the file has already of the same weights is not run again. The last line printed is one JSON object; the exit
code is 1 where an expected figure is missed.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from expectations import check, verdict
from rich import box
from rich.console import Console
from rich.table import Table

from gatewise.agents.environments import Actor, make_environment, play
from gatewise.agents.policies import Policy, read_policy
from gatewise.applications.policy_attack import PolicyAttack, attacked, scene, unattacked
from gatewise.catalogue import method_named
from gatewise.report.folder import replace_json
from gatewise.report.learning_curves import mean_and_interval
from gatewise.report.play import Scene, draw_strip, write_gif
from gatewise.report.progress import progress_bar

NAME = "policy_attacks"
Cells = Iterator[tuple[str, Callable[[], dict[str, Any]]]]
WEIGHTS = Path(__file__).with_name("weights")
GAMES = ("fruitbot", "coinrun")
RADII = {"3/255": 3 / 255, "5/255": 5 / 255}
# Backward passes such that forward and backward passes come to 27 a step at most.
METHODS: dict[str, tuple[str | None, int]] = {
    "random": (None, 0),
    "fgsm": ("fgsm", 1),
    "pgd": ("pgd", 13),
    "adr-gd": ("adr-gd:preset=policy-attack", 8),
    "adr-gd, gates alone pay": ("adr-gd:preset=policy-attack,penalty_moves_input=false", 8),
    "gate-annealing": ("gate-annealing:refresh=4", 12),
}
TO_THE_END = ", to the end"  # does not stop at the first change of action: all passes go into raising the loss
ASKED = (
    "random", "fgsm", "pgd", "gate-annealing", "adr-gd", "adr-gd, gates alone pay",
    *(f"{method}{TO_THE_END}" for method in ("pgd", "gate-annealing", "adr-gd, gates alone pay", "adr-gd")),
)  # fmt: skip
EPISODES, STEPS = 50, 200
SHOWN = "5/255"  # the radius of the pictures


def environment_of(game: str) -> str:
    return f"procgen:{game}?levels={EPISODES}"


def weights_of(game: str) -> Path:
    return WEIGHTS / f"procgen_{game}.safetensors"


def digest_of(game: str) -> str:
    return hashlib.sha256(weights_of(game).read_bytes()).hexdigest()[:16]


def policy_of(game: str) -> Policy:
    return read_policy("zoo:procgen-impala", make_environment(environment_of(game)), str(weights_of(game)))


def attack_on(policy: Policy, radius: float, method: str) -> PolicyAttack:
    name, budget = METHODS[method.removesuffix(TO_THE_END)]
    found = None if name is None else method_named(name)
    full = method.endswith(TO_THE_END)
    return PolicyAttack(policy, found, radius, "ce", bounds=(0.0, 1.0), budget=budget, full_budget=full)


def random_play() -> Actor:
    """Any action with the same chance."""
    draws = np.random.default_rng(0)
    return lambda observations, _: draws.integers(15, size=len(observations))


def played(game: str, act: Actor, episodes: int, steps: int) -> dict[str, Any]:
    """The returns of some episodes, and their lengths."""
    began = time.process_time()
    rewards = play(environment_of(game), act, episodes, 0, at_once=episodes, most=steps)
    returns, total = [sum(one) for one in rewards], sum(map(len, rewards))
    told = {"returns": returns, "lengths": [*map(len, rewards)]} | mean_and_interval(returns)
    return told | {"steps": total, "cpu_seconds_per_step": (time.process_time() - began) / total}


def cell_of(game: str, policy: Policy, radius: float, method: str, episodes: int, steps: int) -> dict[str, Any]:
    """Episodes under an attack, and what it did."""
    attack = attack_on(policy, radius, method)
    told = played(game, attacked(attack, episodes), episodes, steps)
    return told | {
        "changed": math.fsum(attack.changed) / told["steps"],
        "forwards_per_step": attack.forwards / told["steps"],
        "backwards_per_step": attack.backwards / told["steps"],
    }


def cells_of(policies: dict[str, Policy], episodes: int, steps: int) -> Cells:
    """Clean and random play, then every method on both games at both radii: what is measured, and how."""
    for game, policy in policies.items():
        yield f"{game}|none", partial(played, game, unattacked(policy), episodes, steps)
        yield f"{game}|random play", partial(played, game, random_play(), episodes, steps)
    for method, (game, policy), (label, radius) in itertools.product(ASKED, policies.items(), RADII.items()):
        yield f"{game}|{label}|{method}", partial(cell_of, game, policy, radius, method, episodes, steps)


def differences(cells: dict[str, Any]) -> dict[str, dict[str, float | None]]:
    """By attacked cell: its return minus that of `pgd` at the same radius and stopped alike, level by level."""
    told = {}
    for key, cell in cells.items():
        game, _, rest = key.partition("|")
        end = TO_THE_END if key.endswith(TO_THE_END) else ""
        rival = cells.get(f"{game}|{rest.partition('|')[0]}|pgd{end}")
        if rival is not None and cell is not rival:
            told[key] = mean_and_interval([a - b for a, b in zip(cell["returns"], rival["returns"], strict=True)])
    return told


def pictured(game: str, policy: Policy, method: str | None, level: int, steps: int) -> Scene:
    """An episode, drawn."""
    act = unattacked(policy) if method is None else attacked(attack_on(policy, RADII[SHOWN], method), EPISODES)
    return scene(environment_of(game), act, level, steps, method or "none")


def draw(game: str, folder: Path, level: int, steps: int) -> None:
    """A strip and a moving picture of clean play and of three attacks."""
    folder.mkdir(parents=True, exist_ok=True)
    policy = policy_of(game)
    scenes = [pictured(game, policy, method, level, steps) for method in (None, "pgd", "adr-gd", "gate-annealing")]
    draw_strip(folder / f"{game}.png", scenes)
    every = max(1, max(len(scene.frames) for scene in scenes) // 20)
    write_gif(folder / f"{game}.gif", scenes, height=128, every=every, seconds_per_frame=0.3)


def figures(cells: dict[str, Any]) -> dict[str, float]:
    """Means by cell; what an attack leaves less than `pgd`, and the policy more than random play; changed actions."""
    told = {key: cell["mean"] for key, cell in cells.items()}
    told |= {f"{key}|minus pgd": one["mean"] for key, one in differences(cells).items()}
    for key, cell in cells.items():
        game, _, rest = key.partition("|")
        told |= {f"{key}|changed": cell["changed"]} if "changed" in cell else {}
        if rest != "none" and f"{game}|none" in cells:
            told[f"{key}|below none"] = cells[f"{game}|none"]["mean"] - cell["mean"]
    return told


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file that the results are put into")
    parser.add_argument("--games", default=",".join(GAMES))
    parser.add_argument("--pictures", type=Path, help="folder for GAME.png and GAME.gif")
    parser.add_argument("--quick", action="store_true", help="two episodes of ten steps")
    asked = parser.parse_args()
    content: dict[str, Any] = json.loads(asked.out.read_text()) if asked.out and asked.out.is_file() else {}
    digests = {game: digest_of(game) for game in GAMES}
    known: dict[str, Any] = content.get(NAME, {})
    cells = {key: cell for key, cell in known.items() if cell["weights"] == digests[key.partition("|")[0]]}
    episodes, steps = (2, 10) if asked.quick else (EPISODES, STEPS)
    games = asked.games.split(",")
    policies = {game: policy_of(game) for game in games}
    wanted = dict(cells_of(policies, episodes, steps))
    with progress_bar() as bar:
        task = bar.add_task("", total=len(wanted))
        for key, make in wanted.items():
            bar.update(task, description=key)
            if key not in cells:
                cells[key] = make() | {"weights": digests[key.partition("|")[0]]}
                told = {name: value for name, value in cells[key].items() if name not in ("returns", "lengths")}
                print(key, json.dumps(told), file=sys.stderr, flush=True)
                if asked.out is not None:
                    replace_json(asked.out, content | {NAME: cells})
            bar.advance(task)
    for game in games if asked.pictures is not None else ():
        clean, attacked_by_pgd = (cells[f"{game}|{key}"]["returns"] for key in ("none", f"{SHOWN}|pgd"))
        lost = [a - b for a, b in zip(clean, attacked_by_pgd, strict=True)]
        draw(game, asked.pictures, lost.index(max(lost)), steps)  # the level where pgd takes most
    Console(stderr=True, width=120).print(shown(cells), highlight=False)
    measured = figures(cells)
    print(json.dumps(measured))
    return verdict(NAME, check(NAME, measured, table="quick" if asked.quick else "figures", part=True))


def shown(cells: dict[str, Any]) -> Table:
    """All cells as a table."""
    table = Table(
        title="mean returns, differences from pgd level by level, and their 95% intervals", box=box.SIMPLE_HEAD
    )
    table.add_column("game, radius, attack")
    for heading in ("return", "interval", "minus pgd", "interval", "changed", "passes", "cpu s"):
        table.add_column(heading, justify="right")
    beside = differences(cells)
    for key, cell in sorted(cells.items(), key=lambda one: one[0].split("|")[:2]):
        row = [key.replace("|", ", "), f"{cell['mean']:.2f}", f"{cell['low']:.2f} to {cell['high']:.2f}"]
        other = beside.get(key)
        row += ["", ""] if other is None else [f"{other['mean']:+.2f}", f"{other['low']:+.2f} to {other['high']:+.2f}"]
        if "changed" in cell:
            row += [f"{cell['changed']:.1%}", f"{cell['forwards_per_step'] + cell['backwards_per_step']:.1f}"]
            row += [f"{cell['cpu_seconds_per_step']:.3f}"]
        table.add_row(*row)
    return table


if __name__ == "__main__":
    sys.exit(main())
