"""p = 2: semismooth Newton steps on the dual, over a working set of rows."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gatewise.region_projection.region import Region
from gatewise.region_projection.statement import Asking, Outcome, Projection, Rows

_EARLY_STEPS = 2  # Newton steps between additions: a set that still lacks rows is not worth more
_DAMPING = 1e-10  # keeps H invertible where rows repeat; rows have unit norm
_ROUNDING = 4e-15  # of a sum of products, by the sum of their absolute values
_STEPS, _SHORTENINGS = 60, 40


class Euclidean(Region):
    """p = 2, by Newton steps on the dual."""

    def bounds(self, cutoff: float) -> np.ndarray:
        """Lower bounds of the distances to the half-spaces within the box, (targets,)."""
        self.start = np.maximum(-self.limits, 0)
        bounds = self.start.copy()
        left = np.flatnonzero((bounds < cutoff) & (bounds > 0))
        # For one row the dual's slope is convex: Newton steps from the multiplier without a box never overshoot. Each
        # gives a bound; more than three rarely change it.
        for _ in range(3):
            A, b, y = self.rows[left], self.limits[left], self.start[left]
            q = A * -y[:, None]
            d = np.clip(q, self.lower, self.upper)
            value = np.einsum("tn,tn->t", 0.5 * d - q, d) - y * b
            bounds[left] = np.maximum(bounds[left], np.sqrt(np.maximum(value, 0) * (2 - 1e-12)))
            free = np.where(d == q, A, 0)
            self.start[left] += (np.einsum("tn,tn->t", A, d) - b) / (np.einsum("tn,tn->t", free, free) + _DAMPING)
            left = left[bounds[left] < cutoff]
        return bounds

    def solve(self, target: int, cutoff: float) -> Asking[Projection]:
        """The projection for one target, or why there is none nearer than `cutoff`."""
        work = _WorkingSet(self, target, cutoff)
        settled = False
        for _ in range(self.rounds):
            added = yield from work.add_violated()
            if settled and not added:
                break
            ended = work.climb(_EARLY_STEPS if added and not self.faces.dear else _STEPS)
            if ended is not None:
                return Projection(ended, math.inf if ended is Outcome.EMPTY else work.lower_bound())
            settled = not added
        y = work.at.y
        return (yield from self.certified(target, work.at.d, work.lower_bound(), work.index, y[1:], float(y[0])))


class _Iterate(NamedTuple):
    y: np.ndarray
    q: np.ndarray
    d: np.ndarray
    g: np.ndarray
    value: float


class _WorkingSet:
    """The dual of one target's problem over the rows at hand, the target's first, and where it is climbed to."""

    def __init__(self, region: Euclidean, target: int, cutoff: float):
        self.region, self.cutoff = region, cutoff
        self.index = np.empty(0, dtype=int)
        here = slice(target, target + 1)
        self.A, self.b = region.rows[here], region.limits[here]
        self.at = self._evaluate(region.start[here])

    def _evaluate(self, y: np.ndarray) -> _Iterate:
        q = -(y @ self.A)
        d = np.clip(q, self.region.lower, self.region.upper)
        return _Iterate(y, q, d, self.A @ d - self.b, float(0.5 * (d @ d) - q @ d - y @ self.b))

    def lower_bound(self) -> float:
        """Of the distance, less what the dual value may owe to rounding."""
        y, q, d, _, value = self.at
        rounding = _ROUNDING * float(np.abs(q) @ np.abs(d) + y @ np.abs(self.b))
        return math.sqrt(2 * max(value - rounding, 0.0))

    def ended(self) -> Outcome | None:
        """Whether the dual value proves that the distance is no less than the cutoff, or than any in the box."""
        if 2 * self.at.value < min(self.cutoff, self.region.reach) ** 2:
            return None
        bound = self.lower_bound()
        if bound > self.region.reach * (1 + 1e-9):
            return Outcome.EMPTY
        return Outcome.PRUNED if bound >= self.cutoff else None

    def add_violated(self) -> Asking[bool]:
        """Put violated faces in the place of those without a multiplier; False where there are none."""
        found = yield from self.region.violated(self.at.d, self.index)
        if not len(found):
            return False
        rows = yield Rows(found)
        kept = self.at.y > 0
        kept[0] = True
        self.index = np.concatenate([self.index[kept[1:]], found])
        self.A = np.concatenate([self.A[kept], rows])
        self.b = np.concatenate([self.b[kept], self.region.faces.limits[found]])
        self.at = self._evaluate(np.concatenate([self.at.y[kept], np.zeros(len(found))]))
        return True

    def climb(self, steps: int) -> Outcome | None:
        """At most `steps` Newton steps, fewer where the dual value ends the search or the working set is solved."""
        for _ in range(steps):
            if (ended := self.ended()) is not None:
                return ended
            y, q, d, g, _ = self.at
            moving = np.flatnonzero((y > 0) | (g > 0))
            if np.abs(g[moving]).max(initial=0) <= self.region.tolerance(d):
                break
            A = self.A[moving][:, d == q]
            H = A @ A.T
            H.flat[:: len(moving) + 1] += _DAMPING
            step = np.linalg.solve(H, g[moving])
            # A row that the step would take below 0 at once must not bend the step of the others.
            while not (able := (y[moving] > 0) | (step > 0)).all():
                moving, H = moving[able], H[np.ix_(able, able)]
                step = np.linalg.solve(H, g[moving])
            if not self._move(moving, step):
                break
        return self.ended()

    def _move(self, moving: np.ndarray, step: np.ndarray) -> bool:
        """Go along `step` in the multipliers `moving`, cut off at 0, as far as the dual value rises enough."""
        y, _, _, g, value = self.at
        slopes, share = g[moving], 1.0
        for shortened in range(_SHORTENINGS):
            if shortened == 3:
                # Where rows depend on one another the step is too long for its direction to survive the cut: up to
                # the first multiplier that it takes to 0, it does.
                falling = step < 0
                share = float((y[moving][falling] / -step[falling]).min(initial=share))
            ahead = y.copy()
            moved = y[moving] + share * step
            ahead[moving] = np.where(moved > 1e-14 * self.region.reach, moved, 0)  # rounding must not block the way
            promised = float(slopes @ (ahead[moving] - y[moving]))
            new = self._evaluate(ahead)
            enough = new.value >= value + 1e-4 * promised
            if not enough and promised < 1e-11 * abs(value):
                # Near the top the rise drowns in rounding, and the slopes tell.
                left = new.g[(ahead > 0) | (new.g > 0)]
                enough = np.abs(left).max(initial=0) < 0.5 * np.abs(slopes).max()
            if enough:
                self.at = new
                return True
            share *= 0.4
        return False
