"""The nearest point of a linear region that a target class wins: the inner problem of rLR-QP, in float64.

On a linear region of a ReLU network the region's faces and the half-space "the target wins" are linear, so that the
point nearest to x is `x + d` with the d that solves

    minimise ||d||_p   with   row @ d <= limit for each face and for the target,   lower <= d <= upper.

p = 2: for multipliers y >= 0 of the rows A the Lagrangian is least in the box at `d = clip(-A^T y)`, so that the dual
needs no more than products with A. It is climbed by projected semismooth Newton steps over a working set of rows, to
which the rows that d violates most are added until it violates none. p = 1 and infinity: linear programs by HiGHS
(Huangfu & Hall 2018), rows added likewise. Multipliers of any quality bound the distance from below, which ends a
target early: most are too far away, and two or three rows prove it.

Sources: Croce & Hein, "A randomized gradient-free attack on ReLU networks" (GCPR 2018, arXiv:1811.11493), eq. 2-3; Qi &
Sun, "A nonsmooth version of Newton's method" (Math. Program. 1993); the projected step and its line search: Bertsekas,
"Projected Newton methods for optimization problems with simple constraints" (SIAM J. Control Optim. 1982).

Legend: A, b, y = rows, limits and multipliers of the working set; q = -A^T y, d = clip(q); g = A d - b, the slope of
the dual; H = A A^T over the coordinates that d has inside the box, the dual's generalised Hessian with its sign turned.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np

from gatewise.errors import InvalidInput

_NEAR = 64  # faces that are looked at before all others
_ADDED = 24  # rows that are added at least, if there are as many
_EARLY_STEPS = 2  # Newton steps between additions: a set that still lacks rows is not worth more
_ROUNDS, _STEPS, _SHORTENINGS = 200, 60, 40
_DAMPING = 1e-10  # keeps H invertible where rows repeat; rows have unit norm
_PRECISION = 1e-10  # that is asked of d, by its size
_CERTIFIED = 1e-8  # residual and gap that a solution may have, by its size
_ROUNDING = 4e-15  # of a sum of products, by the sum of their absolute values


class Outcome(StrEnum):
    """How the search for one target ended."""

    SOLVED = "solved"
    PRUNED = "pruned"
    EMPTY = "empty"
    STALLED = "stalled"


@dataclass(frozen=True, eq=False)
class Faces:
    """The half-spaces `signs[i] * (rows[i] @ d) <= limits[i]`.

    The hidden units of a first layer have the same rows in each region and differ by signs: with `signs` given, the
    rows are shared by all regions and the m rows with their signs are never formed.

    Args:
        rows: (m, n) float64, C-contiguous, each of unit 2-norm, or 0 for no face at all.
        limits: (m,) float64.
        signs: (m,) float64 of 1 and -1; None for all 1.
    """

    rows: np.ndarray
    limits: np.ndarray
    signs: np.ndarray | None = None
    dear: ClassVar[bool] = False
    """Whether products and rows cost so much that a working set is solved well before it asks for more."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, n)."""
        return self.rows.shape

    def joined(self, rows: np.ndarray, limits: np.ndarray) -> Faces:
        """These and more half-spaces, (k, n) and (k,); copies the rows."""
        every = self.rows if self.signs is None else self.signs[:, None] * self.rows
        return Faces(np.append(every, rows, axis=0), np.append(self.limits, limits))

    def excess(self, d: np.ndarray) -> np.ndarray:
        """How far `d` (n,) lies beyond each face, (m,)."""
        products = self.rows @ d
        return (products if self.signs is None else self.signs * products) - self.limits

    def signed(self, index: np.ndarray) -> np.ndarray:
        """A copy of the rows `index` (k,) with their signs, (k, n)."""
        rows = self.rows[index]
        if self.signs is not None:
            rows *= self.signs[index, None]
        return rows


