"""A grid of attacks on classifiers, cell by cell: what the attack experiments share.

A cell is one network, aim, radius, set, loss, budget and attack, run on the images that the network classifies right,
to the end of its budget (`full_budget`: no stop at the first success), so that objective values can be compared.
The figures of a cell:

    success             share of rows misclassified (untargeted) or classified as the target (targeted)
    objective           mean over rows of the cross-entropy to the label, or minus that to the target: the paper's
                        Fig. 3(b), whatever loss the attack itself followed
    outside             share of pixels outside [0, 1] (0 inside the box)
    clipped_success     success of the returned images after they are clipped to [0, 1]

Cells that are in the file `--out` already are not run again, so a long grid can be run in pieces with `--seconds`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from expectations import check, verdict
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import gatewise as gw
from gatewise.objectives import CrossEntropy, Margin, TargetedMargin

SETS = {"box": (0.0, 1.0), "unclipped": None}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One attack on one network; `radius` as people write it (8/255), `attack` the label, `method` what is run."""

    network: str
    aim: str
    radius: str
    bounds: str
    loss: str
    budget: int
    attack: str
    method: str

    @property
    def key(self) -> str:
        """The cell's name in the results and in the expected figures."""
        return "|".join([self.network, self.radius, self.aim, *self.column, self.attack])

    @property
    def column(self) -> tuple[str, str, str]:
        """Set, loss and budget: where the table shows it."""
        return self.bounds, self.loss, str(self.budget)


# Network, radius, set, loss, budget.
Column = tuple[str, str, str, str, int]


def grid(columns: Iterable[Column], attacks: Callable[[str, str, str], dict[str, str]]) -> Iterator[Cell]:
    """The cells of a grid: each column untargeted and targeted, by every attack that `attacks(network, radius, aim)`
    names (label to method).
    """
    for network, radius, bounds, loss, budget in columns:
        for aim in ("untargeted", "targeted"):
            for attack, method in attacks(network, radius, aim).items():
                yield Cell(
                    network=network,
                    aim=aim,
                    radius=radius,
                    bounds=bounds,
                    loss=loss,
                    budget=budget,
                    attack=attack,
                    method=method,
                )


@dataclass(frozen=True, eq=False)
class Victim:
    """A network and images (rows, …) in [0, 1] that it classifies as their labels (rows,)."""

    module: nn.Module
    images: Tensor
    labels: Tensor
    index: list[int]


def victim(module: nn.Module, images: Tensor, labels: Tensor, index: Tensor, count: int) -> Victim:
    """The first `count` images that the network classifies right."""
    with torch.no_grad():
        right = torch.cat([module(piece).argmax(1) for piece in images.split(50)]) == labels
    rows = right.nonzero().flatten()[:count]
    return Victim(module, images[rows], labels[rows], index[rows].tolist())


