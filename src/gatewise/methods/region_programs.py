"""Nearest points region by region: what the methods that walk linear regions share. Not a method itself.

On a linear region the nearest point that meets the goal is a small program (`gatewise.region_projection`). Here is how
a region becomes one: which regions a row has not seen yet, what their faces and classes' half-spaces are, and how a
solution becomes a point that the true network confirms.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gatewise.errors import UnsupportedProblem
from gatewise.geometry import per_row
from gatewise.methods.base import Start, boundary_of, norm_of, origin_of
from gatewise.network.region import LinearRegion
from gatewise.objectives import Margin, MarginTo, TargetedMargin
from gatewise.problem import Best, Iterate, Problem
from gatewise.region_projection import Faces, Outcome, nearest

_LISTED = 128  # faces beyond the first gate's that are written out for every region; more are gathered when wanted
_WRITTEN = 2**26  # bytes of the first gate's normals, written out once
_AT_ONCE = 2**25  # numbers in the normals of several regions
_HALVINGS = 40
_GATHERED = 2000  # faces of a region, at most, that are gathered one by one
_NUDGES = {torch.float64: (0.0, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5), torch.float32: (0.0, 1e-6, 1e-5, 1e-4)}


@dataclass(frozen=True, eq=False)
class Unseen:
    """Regions that their rows have not seen: `row` of each, and the regions themselves."""

    row: list[int]
    region: LinearRegion


@dataclass(frozen=True, eq=False)
class Shortest:
    """The nearest point of a region that one class wins: `row`; the `way` (n,) to it; its length; and the normals of
    the faces that hold it, outward, of about unit length, the dearest first, (faces, n).
    """

    row: int
    way: np.ndarray
    distance: float
    outward: np.ndarray


class RegionPrograms:
    """The programs of all rows of a problem.

    Args:
        problem: its goal a `Margin`, `MarginTo` or `TargetedMargin`; its set a box.
        start: where the rows begin.
        rivals: how many classes are programs of their own, those with the largest logits at the origin first; None
            for all.

    Raises:
        UnsupportedProblem: another goal or set.
    """

    def __init__(self, problem: Problem, start: Start, rivals: int | None = None):
        self.problem, self.p = problem, norm_of(problem)
        self.origin = origin_of(problem, start)
        flat = _flat(self.origin)
        lower, upper = (_flat(edge.expand_as(self.origin)) for edge in problem.domain.bounds(self.origin))
        self.lower, self.upper = np.minimum(lower - flat, 0), np.maximum(upper - flat, 0)
        with torch.no_grad():
            logits = problem.network(self.origin)
        self.boundary = boundary_of(problem).objective
        self.aims, self.others = _aims(problem, logits, rivals)
        self.seen: list[set[bytes]] = [set() for _ in flat]
        self._first: tuple[np.ndarray, np.ndarray] | None = None
        self._typical: np.ndarray | None = None

    def unseen(self, rows: Tensor, points: Tensor) -> Unseen:
        """The regions of `points` (k, …) of the rows `rows` (k,) that are new to their row, each once."""
        region = self.problem.network.region(points)
        patterns = [held.flatten(1) for held in region.pattern]
        bits = np.concatenate(
            [np.packbits(p.cpu().numpy(), axis=1) if p.dtype == torch.bool else p.cpu().numpy().view(np.uint8)
             for p in patterns] or [np.zeros((len(points), 1), dtype=np.uint8)], axis=1,
        )  # fmt: skip
        new = []
        for k, (row, pattern) in enumerate(zip(rows.tolist(), bits, strict=True)):
            key = pattern.tobytes()
            if key not in self.seen[row]:
                self.seen[row].add(key)
                new.append(k)
        chosen = torch.tensor(new, dtype=torch.int64, device=points.device)
        return Unseen(rows[chosen.to(rows.device)].tolist(), region.rows(chosen))

    def price(self, unseen: Unseen) -> int:
        """The backward passes that `solve` takes at most, of all rows together."""
        if not unseen.row:
            return 0
        faces, first = self._counts(unseen.region)
        each = unseen.region.offset[0].numel()
        each += faces - first if faces - first <= _LISTED else min(faces, _GATHERED)
        return len(unseen.row) * each + (first if self._first is None else 0)

    def solve(self, unseen: Unseen, cutoffs: np.ndarray, keep: float = 1.0) -> list[Shortest]:
        """The nearest points in these regions that are nearer than `cutoffs` (batch,), which fall to `keep` times the
        nearest found.
        """
        found: list[Shortest] = []
        if not unseen.row:
            return found
        faces, first = self._counts(unseen.region)
        listed = faces - first if faces - first <= _LISTED else 0
        n = self.origin[0].numel()
        at_once = max(1, _AT_ONCE // (n * (listed + unseen.region.offset[0].numel())))
        for some in torch.arange(len(unseen.row)).split(at_once):
            rows = [unseen.row[k] for k in some.tolist()]
            region = unseen.region.rows(some.to(self.origin.device))
            origin = self.origin[rows]
            slacks, values = _flat(region.slacks(origin)), _flat(region.output(origin))
            matrix = _numbers(region.matrix())
            deep = torch.arange(first, faces, device=origin.device) if listed else None
            normals = None if deep is None else _numbers(region.normals(deep.expand(len(rows), -1)))
            for k, row in enumerate(rows):
                held = self._faces(region, k, row, slacks[k], None if normals is None else normals[k])
                found += self._solved(held, row, matrix[k], values[k], cutoffs, keep)
        return found

    def confirmed(self, found: list[Shortest]) -> Iterator[Iterate]:
        """The nearest solution of each row as a point of the problem's own type, pushed outward by a hair until the
        true network confirms it, and where it does not the second nearest, and so on. Other rows stay at the origin.
        """
        left: dict[int, list[Shortest]] = {}
        for one in sorted(found, key=lambda one: one.distance):
            left.setdefault(one.row, []).append(one)
        while left:
            x = self.origin.clone()
            for nudge in _NUDGES[x.dtype]:
                for row, ones in left.items():
                    way = torch.from_numpy(ones[0].way * (1 + nudge)).to(x).view_as(x[row])
                    x[row] = self.origin[row] + way
                x = self.problem.domain.project(x)
                with torch.no_grad():
                    output = self.problem.network(x)
                    met = self.boundary(x, output) <= 0
                yield Iterate(x, self.problem.measure(x, output), output)
                left = {row: ones for row, ones in left.items() if not met[row]}
                if not left:
                    return
            left = {row: ones[1:] for row, ones in left.items() if ones[1:]}

    def _solved(self, faces, row: int, matrix, values, cutoffs: np.ndarray, keep: float) -> list[Shortest]:
        """One region's programs, a class at a time."""
        aims, label = self.aims[row]
        rows, limits = matrix[label] - matrix[aims], values[aims] - values[label]
        if self.others:
            # The target has to beat every class: all but one of these half-spaces are faces like the region's.
            more = matrix[self.others[row]] - matrix[aims]
            faces = _with(faces, more, values[aims] - values[self.others[row]])
        told = []
        box = self.lower[row], self.upper[row]
        try:
            projections = nearest(faces, rows, limits, *box, cutoff=cutoffs[row], p=self.p, keep=keep)
        except _TooMany:
            return []
        for one in projections:
            if one.point is not None and one.active is not None and one.multipliers is not None:
                dearest = one.active[np.argsort(-one.multipliers, kind="stable")]
                told.append(Shortest(row, one.point, one.distance, faces.signed(dearest)))
                if one.status is Outcome.SOLVED:
                    cutoffs[row] = min(cutoffs[row], keep * one.distance)
        return told

    def _counts(self, region: LinearRegion) -> tuple[int, int]:
        """How many faces there are, and how many of them are the first gate's and written out once."""
        if not region.gates or region.gates[0].pool is not None:
            return region.faces, 0
        first = region.pattern[0][0].numel()
        return region.faces, first if first * region.point[0].numel() * 8 <= _WRITTEN else 0

    def _faces(self, region: LinearRegion, k: int, row: int, slacks: np.ndarray, normals: np.ndarray | None):
        """The faces of region k as seen from the row's origin."""
        faces, first = self._counts(region)
        one = region.rows(torch.tensor([k], device=region.point.device))
        if first and self._first is None:
            # What comes before any gate has the same normals everywhere, but for their signs.
            chosen = torch.arange(first, device=region.point.device)[None]
            signed = _numbers(one.normals(chosen, memory=math.inf))[0]
            on = one.pattern[0].flatten().cpu().numpy()
            norms = np.linalg.norm(signed, axis=1)
            unit = np.where(on, 1.0, -1.0)[:, None] * signed / _divisor(norms)[:, None]
            self._first = np.ascontiguousarray(unit), norms
        if faces - first > _LISTED:
            return self._gathered(one, row, slacks)
        rows, norms, signs = np.empty((0, self.lower.shape[1])), np.empty(0), np.empty(0)
        if self._first is not None:
            rows, norms = self._first
            signs = np.where(one.pattern[0].flatten().cpu().numpy(), -1.0, 1.0)
        if normals is not None and len(normals):
            own = np.linalg.norm(normals, axis=1)
            rows = np.concatenate([rows, -normals / _divisor(own)[:, None]])
            norms, signs = np.concatenate([norms, own]), np.concatenate([signs, np.ones(len(own))])
        return Faces(rows, slacks / _divisor(norms), signs)

    def _gathered(self, one: LinearRegion, row: int, slacks: np.ndarray) -> GatheredFaces:
        if self._typical is None:
            self._typical = _typical_norms(one)
        scale, written = self._typical.copy(), np.empty((0, one.point.numel()))
        if self._first is not None:
            unit, norms = self._first
            scale[: len(norms)] = _divisor(norms)
            written = np.where(one.pattern[0].flatten().cpu().numpy(), -1.0, 1.0)[:, None] * unit
        return GatheredFaces(one, self.origin[row : row + 1], scale, slacks / scale, written)