@dataclass(frozen=True, eq=False)
class Projection:
    """What is known of the nearest point for one target.

    `lower_bound` holds whatever the status (but rests on HiGHS's word for an empty set with p = 1 or `inf`).
    """

    status: Outcome
    """Solved: residual and gap are below 1e-8 of the distance. Pruned: the distance is no less than the cutoff, or the
    set is empty. Empty: nothing is feasible. Stalled: numerical trouble; the point is not certified."""
    lower_bound: float
    """Of the distance; `inf` for an empty set."""
    point: np.ndarray | None = None
    """d, (n,), when solved or stalled."""
    distance: float = math.inf
    """`||d||_p` of `point`."""
    residual: float = math.inf
    """The largest excess of `point` beyond a row. The box holds exactly."""
    gap: float = math.inf
    """`distance - lower_bound`, which is also what complementary slackness leaves."""
    active: np.ndarray | None = None
    """The faces with a positive multiplier, (k,) indices, when solved or stalled."""
    multipliers: np.ndarray | None = None
    """Of the faces `active`, (k,): of the problem with `||d||^2 / 2` for p = 2, with `||d||_p` otherwise."""
    target_multiplier: float = 0.0
    """Of the target's row, scaled to unit 2-norm."""


class Listed(Protocol):
    """What a search has to know of faces before it asks for any: their limits, how many numbers a row has, and whether
    asking is dear.
    """

    dear: ClassVar[bool]

    @property
    def limits(self) -> np.ndarray:
        """(m,)."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, n)."""
        ...


class Excess(NamedTuple):
    """A search asks how far `d` (n,) lies beyond each face, (m,)."""

    d: np.ndarray


class Rows(NamedTuple):
    """A search asks for the rows of `faces` (k,) with their signs, (k, n)."""

    faces: np.ndarray


Told = TypeVar("Told")
Asking = Generator[Excess | Rows, np.ndarray, Told]
"""Asks, is answered, and tells at last."""


def nearest(
    faces: Faces,
    target_rows: np.ndarray,
    target_limits: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    cutoff: float = math.inf,
    p: float = 2,
    keep: float = 1.0,
) -> list[Projection]:
    """The shortest d in a region and a box, for the half-space of each target.

    Targets are solved in the order of bounds of their distances. After a solution at distance r the cutoff falls to
    `keep * r`, if that is less.

    Args:
        faces: m faces of the region, as seen from x. d = 0 may be beyond some.
        target_rows: (targets, n) float64 of any norms: target t wins where `target_rows[t] @ d <= target_limits[t]`.
        target_limits: (targets,) float64.
        lower: (n,) float64, finite, at most 0.
        upper: (n,) float64, finite, at least 0.
        cutoff: only distances below it are wanted.
        p: 1, 2 or `inf`.
        keep: at least 1: which multiple of the best solution is wanted too; `inf` leaves the cutoff alone.

    Returns:
        One projection a target, in the order of `target_rows`.

    Raises:
        InvalidInput: shapes that do not go together, a box that is infinite or leaves 0 out, or another p.
    """
    search = searching(faces, target_rows, target_limits, lower, upper, cutoff, p, keep)
    answer = None
    while True:
        try:
            asked = search.send(answer)  # type: ignore[arg-type]
        except StopIteration as ended:
            return ended.value
        answer = faces.excess(asked.d) if isinstance(asked, Excess) else faces.signed(asked.faces)