def arguments(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a few images and backward passes, for CI")
    parser.add_argument("--count", type=int, help="images classified right (else the published number)")
    parser.add_argument("--batch", type=int, default=100, help="images attacked together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, help="begin no cell after so long; --out keeps those that are done")
    parser.add_argument("--only", default="", help="words that a cell's name must contain, with commas between them")
    parser.add_argument("--out", type=Path, help="JSON file, written after every cell; cells in it are not run again")
    return parser


def run_grid(
    name: str, cells: Iterable[Cell], victims: Callable[[str, int | None], Victim], given: argparse.Namespace
) -> int:
    """Run the cells, print tables and the JSON line, compare with `expected/NAME.toml`; returns the exit code.

    `victims` opens a network by name with so many images (None: its usual number).
    """
    done: dict[str, Any] = {}
    if given.out and given.out.is_file():
        done = json.loads(given.out.read_text())["cells"]
    opened: dict[str, Victim] = {}
    began, left = time.perf_counter(), 0
    words = [word for word in given.only.split(",") if word]
    for cell in cells:
        if cell.key in done or any(word not in cell.key for word in words):
            continue
        if given.seconds is not None and time.perf_counter() - began > given.seconds:
            left += 1
            continue
        if cell.network not in opened:
            opened[cell.network] = victims(cell.network, given.count)
        done[cell.key] = run_cell(cell, opened[cell.network], given.batch, given.seed)
        print(f"{cell.key}: {list(done[cell.key].values())}", file=sys.stderr, flush=True)
        if given.out:
            given.out.write_text(json.dumps(_told(done, given.seed), indent=1) + "\n")
    print_tables(done)
    if left:
        print(f"{left} cells are left; run the same command again.")
    if given.count is not None and not given.quick:
        code = 0
        print("Not compared with the expected figures, which are for the default images.")
    else:
        table = "quick" if given.quick else "figures"
        code = verdict(name, check(name, flat(done), table=table, part=not given.quick))
    print(json.dumps(_told(done, given.seed)))
    return code


def run_cell(cell: Cell, victim: Victim, batch: int, seed: int) -> dict[str, float | int]:
    labels = victim.labels
    with torch.no_grad():
        classes = victim.module(victim.images[:1]).shape[1]
    targets = (labels + 1) % classes if cell.aim == "targeted" else None
    found, seconds, backwards = [], 0.0, 0.0
    for rows in torch.arange(len(labels)).split(batch):
        result = gw.attack(
            victim.module,
            victim.images[rows],
            labels[rows],
            radius=fraction(cell.radius),
            method=cell.method,
            loss=cell.loss,
            targets=None if targets is None else targets[rows],
            bounds=SETS[cell.bounds],
            budget=cell.budget,
            full_budget=True,
            seed=seed,
            rows=[victim.index[row] for row in rows.tolist()],
            progress=False,
        )
        found.append(result.x)
        seconds += result.seconds
        backwards += result.backwards_per_row * len(rows) / len(labels)
    points = torch.cat(found)
    success, objective = judged(victim.module, points, labels, targets, batch)
    clipped, _ = judged(victim.module, points.clamp(0, 1), labels, targets, batch)
    return {
        "rows": len(labels),
        "success": round(success, 4),
        "objective": round(objective, 4),
        "outside": round(((points < 0) | (points > 1)).double().mean().item(), 4),
        "clipped_success": round(clipped, 4),
        "backwards": round(backwards, 1),
        "seconds": round(seconds, 1),
    }


def judged(
    module: nn.Module, points: Tensor, labels: Tensor, targets: Tensor | None, batch: int
) -> tuple[float, float]:
    """Success and the paper's objective at `points`, by plain passes."""
    with torch.no_grad():
        logits = torch.cat([module(piece) for piece in points.split(batch)])
    if targets is None:
        met, objective = Margin(labels)(points, logits) <= 0, CrossEntropy(labels)(points, logits)
    else:
        met, objective = TargetedMargin(targets)(points, logits) <= 0, -CrossEntropy(targets)(points, logits)
    return met.double().mean().item(), objective.double().mean().item()


def fraction(text: str) -> float:
    above, _, below = text.partition("/")
    return float(above) / float(below or 1)


def flat(done: dict[str, Any]) -> dict[str, float]:
    """What is compared with the expected figures: success and objective of every cell."""
    return {f"{key}|{figure}": entry[figure] for key, entry in done.items() for figure in ("success", "objective")}


def print_tables(done: dict[str, Any]) -> None:
    """One table a network, radius and aim: attacks down, sets x losses x budgets across."""
    tables: dict[tuple[str, ...], dict[str, dict[tuple[str, ...], str]]] = {}
    for key, entry in done.items():
        network, radius, aim, bounds, loss, budget, attack = key.split("|")
        said = f"{entry['success']:.0%} {entry['objective']:.3g}"
        if bounds == "unclipped":
            said += f" ({entry['clipped_success']:.0%}; {entry['outside']:.0%})"
        title = (network, f"linf {radius}", aim, f"{entry['rows']} images")
        line = tables.setdefault(title, {}).setdefault(attack, {})
        line[bounds, loss, budget] = said
    console = Console(width=150)
    for title, lines in tables.items():
        columns = sorted({column for line in lines.values() for column in line}, key=lambda c: (c[0], c[1], int(c[2])))
        table = Table(title=" · ".join(title), title_justify="left", box=box.SIMPLE_HEAD, show_edge=False)
        table.add_column("attack", no_wrap=True)
        for bounds, loss, budget in columns:
            table.add_column(f"{bounds}, {loss}\n{budget} backward", justify="right")
        for attack, line in lines.items():
            table.add_row(attack, *(line.get(column, "—") for column in columns))
        console.print(table)
    console.print(
        "success and mean objective; unclipped: also (success after clipping; share of pixels outside [0, 1])"
    )


def _told(done: dict[str, Any], seed: int) -> dict[str, Any]:
    machine = f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    return {"seed": seed, "machine": machine, "cells": done}
