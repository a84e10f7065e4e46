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

MOST_ROUNDS = 20_000
ROUNDS_BETWEEN_LOOKS = 200
# Rounds end when one changes a row by less than this share of its size.
STILL = 1e-13
# Sets whose nearest points stay farther apart than this share of their size are told to be apart.
MEETING = 1e-7
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
        """The nearest point by Dykstra's algorithm (Boyle & Dykstra 1986), drawn inward by its last error."""
        outside = self.violation(x) > 0
        if not outside.any():
            return x.clone()
        return torch.where(per_row(outside, x), self._drawn_in(self._dykstra(x.double(), outside), outside, x), x)

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

    def _dykstra(self, x: Tensor, wanted: Tensor) -> Tensor:
        """The nearest points (batch, …) in float64, up to its accuracy, in the rows that are `wanted` (batch,)."""
        point, debt, other_debt = x, torch.zeros_like(x), torch.zeros_like(x)
        moving, gap = wanted, torch.full_like(x.flatten(1)[:, 0], torch.inf)
        for rounds in range(1, MOST_ROUNDS + 1):
            middle = self.first.project(point + debt)
            landed = self.second.project(middle + other_debt)
            step, other_step = point - middle, middle - landed
            # The points may rest for many rounds while debts still change, so the debts are asked too (Birgin &
            # Raydan, SIAM J. Sci. Comput. 2005): their changes are the two steps.
            change = row_norm(step) + row_norm(other_step)
            going = per_row(moving, x)
            point = torch.where(going, landed, point)
            debt, other_debt = debt + going * step, other_debt + going * other_step
            moving = moving & (change > STILL * (row_norm(x - landed) + row_norm(landed)))
            if not moving.any():
                break
            if rounds % ROUNDS_BETWEEN_LOOKS == 0:
                self._refuse_apart(moving & (row_norm(other_step) > 0.99 * gap), other_step, landed)
                gap = row_norm(other_step)
        return point

    def _refuse_apart(self, rows: Tensor, gap: Tensor, point: Tensor) -> None:
        if (rows & (row_norm(gap) > MEETING * (1 + row_norm(point)))).any():
            raise InvalidInput(f"{self._names} is empty in some row; enlarge one of them or move them together.")

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
            start = self._dykstra(torch.zeros_like(like, dtype=torch.float64), everyone)
            bounded = any(_sized(member) for member in (self.first, self.second))
            reach = per_row(self._measure.size(start) if bounded else 1 + row_norm(start), start)
            points = [self._dykstra(start + reach * sign * way, everyone) for way in ways for sign in (1, -1)]
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
