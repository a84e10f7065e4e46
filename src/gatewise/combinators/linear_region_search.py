"""rLR-QP: the nearest adversarial point by programs on linear regions, drawn at random around the best points so far.

Source: Croce & Hein, "A randomized gradient-free attack on ReLU networks" (GCPR 2018, arXiv:1811.11493), Algorithm 1.

Deviations: (1) The warm start is any method, aimed at one class after the other where the goal is a `Margin`; what it
finds is brought to the boundary by binary search, and the regions of all these points are solved first. (2) Radii are
`radius_factor` times the paper's, whose draws see about eleven regions in all; there are four phases, not three, and
points are kept up to 1.2 best distances away, not 1.5. (3) `kept` begins with the different points that the warm start
found, not with copies of the best. (4) The classes' programs of a region share its faces and end as soon as a bound
says that they cannot be kept. (5) The draws are in the problem's norm; 1 and infinity go by linear programs. (6) All
rows of a batch are searched together.

Legend: u = the best distance; kept = the paper's S, of n1 points; exploring, points, phases = n3, n2, n4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from gatewise.combinators.region_search import RegionSearch, Search
from gatewise.geometry import row_norm
from gatewise.methods.base import Steps, require_positive


@dataclass(frozen=True, kw_only=True)
class LinearRegionSearch(RegionSearch):
    """Nearest points of linear regions that are drawn around the best points so far.

    For a `Distance` as objective, a margin as goal and a box.
    """

    name: ClassVar[str] = "rlr-qp"

    points: int = 10
    """Points drawn around each that is kept."""
    exploring: int = 5
    """Rounds of exploration in each phase, before a round around the best point."""
    phases: int = 4
    """Phases, each with a smaller radius than the one before."""
    radius_factor: float = 3.0
    """Radius of the draws in the first phase, in best distances; 1 in the paper."""

    def __post_init__(self):
        require_positive(points=self.points, phases=self.phases, radius_factor=self.radius_factor)
        super().__post_init__()

    def explore(self, search: Search) -> Steps:
        """Draw around the points that are kept, then around the best one, closer from phase to phase."""
        for phase in range(1, self.phases + 1):
            for _ in range(self.exploring):
                yield from self._around(search, self.kept, phase)
            yield from self._around(search, 1, phase)

    def _around(self, search: Search, centers: int, phase: int) -> Steps:
        """Draw points around the best so many that are kept, and solve the regions that are new."""
        like, rows, points = search.origin, [], []
        for row, kept in enumerate(search.kept):
            ways = [one.way for one in kept[:centers]] or [np.zeros(like[row].numel())]
            middle = like[row].flatten() + torch.from_numpy(np.stack(ways)).to(like)
            size = (len(ways), self.points, like[row].numel())
            # Draws in float32 take a quarter of the time, and a direction needs no more digits.
            drawn = search.start.streams.normal_row(row, math.prod(size), like.float()).to(like).view(-1, size[2])
            far = search.start.streams.uniform_row(row, len(drawn), like)
            radius = self.radius_factor * search.reach(row) / phase
            drawn *= (radius * far / row_norm(drawn, search.programs.p))[:, None]
            drawn.view(size).add_(middle[:, None])
            points.append(drawn)
            rows += [row] * len(drawn)
        yield from search.solve(torch.tensor(rows, device=like.device), torch.cat(points).view(-1, *like.shape[1:]))
