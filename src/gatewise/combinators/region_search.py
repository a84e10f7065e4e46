"""What the searches from linear region to linear region share: a warm start, and the points that are kept."""

from __future__ import annotations

import abc
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gatewise.combinators.region_programs import RegionPrograms, Shortest, to_boundary
from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.methods.decoupled_direction_norm import DecoupledDirectionNorm
from gatewise.methods.fast_minimum_norm import FastMinimumNorm
from gatewise.objectives import Margin, MarginTo
from gatewise.problem import Best, Iterate, Problem


@dataclass(frozen=True, kw_only=True)
class RegionSearch(Method):
    """A warm start, then nearest points region by region.

    For a `Distance` as objective, a margin as goal and a box.
    """

    first: Method | None = None
    """What the search starts from; None: a hundred steps of ddn, or of fmn where the norm is not the 2-norm."""
    rivals: int | None = None
    """How many classes are aimed at: the warm start's, then those with the largest logits there; None: all, but the
    warm start's alone where a region has too many faces to be written out.
    """
    kept: int = 10
    """How many points are kept to go on from."""
    slack: float = 1.2
    """Points up to so many best distances away are kept."""

    def __post_init__(self):
        require_positive(rivals=self.rivals, kept=self.kept, slack=self.slack)
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Warm start, boundary, then region by region."""
        search = Search(self, problem, start)
        yield from search.warm_start()
        yield from self.explore(search)

    @abc.abstractmethod
    def explore(self, search: Search) -> Steps:
        """Choose points, and let `search.solve` solve their regions."""


class Search:
    """The best point of each row, and the solutions that are kept, the nearest first."""

    def __init__(self, settings: RegionSearch, problem: Problem, start: Start):
        self.settings, self.problem, self.start = settings, problem, start
        self.programs = RegionPrograms(problem, start)
        self.origin = self.programs.origin
        self.best = Best.none_yet(start.points)
        self.kept: list[list[Shortest]] = [[] for _ in start.points]

    def warm_start(self) -> Steps:
        """Let another method find a point of any class, then one of each rival, for half of the budget; bring them to
        the boundary, and solve the regions there.
        """
        found, goal, share = [self.origin], self.programs.boundary, 0.25 * (self.start.budget or 0)
        yield from self._edge(self.problem, share, found)
        aims = self.programs.aim(found[-1], self.settings.rivals)
        for targets in aims.unbind(1)[1:]:
            assert isinstance(goal, Margin)
            aimed = replace(self.problem, goal=MarginTo(goal.labels, targets))
            yield from self._edge(aimed, share / (aims.shape[1] - 1), found)
        rows = torch.arange(len(self.origin), device=self.origin.device).repeat(len(found))
        yield from self.solve(rows, torch.cat(found))

    def _edge(self, aimed: Problem, budget: float, found: list[Tensor]) -> Steps:
        """Add the point on the boundary that the warm start finds; a budget is only heeded where there is one."""
        start = self.start if self.start.budget is None else replace(self.start, budget=max(1, int(budget)))
        usual = DecoupledDirectionNorm if self.programs.p == 2 else FastMinimumNorm
        nearest = Best.none_yet(self.start.points)
        for iterate in (self.settings.first or usual(steps=100)).iterate(aimed, start):
            value, _ = nearest.take(aimed, iterate)
            yield replace(iterate, value=value)
        found.append(to_boundary(aimed, self.origin, nearest))
        yield self._taken(Iterate(found[-1]))

    def solve(self, rows: Tensor, points: Tensor) -> Steps:
        """Solve the regions of `points` (k, …) that are new to their `rows` (k,): a solution is kept where it is near
        enough, told where it is the nearest.
        """
        edges = self.problem.domain.bounds(self.origin)
        low, high = (edge[rows] if edge.shape == self.origin.shape else edge for edge in edges)
        unseen = self.programs.unseen(rows, points.clamp(low, high))
        yield Iterate(self.best.x, ahead=self.programs.price(unseen))
        wanted = np.array([self._wanted(row) for row in range(len(self.origin))])
        found = self.programs.solve(unseen, wanted, keep=self.settings.slack)
        for iterate in self.programs.confirmed([one for one in found if one.distance < self.reach(one.row)]):
            yield self._taken(iterate)
        for one in found:
            if one.distance < self._wanted(one.row):
                kept = sorted([*self.kept[one.row], one], key=lambda one: one.distance)
                self.kept[one.row] = kept[: self.settings.kept]

    def reach(self, row: int) -> float:
        """The best distance; how far the box reaches before there is one."""
        if bool(self.best.goal_met[row]):
            return float(self.best.value[row])
        return float(np.linalg.norm(np.maximum(-self.programs.lower[row], self.programs.upper[row]), self.programs.p))

    def _taken(self, iterate: Iterate) -> Iterate:
        value, _ = self.best.take(self.problem, iterate)
        return replace(iterate, value=value)

    def _wanted(self, row: int) -> float:
        """Below which distance a point is the best one, or is kept."""
        full = len(self.kept[row]) == self.settings.kept
        worst = self.kept[row][-1].distance if full else np.inf
        reach = self.reach(row)
        return max(reach, min(self.settings.slack * reach, worst))