def _typical_norms(one: LinearRegion) -> np.ndarray:
    """About the norms of a region's faces, (faces,), and of its neighbours': they only scale."""
    draws = torch.randn(16, *one.point.shape[1:], generator=torch.Generator().manual_seed(0)).to(one.point)
    spread = one.rows(torch.zeros(16, dtype=torch.int64, device=one.point.device))
    norms = np.sqrt(np.square(_flat(spread.push_faces(draws))).mean(0))
    usual = np.median(norms[norms > 0]) if norms.any() else 1.0
    return np.where(norms < 1e-3 * usual, usual, norms)


def to_boundary(problem: Problem, origin: Tensor, best: Best) -> Tensor:
    """Where the segments from `origin` (batch, …) to the best points cross the goal's boundary, by binary search: the
    last point found that meets the goal. Rows that have not met it stay where they are.
    """
    boundary = boundary_of(problem).objective
    low, high = torch.zeros_like(best.value), best.goal_met.to(best.value)
    x = best.x
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        tried = torch.where(per_row(best.goal_met, x), torch.lerp(origin, best.x, per_row(middle, x)), x)
        with torch.no_grad():
            met = boundary(tried, problem.network(tried)) <= 0
        x = torch.where(per_row(met & best.goal_met, x), tried, x)
        low, high = torch.where(met, low, middle), torch.where(met, middle, high)
    return x


