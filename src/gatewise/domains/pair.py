"""Two sets of any kind."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gatewise.domains.balls import Ball
from gatewise.domains.base import Domain
from gatewise.domains.polyhedron import Polyhedron
from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.geometry import HalfSpaces, per_row, row_norm
from gatewise.streams import RowStreams

MOST_ROUNDS = 5000
# Rounds end when one moves a row by less than this share of its size.
STILL = 1e-13
ROUNDS_BETWEEN_LOOKS = 50
# Points in the two sets that are this close, as a share of their size, count as one where rounds bring no more.
CLOSE = 1e-7
SHARES = [0.0] + [4.0**-k for k in range(20, -1, -1)]
FAR_POINTS = 8


@dataclass(frozen=True, eq=False)
class Pair(Domain):
    """The points that two sets share, through nothing but the projections on each.

    The norm and the size are those of the ball among the two, else of the first that has a size.

    Raises:
        InvalidInput: at first use, where no common point is found.
    """

    first: Domain
    second: Domain
    _inner: dict = field(init=False, repr=False, default_factory=dict)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point, by alternating directions (Boyd et al. 2011) to float64 accuracy, then drawn inward."""
        # Rows that are not finite have nothing near them, and stay.
        violation = self.violation(x)
        outside = (violation > 0) & violation.isfinite()
        if not outside.any():
            return x.clone()
        return torch.where(per_row(outside, x), self._drawn_in(self._nearest(x.double(), outside), outside, x), x)

    def violation(self, x: Tensor) -> Tensor:
        """The larger of the two violations, (batch,) float64."""
        return self.first.violation(x).maximum(self.second.violation(x))

    def steepest(self, gradient: Tensor) -> Tensor:
        """The step of the set that lends the norm."""
        return self._measure.steepest(gradient)

    def support(self, direction: Tensor) -> Tensor:
        """Not known in general.

        Raises:
            UnsupportedProblem: always.
        """
        raise UnsupportedProblem(
            f"{self._names} has no exact support function; intersect a ball, a simplex or a polyhedron with a box, or "
            "two polyhedra."
        )

    def sample(self, streams: RowStreams, like: Tensor) -> Tensor:
        """Draws from the set that lends the norm (from the other where it is unbounded), projected: not uniform."""
        return self.project(self._draw(streams, like))

    def size(self, like: Tensor) -> Tensor:
        """The size of the set that lends the norm, (batch,)."""
        return self._measure.size(like)

    def halfspaces(self, like: Tensor) -> HalfSpaces:
        """The rows of the first set, then those of the second.

        Raises:
            UnsupportedProblem: one of them is no polyhedron with few faces.
        """
        return stacked(self.first.halfspaces(like), self.second.halfspaces(like))

    @property
    def _measure(self) -> Domain:
        """The set that lends the norm."""
        return min(self.first, self.second, key=lambda member: (not isinstance(member, Ball), not _sized(member)))

    def _draw(self, streams: RowStreams, like: Tensor) -> Tensor:
        try:
            return self._measure.sample(streams, like)
        except UnsupportedProblem:
            other = self.second if self._measure is self.first else self.first
            return other.sample(streams, like)

    @property
    def _names(self) -> str:
        return f"The intersection of {type(self.first).__name__} and {type(self.second).__name__}"

    def _nearest(self, x: Tensor, wanted: Tensor) -> Tensor:
        """The nearest points (batch, …) in float64, up to its accuracy, in the rows that are `wanted` (batch,)."""
        scale, point = self._scale(x), self.second.project(self.first.project(x))
        # Steps of the size of the set, however far x is; Dykstra's algorithm, with a weight of 1, stalls there.
        weight = per_row((row_norm(x - point) / scale).clamp(min=1), x)
        debt, moving = torch.zeros_like(x), wanted
        gap, change_before = torch.zeros_like(x), torch.full_like(scale, torch.inf)
        for rounds in range(1, MOST_ROUNDS + 1):
            middle = self.first.project((x + weight * (point - debt)) / (1 + weight))
            landed = self.second.project(middle + debt)
            going = per_row(moving, x)
            gap = torch.where(going, landed - middle, gap)
            change = row_norm(gap) + row_norm(landed - point)
            point, debt = torch.where(going, landed, point), debt - going * gap
            moving = moving & (change > STILL * (scale + row_norm(landed)))
            if not moving.any():
                return point
            if rounds % ROUNDS_BETWEEN_LOOKS == 0:
                if (moving & self._separated(gap, scale)).any():
                    raise InvalidInput(
                        f"{self._names} is empty in some row; enlarge one of them or move them together."
                    )
                # Faces of the two that nearly coincide keep the points that near apart for ever so long.
                moving = moving & ((change > CLOSE * scale) | (change < 0.9 * change_before))
                change_before = change
        if (row_norm(gap) > CLOSE * scale).any():
            raise UnsupportedProblem(
                f"{self._names} gave no common point in {MOST_ROUNDS} rounds; enlarge one of them, or leave one out."
            )
        return point

    def _separated(self, way: Tensor, scale: Tensor) -> Tensor:
        """Rows (batch,) in which a plane across `way` has the first set behind it and the second well before it."""
        try:
            distance = -(self.first.support(way) + self.second.support(-way))
            return distance > CLOSE * scale * row_norm(way)
        except UnsupportedProblem:
            return torch.zeros(len(way), dtype=torch.bool, device=way.device)

    def _scale(self, x: Tensor) -> Tensor:
        sized = _sized(self.first) or _sized(self.second)
        return self._measure.size(x) if sized else 1 + row_norm(self.first.project(torch.zeros_like(x)))

    def _drawn_in(self, point: Tensor, wanted: Tensor, like: Tensor) -> Tensor:
        """`point` in `like`'s dtype, drawn toward an inner point until both sets hold what rounding made of it."""
        result, waiting = like, wanted
        for share in SHARES:
            drawn = point if share == 0 else point + share * (self._inner_point(like) - point)
            candidate = drawn.to(like.dtype)
            for guess in (candidate, self.first.project(candidate), self.second.project(candidate)):
                good = waiting & (self.violation(guess) == 0)
                result, waiting = torch.where(per_row(good, like), guess, result), waiting & ~good
                if not waiting.any():
                    return result
        raise UnsupportedProblem(
            f"{self._names} is too thin for {like.dtype} points; use float64 points, or enlarge one of the sets."
        )

    def _inner_point(self, like: Tensor) -> Tensor:
        """A point off the boundary, as far as the sets have one in common: the mean of what far points project to."""
        key = (like.shape, like.device)
        if key not in self._inner:
            generator = torch.Generator().manual_seed(0)
            ways = torch.randn(FAR_POINTS, *like.shape[1:], generator=generator, dtype=torch.float64).to(like.device)
            everyone = torch.ones(len(like), dtype=torch.bool, device=like.device)
            start = self._nearest(torch.zeros_like(like, dtype=torch.float64), everyone)
            reach = per_row(self._scale(start), start)
            points = [self._nearest(start + reach * sign * way, everyone) for way in ways for sign in (1, -1)]
            self._inner[key] = torch.stack(points).mean(0)
        return self._inner[key]


def _sized(member: Domain) -> bool:
    return not (isinstance(member, Polyhedron) and not member.sized)


def stacked(first: HalfSpaces, second: HalfSpaces) -> HalfSpaces:
    """The rows of `first`, then those of `second`."""
    rows = max(len(first.offset), len(second.offset))
    counts = [first.offset.shape[1], second.offset.shape[1]]

    def transpose_product(multipliers: Tensor) -> Tensor:
        mine, other = multipliers.split(counts, dim=1)
        return first.transpose_product(mine) + second.transpose_product(other)

    return HalfSpaces(
        lambda x: torch.cat([first.product(x), second.product(x)], dim=1),
        transpose_product,
        torch.cat([first.offset.expand(rows, -1), second.offset.expand(rows, -1)], dim=1),
    )
