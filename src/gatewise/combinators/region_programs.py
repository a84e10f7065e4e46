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

from gatewise.combinators.gathered_faces import MOST, GatheredFaces, answered_together
from gatewise.errors import UnsupportedProblem
from gatewise.geometry import per_row
from gatewise.methods.base import Start, boundary_of, norm_of, origin_of
from gatewise.network.region import LinearRegion
from gatewise.objectives import Margin, MarginTo, TargetedMargin
from gatewise.problem import Best, Iterate, Problem
from gatewise.region_projection import Faces, Outcome, Projection, nearest, searching

_LISTED = 128  # faces beyond the first gate's that are written out for every region; more are gathered when wanted
_WRITTEN = 2**26  # bytes of the first gate's normals, written out once
_AT_ONCE = 2**25  # numbers in the normals, or slacks, of several regions
_HALVINGS = 40
_FARTHEST = 1e4  # programs need a finite box
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
        problem: its goal, or objective where it has none, a `Margin`, `MarginTo` or `TargetedMargin`; its set a box.
        start: where the rows begin.

    Raises:
        UnsupportedProblem: another goal or set.
    """

    def __init__(self, problem: Problem, start: Start):
        self.problem, self.p = problem, norm_of(problem)
        self.boundary = _margin_of(problem)
        self.origin = origin_of(problem, start)
        flat = _flat(self.origin)
        lower, upper = (_flat(edge.expand_as(self.origin)) for edge in problem.domain.bounds(self.origin))
        self.lower = np.clip(lower - flat, -_FARTHEST, 0)
        self.upper = np.clip(upper - flat, 0, _FARTHEST)
        self.aims: list[tuple[int, np.ndarray]] = []
        self.others: list[np.ndarray] = []
        self.seen: list[set[bytes]] = [set() for _ in flat]
        self._first: tuple[np.ndarray, np.ndarray] | None = None
        self._typical: np.ndarray | None = None

    def aim(self, points: Tensor, rivals: int | None) -> Tensor:
        """Choose the classes that are programs of their own: those with the largest logits at `points` (batch, …), as
        many as `rivals` says; without a number all where a region's faces are written out, one where they are gathered,
        as in the paper. Where the goal names a class it is that one. Returns them, (batch, k) int64.
        """
        with torch.no_grad():
            logits = self.problem.network(points)
        if rivals is None and self._gathers(self.problem.network.region(points[:1])):
            rivals = 1
        goal, order = self.boundary, logits.argsort(dim=1, descending=True, stable=True)
        if isinstance(goal, Margin):
            labels, aims = goal.labels, _without(order, goal.labels)[:, :rivals]
        elif isinstance(goal, MarginTo):
            labels, aims = goal.labels, goal.rivals[:, None]
        else:
            rest = _without(order, goal.targets)
            labels, aims = rest[:, 0], goal.targets[:, None]
            # The target has to beat every class: all but one of these half-spaces are faces like the region's.
            self.others = list(rest[:, 1:].cpu().numpy())
        self.aims = list(zip(labels.tolist(), aims.cpu().numpy(), strict=True))
        return aims

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
        each = unseen.region.outputs
        each += min(faces, MOST) if self._gathers(unseen.region) else faces - first
        return len(unseen.row) * each + (first if self._first is None else 0)

    def solve(self, unseen: Unseen, cutoffs: np.ndarray, keep: float = 1.0) -> list[Shortest]:
        """The nearest points in these regions that are nearer than `cutoffs` (batch,), which fall to `keep` times the
        nearest found.
        """
        found: list[Shortest] = []
        if not unseen.row:
            return found
        every, first = self._counts(unseen.region)
        listed = 0 if self._gathers(unseen.region) else every - first
        n = self.origin[0].numel()
        at_once = max(1, _AT_ONCE // max(every, n * (listed + unseen.region.outputs)))
        for some in torch.arange(len(unseen.row)).split(at_once):
            rows = [unseen.row[k] for k in some.tolist()]
            region = unseen.region.rows(some.to(self.origin.device))
            origin = self.origin[rows]
            slacks, values = _flat(region.slacks(origin)), _flat(region.output(origin))
            matrix = _numbers(region.matrix())
            if self._gathers(region):
                found += self._side_by_side(region, rows, slacks, matrix, values, cutoffs, keep)
                continue
            deep = torch.arange(first, every, device=origin.device).expand(len(rows), -1)
            normals = _numbers(region.normals(deep))
            for k, row in enumerate(rows):
                program = self._program(self._listed(region, k, slacks[k], normals[k]), row, matrix[k], values[k])
                projections = nearest(*program, float(cutoffs[row]), self.p, keep)
                found += self._told(row, projections, program[0], cutoffs, keep)
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

    def _side_by_side(
        self, region: LinearRegion, rows: list[int], slacks, matrix, values, cutoffs: np.ndarray, keep: float
    ) -> list[Shortest]:
        """The programs of regions whose faces are gathered. All start from the same cutoffs: which of them are solved
        must not hang on which rows share the batch.
        """
        wanted, found = cutoffs.copy(), []

        def searches():
            for k, row in enumerate(rows):
                faces = self._gathered(region, k, slacks[k])
                program = self._program(faces, row, matrix[k], values[k])
                yield faces, searching(*program, float(wanted[row]), self.p, keep)

        for k, faces, projections in answered_together(region, self.origin[rows], searches()):
            found += self._told(rows[k], projections, faces, cutoffs, keep)
        return found

    def _program(self, faces, row: int, matrix: np.ndarray, values: np.ndarray):
        """What `nearest` and `searching` ask for first: faces, the classes' half-spaces, the box."""
        label, aims = self.aims[row]
        rows, limits = matrix[label] - matrix[aims], values[aims] - values[label]
        if self.others:
            more, by = matrix[self.others[row]] - matrix[aims], values[aims] - values[self.others[row]]
            norms = _divisor(np.linalg.norm(more, axis=1))
            faces = faces.joined(more / norms[:, None], by / norms)
        return faces, rows, limits, self.lower[row], self.upper[row]

    def _told(self, row: int, projections: list[Projection], faces, cutoffs: np.ndarray, keep: float) -> list[Shortest]:
        told = []
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

    def _gathers(self, region: LinearRegion) -> bool:
        """Whether its faces are too many to be written out."""
        faces, first = self._counts(region)
        return faces - first > _LISTED

    def _signs(self, region: LinearRegion, k: int) -> np.ndarray:
        """What outward is for the first gate's normals."""
        return np.where(region.pattern[0][k].flatten().cpu().numpy(), -1.0, 1.0)

    def _first_normals(self, region: LinearRegion) -> tuple[np.ndarray, np.ndarray]:
        """What comes before any gate has the same normals everywhere, but for their signs: unit normals and norms."""
        if self._first is None:
            _, first = self._counts(region)
            one = region.rows(torch.zeros(1, dtype=torch.int64, device=region.point.device))
            chosen = torch.arange(first, device=region.point.device)[None]
            inward = _numbers(one.normals(chosen, memory=math.inf))[0] if first else np.empty((0, one.point.numel()))
            norms = np.linalg.norm(inward, axis=1)
            signs = self._signs(one, 0)[:, None] if first else 1.0
            self._first = np.ascontiguousarray(-signs * inward / _divisor(norms)[:, None]), norms
        return self._first

    def _listed(self, region: LinearRegion, k: int, slacks: np.ndarray, normals: np.ndarray) -> Faces:
        """All faces of region k, as seen from the row's origin."""
        rows, norms = self._first_normals(region)
        signs = self._signs(region, k) if len(rows) else np.empty(0)
        if len(normals):
            own = np.linalg.norm(normals, axis=1)
            rows = np.concatenate([rows, -normals / _divisor(own)[:, None]])
            norms, signs = np.concatenate([norms, own]), np.concatenate([signs, np.ones(len(own))])
        return Faces(rows, slacks / _divisor(norms), signs)

    def _gathered(self, region: LinearRegion, k: int, slacks: np.ndarray) -> GatheredFaces:
        """The faces of region k, as seen from the row's origin, to be gathered when wanted."""
        unit, norms = self._first_normals(region)
        if self._typical is None:
            self._typical = _typical_norms(region.rows(torch.tensor([k], device=region.point.device)))
            self._typical[: len(norms)] = _divisor(norms)
        return GatheredFaces(
            self._typical, slacks / self._typical, unit, self._signs(region, k) if len(unit) else norms
        )


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


def _margin_of(problem: Problem) -> Margin | MarginTo | TargetedMargin:
    boundary = boundary_of(problem).objective
    if not isinstance(boundary, Margin | MarginTo | TargetedMargin):
        raise UnsupportedProblem(
            "Regions are searched for points of another class: the goal must be a Margin, MarginTo or TargetedMargin; "
            "use ddn, fmn or fab for other goals."
        )
    return boundary


def _without(order: Tensor, classes: Tensor) -> Tensor:
    """Each row of `order` (batch, classes) without its own class, (batch,)."""
    return order[order != classes[:, None]].view(len(order), -1)


def _flat(t: Tensor) -> np.ndarray:
    """(batch, …) as float64 numbers, (batch, n)."""
    return _numbers(t.flatten(1))


def _numbers(t: Tensor) -> np.ndarray:
    return t.detach().double().cpu().numpy()


def _divisor(norms: np.ndarray) -> np.ndarray:
    return np.where(norms > 0, norms, 1.0)