def searching(
    faces: Listed,
    target_rows: np.ndarray,
    target_limits: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    cutoff: float = math.inf,
    p: float = 2,
    keep: float = 1.0,
) -> Asking[list[Projection]]:
    """`nearest`, as a generator that asks for products and rows when it wants them: so that searches of many regions
    can be answered together, by whoever has the faces.
    """
    targets, n = target_rows.shape
    fits = faces.shape == (len(faces.limits), n) and lower.shape == upper.shape == (n,)
    if not fits or target_limits.shape != (targets,):
        raise InvalidInput(
            f"Rows of shape {faces.shape} with {faces.limits.shape} limits, targets of {target_rows.shape} with "
            f"{target_limits.shape} limits and a box of {lower.shape} do not go together; give (m, n) with (m,), "
            "(targets, n) with (targets,), and (n,)."
        )
    if not (lower <= 0).all() or not (upper >= 0).all() or not math.isfinite(float(upper.sum() - lower.sum())):
        raise InvalidInput("The box is infinite or leaves 0 out; give finite bounds of x, less x itself.")
    if p not in (1, 2, math.inf):
        raise InvalidInput(f"p is {p}; give 1, 2 or inf.")
    norms = np.sqrt(np.einsum("tn,tn->t", target_rows, target_rows))
    norms[norms == 0] = 1
    rows, limits = target_rows / norms[:, None], target_limits / norms
    search = (_Euclidean if p == 2 else _Linear)(faces, rows, limits, lower, upper, p)
    bounds = search.bounds(cutoff)
    found = [Projection(Outcome.PRUNED, bound) for bound in bounds.tolist()]
    for target in np.argsort(bounds).tolist():
        if bounds[target] < cutoff:
            found[target] = yield from search.solve(target, cutoff)
            cutoff = min(cutoff, keep * found[target].distance) if found[target].status is Outcome.SOLVED else cutoff
    return found


class _Region:
    """All targets of one region: what they share."""

    def __init__(self, faces: Listed, rows, limits, lower, upper, p: float):
        self.faces, self.rows, self.limits, self.lower, self.upper, self.p = faces, rows, limits, lower, upper, p
        self.reach = self.norm(np.maximum(-lower, upper))
        self.near: Faces | None = None
        self.near_index = np.empty(0, dtype=int)

    def norm(self, d: np.ndarray) -> float:
        if self.p == 2:
            return math.sqrt(d @ d)
        return float(np.abs(d).sum() if self.p == 1 else np.abs(d).max(initial=0))

    def tolerance(self, d: np.ndarray) -> float:
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


class _Euclidean(_Region):
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
        work = _WorkingSet(self, target, cutoff)
        settled = False
        for _ in range(_ROUNDS):
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

    def __init__(self, region: _Euclidean, target: int, cutoff: float):
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


