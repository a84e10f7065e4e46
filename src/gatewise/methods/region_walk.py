"""Region walking: the best point of a linear region by a linear program, then a step beyond the faces that hold it.

Inside its linear region the network is affine, so the objective's linear form has a best point there, which lies on
faces of the region. Their multipliers say what each costs. Steps beyond the dearest one, two, four, … of them, each
along its own normal, are tried on the true network; the best point found is the next centre.

Source: Croce & Hein, "A randomized gradient-free attack on ReLU networks" (GCPR 2018, arXiv:1811.11493), section 2, for
programs on linear regions.

Deviations: (1) The way to the next region is across the faces that the program touches, not at random. (2) The faces
nearest to x are listed, by distances estimated without a matrix; where one that was not listed is passed, the true
network still judges. (3) An objective that is not linear in the network's output is taken by its gradient.

Legend: N = the faces' normals, `N (z - x) + slack >= 0`; reach = estimated linf distance of a face, `slack / ||N||_1`,
with `||N||_1` taken as that of a normal vector of norm `||N||_2`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gatewise.geometry import per_row
from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.network.region import LinearRegion
from gatewise.problem import Iterate, Problem

_SAMPLES = 8  # of ||N||^2
_BEYOND = (1e-3, 1e-2, 1e-1)  # how far beyond the faces the steps go, in trust radii


@dataclass(frozen=True, kw_only=True)
class RegionWalk(Method):
    """From the best point of a linear region to the next region, row by row."""

    name: ClassVar[str] = "region-walk"

    faces: int = 200
    """How many faces a program lists. Each costs a backward pass, and the objective one more: a budget below that
    takes fewer.
    """
    radius: float = 0.2
    """Half the trust region's edge at first, in units of the set's size; it grows and falls with what comes of it."""
    steps: int | None = None
    """Regions a row; None: as many as the budget pays for, or until no step is left that gains."""

    def __post_init__(self):
        require_positive(faces=self.faces, radius=self.radius, steps=self.steps)
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """The program's point, then the steps beyond it; the best of them is the next centre."""
        network, domain, x = problem.network, problem.domain, start.points
        lower, upper = (edge.expand_as(x) for edge in domain.bounds(x))
        size = domain.size(x)
        radius = self.radius * size
        most = self.faces if start.budget is None else min(self.faces, start.budget - 1)
        for _ in range(start.steps(self.steps, cost=most + 1)):
            here = problem.at(x)
            assert here.value is not None
            yield Iterate(x, here.value, here.output, ahead=(most + 1) * len(x))
            walking = radius >= 1e-3 * size
            if problem.goal is not None and here.output is not None:
                walking = walking & (problem.goal(x, here.output) > 0)
            if not bool(walking.any()):
                return
            slope, region = here.gradient(), network.region(x)
            faces = self._nearest(region, start, most)
            room = per_row(radius, x)
            low, high = torch.maximum(lower, x - room) - x, torch.minimum(upper, x + room) - x
            normals = region.normals(faces)
            network.meter.tell((slope != 0).flatten(1).any(1))  # the normals' gradients are not the objective's
            way, prices = _best_ways(slope, normals, region.slacks(x).gather(1, faces), low, high, walking)
            corner = domain.project(x + way)
            best = _judged(problem, corner)
            yield best
            for dearest in _dearest(prices):
                across = domain.steepest(-(dearest[:, None] @ normals)[:, 0].view_as(x))  # 0 where the row stays
                for beyond in _BEYOND:
                    tried = _judged(problem, domain.project(corner + beyond * room * across))
                    yield tried
                    best = _better(best, tried)
            assert best.value is not None
            gains = walking & (best.value < here.value)
            x = torch.where(per_row(gains, x), best.x, x)
            radius = torch.where(gains, torch.minimum(1.5 * radius, size), radius / 2)
        yield problem.at(x)

    def _nearest(self, region: LinearRegion, start: Start, most: int) -> Tensor:
        """The faces within least reach, (batch, k) int64."""
        x = region.point
        draws = [region.push_faces(start.streams.normal(x)).square() for _ in range(_SAMPLES)]
        norms = torch.stack(draws).mean(0).sqrt() * math.sqrt(2 / math.pi * x[0].numel())
        reach = torch.where(norms > 0, region.slacks(x) / norms, torch.inf)
        return reach.argsort(dim=1, stable=True)[:, :most]


def _judged(problem: Problem, x: Tensor) -> Iterate:
    with torch.no_grad():
        output = problem.network(x)
        return Iterate(x, problem.measure(x, output), output)


def _better(first: Iterate, second: Iterate) -> Iterate:
    assert first.value is not None
    assert second.value is not None
    wins = second.value < first.value
    return Iterate(torch.where(per_row(wins, first.x), second.x, first.x), torch.minimum(first.value, second.value))


def _best_ways(
    slope: Tensor, normals: Tensor, slacks: Tensor, low: Tensor, high: Tensor, walking: Tensor
) -> tuple[Tensor, Tensor]:
    """For each row the way d of least `<slope, d>` with `normals d + slacks >= 0` and `low <= d <= high`, and what a
    unit of each slack is worth there, (batch, k), at least 0; zeros for rows that are not `walking`.
    """
    from scipy.optimize import linprog

    ways, prices = torch.zeros_like(slope), torch.zeros_like(slacks)
    for r in walking.nonzero().flatten().tolist():
        c, A, b, least, most = (t[r].double().cpu().numpy() for t in (slope, normals, slacks, low, high))
        scale = np.abs(c).max() or 1.0  # the solver's tolerances are absolute
        unit = np.maximum(np.linalg.norm(A, axis=1), 1e-300)
        edges = np.stack([least.ravel(), most.ravel()], 1)
        found = linprog(c.ravel() / scale, -A / unit[:, None], np.maximum(b, 0) / unit, bounds=edges, method="highs")
        if found.x is not None:  # d = 0 is feasible, so that only rounding or a limit leaves nothing
            ways[r] = torch.from_numpy(found.x).to(slope).view_as(ways[r])
            prices[r] = torch.from_numpy(-found.ineqlin.marginals * scale / unit).to(slope)
    return ways, prices


def _dearest(prices: Tensor) -> Iterator[Tensor]:
    """The prices of the 1, 2, 4, … dearest faces, and 0 elsewhere, up to all that cost something."""
    ranks = prices.argsort(dim=1, descending=True, stable=True).argsort(dim=1, stable=True)
    count, most = 1, int((prices > 0).sum(1).max()) if prices.numel() else 0
    while count < 2 * most:
        yield prices.where(ranks < count, 0)
        count *= 2
