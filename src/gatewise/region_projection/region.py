"""What the searches of all norms share: which faces a point violates most, and whether it is certified."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np

from gatewise.region_projection.statement import Asking, Excess, Faces, Listed, Outcome, Projection, Rows

_NEAR = 64  # faces that are looked at before all others
_ADDED = 24  # rows that are added at least, if there are as many
_PRECISION = 1e-10  # that is asked of d, by its size
_CERTIFIED = 1e-8  # residual and gap that a solution may have, by its size


class Region:
    """All targets of one region: what they share."""

    rounds: ClassVar[int] = 200
    """How often rows are added, at most."""

    def __init__(self, faces: Listed, rows, limits, lower, upper, p: float):
        self.faces, self.rows, self.limits, self.lower, self.upper, self.p = faces, rows, limits, lower, upper, p
        self.reach = self.norm(np.maximum(-lower, upper))
        self.near: Faces | None = None
        self.near_index = np.empty(0, dtype=int)

    def norm(self, d: np.ndarray) -> float:
        """`||d||_p`."""
        if self.p == 2:
            return math.sqrt(d @ d)
        return float(np.abs(d).sum() if self.p == 1 else np.abs(d).max(initial=0))

    def tolerance(self, d: np.ndarray) -> float:
        """By how much `d` may lie beyond a face and count as inside."""
        return _PRECISION * self.norm(d) + 1e-14 * self.reach

    def violated(self, d: np.ndarray, known: np.ndarray) -> Asking[np.ndarray]:
        """The faces that `d` violates most, (k,) indices, without those `known`; none only if it violates none."""
        if self.near is None and len(self.faces.limits) > 2 * _NEAR and not self.faces.dear:
            # A product with all rows is the dearest thing here; the faces nearest to x nearly always show a violation.
            self.near_index = np.argpartition(self.faces.limits, _NEAR)[:_NEAR]
            self.near = Faces((yield Rows(self.near_index)), self.faces.limits[self.near_index])
        fresh = np.ones(len(self.faces.limits), dtype=bool)
        fresh[known] = False
        if self.near is not None:
            worst = _worst(np.where(fresh[self.near_index], self.near.excess(d), 0), self.tolerance(d), len(known))
            if len(worst):
                return self.near_index[worst]
        excess = yield Excess(d)
        return _worst(np.where(fresh, excess, 0), self.tolerance(d), len(known))

    def certified(self, target: int, d, bound: float, index, y, target_y: float) -> Asking[Projection]:
        """The projection to `d`, solved if it keeps its promise."""
        distance = self.norm(d)
        excess = yield Excess(d)
        beyond = max(float(excess.max(initial=0)), float(self.rows[target] @ d - self.limits[target]))
        residual, gap = max(beyond, 0.0), distance - bound
        solved = max(residual, abs(gap)) <= _CERTIFIED * distance + 1e-12 * self.reach
        outcome, positive = Outcome.SOLVED if solved else Outcome.STALLED, y > 0
        return Projection(outcome, bound, d, distance, residual, gap, index[positive], y[positive], target_y)


def _worst(excess: np.ndarray, tolerance: float, known: int) -> np.ndarray:
    found = np.flatnonzero(excess > tolerance)
    most = max(_ADDED, known // 2)
    return found if len(found) <= most else found[np.argpartition(excess[found], -most)[-most:]]