class _Linear(_Region):
    """p = 1 and infinity, by a linear program that keeps rows and basis from target to target."""

    def __init__(self, faces: Listed, rows, limits, lower, upper, p: float):
        super().__init__(faces, rows, limits, lower, upper, p)
        self.index = np.empty(0, dtype=int)
        self.A, self.b = np.empty((0, len(lower))), np.empty(0)

    def bounds(self, cutoff: float) -> np.ndarray:
        """Distances to the half-spaces within the box, (targets,)."""
        return np.array([self._to_halfspace(row, -limit) for row, limit in zip(self.rows, self.limits, strict=True)])

    def _to_halfspace(self, row: np.ndarray, wanted: float) -> float:
        """The least `||d||` in the box with `-row @ d >= wanted`; the box's largest where there is none."""
        reach, size = np.where(row > 0, -self.lower, self.upper), np.abs(row)
        order = np.argsort(-size if self.p == 1 else reach)
        reach, size = reach[order], size[order]
        won = np.cumsum(size * reach)
        if self.p == 1:  # the coordinates that win most for their length go first
            norms = np.cumsum(reach)
        else:  # all go together, each to its end
            norms, won = reach, won + (size.sum() - np.cumsum(size)) * reach
        distance = np.interp(max(wanted, 0.0), np.append(0.0, won), np.append(0.0, norms))
        return float(distance) * (1 - 1e-12)

    @cached_property
    def program(self):
        """Without faces. p = 1: d = up - down, and `sum(up + down)`; p = inf: d and t, with `-t <= d <= t`."""
        import highspy

        n, one, program = len(self.lower), self.p == 1, highspy.Highs()
        precision = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
        for option, value in {"output_flag": False, "threads": 1, "presolve": "off", **precision}.items():
            program.setOptionValue(option, value)
        cost = np.ones(2 * n) if one else np.append(np.zeros(n), 1.0)
        low = np.zeros(2 * n) if one else np.append(self.lower, 0.0)
        high = np.append(self.upper, -self.lower if one else self.reach)
        none = np.empty(0, dtype=np.int32)
        program.addCols(len(cost), cost, low, high, 0, np.zeros(len(cost), dtype=np.int32), none, np.empty(0))
        if not one:
            ends = np.stack([np.tile(np.arange(n), 2), np.full(2 * n, n)], axis=1)
            _add_rows(program, ends, np.repeat([[1.0, -1.0], [-1.0, -1.0]], n, axis=0), np.zeros(2 * n))
        self._add_faces(program, self.rows, np.full(len(self.rows), math.inf))
        return program

    def _add_faces(self, program, A: np.ndarray, b: np.ndarray) -> None:
        values = np.append(A, -A, axis=1) if self.p == 1 else A
        _add_rows(program, np.broadcast_to(np.arange(values.shape[1]), values.shape), values, b)

    def solve(self, target: int, cutoff: float) -> Asking[Projection]:
        row = target + (0 if self.p == 1 else 2 * len(self.lower))
        self.program.changeRowBounds(row, -math.inf, float(self.limits[target]))
        self.program.setOptionValue("objective_bound", cutoff)
        found = yield from self._run(target, row, cutoff)
        self.program.changeRowBounds(row, -math.inf, math.inf)
        return found

    def _run(self, target: int, row: int, cutoff: float) -> Asking[Projection]:
        n, bound, d, y = len(self.lower), 0.0, np.zeros(len(self.lower)), np.zeros(1 + len(self.index))
        for _ in range(_ROUNDS):
            self.program.run()
            status = self.program.getModelStatus().name
            if status in ("kInfeasible", "kUnboundedOrInfeasible"):
                return Projection(Outcome.EMPTY, math.inf)
            if status not in ("kOptimal", "kObjectiveBound"):
                break
            solution = self.program.getSolution()
            duals = -np.array(solution.row_dual) if solution.dual_valid else np.zeros(self.program.getNumRow())
            duals = np.maximum(duals, 0)
            y = np.append(duals[row], duals[row - target + len(self.rows) :])
            bound = max(bound, self._lagrangian(target, y))
            if bound >= cutoff:
                return Projection(Outcome.PRUNED, bound)
            if status == "kObjectiveBound":  # HiGHS ended here without multipliers that prove it
                self.program.setOptionValue("objective_bound", math.inf)
                continue
            columns = np.array(solution.col_value)
            d = np.clip(columns[:n] - columns[n:] if self.p == 1 else columns[:n], self.lower, self.upper)
            found = yield from self.violated(d, self.index)
            if not len(found):
                break
            A, b = (yield Rows(found)), self.faces.limits[found]
            self._add_faces(self.program, A, b)
            self.index, y = np.append(self.index, found), np.append(y, np.zeros(len(found)))
            self.A, self.b = np.append(self.A, A, axis=0), np.append(self.b, b)
        return (yield from self.certified(target, d, bound, self.index, y[1:], float(y[0])))

    def _lagrangian(self, target: int, y: np.ndarray) -> float:
        """Its least value in the box for multipliers `y` >= 0: a bound, whatever they are."""
        slopes = y[0] * self.rows[target] + y[1:] @ self.A
        constant = y[0] * self.limits[target] + y[1:] @ self.b
        if self.p == 1:
            return float(
                np.minimum(np.minimum(self.upper * (1 + slopes), self.lower * (slopes - 1)), 0).sum() - constant
            )
        # t - sum |slope| min(t, reach) is convex in t = ||d||: least at 0 or at one of its kinks.
        reach, size = np.where(slopes > 0, -self.lower, self.upper), np.abs(slopes)
        order = np.argsort(reach)
        reach, size = reach[order], size[order]
        kinks = reach - np.cumsum(size * reach) - (size.sum() - np.cumsum(size)) * reach
        return float(kinks.min(initial=0) - constant)


def _add_rows(program, index: np.ndarray, values: np.ndarray, high: np.ndarray) -> None:
    """Rows `values @ columns[index] <= high`, of as many entries each: (k, entries), (k, entries) and (k,)."""
    starts, low = np.arange(len(high), dtype=np.int32) * values.shape[1], np.full(len(high), -math.inf)
    program.addRows(len(high), low, high, values.size, starts, index.astype(np.int32).ravel(), values.ravel())