class _TooMany(Exception):
    """More faces were wanted than a region may gather."""


class GatheredFaces:
    """The faces of a region that are too many to write out: products are held runs, and a row comes by a backward pass
    when it is wanted. Rows are scaled to about unit length. For `gatewise.region_projection.nearest`.

    Args:
        region: one region.
        origin: (1, …), where it is seen from.
        scale: (m,), what each normal is divided by.
        limits: (m,), the slacks at the origin, divided likewise.
        written: the normals of the first so many faces, outward and scaled, where they are known.
    """

    def __init__(
        self, region: LinearRegion, origin: Tensor, scale: np.ndarray, limits: np.ndarray, written: np.ndarray
    ):
        self.region, self.origin, self.scale, self.limits = region, origin, scale, limits
        self.written = written
        self.shape = len(limits), origin[0].numel()
        self._gathered: dict[int, np.ndarray] = {}

    def excess(self, point: np.ndarray) -> np.ndarray:
        """How far `point` (n,) lies beyond each face, (m,)."""
        at = self.origin + torch.from_numpy(point).to(self.origin).view_as(self.origin)
        return -_flat(self.region.slacks(at))[0] / self.scale

    def signed(self, index: np.ndarray) -> np.ndarray:
        """The rows of the faces `index` (k,): (k, n)."""
        first, known = len(self.written), self._gathered
        new = [i for i in index.tolist() if i >= first and i not in known]
        if len(known) + len(new) > _GATHERED:
            raise _TooMany
        if new:
            asked = torch.tensor([new], device=self.origin.device)
            known.update(zip(new, -_numbers(self.region.normals(asked))[0] / self.scale[new, None], strict=True))
        rows = np.empty((len(index), self.origin[0].numel()))
        for k, i in enumerate(index.tolist()):
            rows[k] = self.written[i] if i < first else known[i]
        return rows


