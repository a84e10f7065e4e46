"""What a method does on its way: every point that it visits, and what happens to the gates between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.methods.base import Method, Start, Steps
from gatewise.network import NetworkView, PlanarRegions, crossings
from gatewise.problem import Iterate, Problem
from gatewise.report.landscape_scene import Trajectory
from gatewise.solve import minimize, never

_BLOCK = 2**23  # pre-activations at a time


def follow(
    problem: Problem,
    method: Method,
    start: Tensor,
    *,
    budget: int | None = None,
    seed: int = 0,
    regions: PlanarRegions | None = None,
) -> Trajectory:
    """Run a method from one point and keep all that it visits.

    The goal ends nothing: the method goes on until its budget is spent.

    Args:
        problem: network, domain and objective.
        method: any method or combinator.
        start: (1, …) float64.
        budget: backward passes; None leaves it to the method.
        seed: of the random streams.
        regions: the network's regions in a square that holds the walk, where it has two inputs: then crossings are
            counted there, which costs no pass.

    Raises:
        InvalidInput: not one row, or not float64: in float32 thin regions fall between two numbers.
    """
    if len(start) != 1 or start.dtype != torch.float64:
        raise InvalidInput(f"A trajectory is that of one float64 point, not of {len(start)} of {start.dtype}.")
    network, meter = problem.network, problem.network.meter
    visited: list[tuple[Tensor, int, float, float]] = []
    before, began = meter.backwards, time.perf_counter()

    def note(iterate: Iterate) -> None:
        told = iterate.diagnostics.get("agreement")
        agreement = float("nan") if told is None else told.item()
        visited.append((iterate.x.clone(), meter.backwards - before, time.perf_counter() - began, agreement))

    minimize(problem, _Watched(member=method, note=note), start, budget=budget, seed=seed, stop=never, progress=False)
    points, backwards, seconds, agreement = zip(*visited, strict=True)
    path = torch.cat(points)
    values, flips = _at(network, problem, path)
    if regions is None:
        crossed = np.array([0, *(len(crossings(network, here[None], there[None])) for here, there in pairwise(path))])
    else:
        crossed = regions.crossed(path.flatten(1).cpu().numpy())
    return Trajectory(
        path.cpu().numpy(), values, np.array(backwards), np.array(seconds), flips, crossed, np.array(agreement)
    )


@dataclass(frozen=True, kw_only=True)
class _Watched(Method):
    """A method that shows each point before it hands it on."""

    name: ClassVar[str] = "watched"

    member: Method
    note: Callable[[Iterate], None]

    @property
    def backwards_per_step(self) -> int:
        return self.member.backwards_per_step

    def iterate(self, problem: Problem, start: Start) -> Steps:
        for iterate in self.member.iterate(problem, start):
            self.note(iterate)
            yield iterate


def _at(network: NetworkView, problem: Problem, path: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The objective at each point of a path (steps, …), and how many gates switched on the way there."""
    with torch.no_grad():
        first = network.trace(path[:1])
        size = sum(h.numel() for h in first.preactivations)
        values, flips, last = [], [], first.pattern()
        for some in path.split(max(1, _BLOCK // max(1, size))):
            run = network.trace(some)
            rows = torch.zeros(len(some), dtype=torch.int64, device=path.device)
            patterns = run.pattern()
            for before, here in zip(last, patterns, strict=True):
                rows += (here != torch.cat([before, here[:-1]])).flatten(1).sum(1)
            last = [here[-1:] for here in patterns]
            values += [problem.measure(point[None], y[None]) for point, y in zip(some, run.output, strict=True)]
            flips.append(rows)
    return torch.cat(values).double().cpu().numpy(), torch.cat(flips).cpu().numpy()