def _with(faces, rows: np.ndarray, limits: np.ndarray) -> Faces:
    """Listed faces and some more half-spaces, of any scale."""
    norms = _divisor(np.linalg.norm(rows, axis=1))
    every = faces.signed(np.arange(len(faces.limits)))
    return Faces(np.concatenate([every, rows / norms[:, None]]), np.concatenate([faces.limits, limits / norms]))


def _aims(
    problem: Problem, logits: Tensor, rivals: int | None
) -> tuple[list[tuple[np.ndarray, int]], list[np.ndarray]]:
    """For each row the classes that are to win, and the one that they are to win against; with a `TargetedMargin` also
    the others.
    """
    order = logits.argsort(dim=1, descending=True, stable=True).tolist()
    match problem.goal:
        case Margin(labels):
            every = [
                ([t for t in ranked if t != label][:rivals], label)
                for ranked, label in zip(order, labels.tolist(), strict=True)
            ]
            return [(np.array(aims), label) for aims, label in every], []
        case MarginTo(labels, targets):
            pairs = zip(labels.tolist(), targets.tolist(), strict=True)
            return [(np.array([target]), label) for label, target in pairs], []
        case TargetedMargin(targets):
            first = [next(c for c in ranked if c != t) for ranked, t in zip(order, targets.tolist(), strict=True)]
            aims = [(np.array([t]), against) for t, against in zip(targets.tolist(), first, strict=True)]
            rest = [np.array([c for c in ranked if c not in (t, a)], dtype=int)
                    for ranked, t, a in zip(order, targets.tolist(), first, strict=True)]  # fmt: skip
            return aims, rest
    raise UnsupportedProblem(
        "Regions are searched for points of another class: the goal must be a Margin, MarginTo or TargetedMargin; use "
        "ddn, fmn or fab for other goals."
    )


def _flat(t: Tensor) -> np.ndarray:
    """(batch, …) as float64 numbers, (batch, n)."""
    return _numbers(t.flatten(1))


def _numbers(t: Tensor) -> np.ndarray:
    return t.detach().double().cpu().numpy()


def _divisor(norms: np.ndarray) -> np.ndarray:
    return np.where(norms > 0, norms, 1.0)
