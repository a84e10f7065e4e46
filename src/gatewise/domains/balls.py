"""The three balls: linf, l2 and l1."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Self

import torch
from torch import Tensor

from gatewise.domains import _clipped_ball as clipped_ball
from gatewise.domains._points import as_center, as_radius, check_center
from gatewise.domains._rounding import farthest, inside_radius, toward
from gatewise.domains.base import Domain
from gatewise.domains.intervals import Intervals
from gatewise.geometry import per_row, row_norm, rows_of, unit_rows
from gatewise.streams import RowStreams


@dataclass(frozen=True, eq=False)
class Ball(Domain):
    """Base of the balls `||x - center|| <= radius`; a subclass names its norm and the dual of it.

    Args:
        center: (batch, …), or (1, …) for a centre that all rows share; float32 or float64, finite. A float64 centre
            takes float32 points only where they can equal it.
        radius: a number or (batch,), finite, at least 0. It counts as given: 0.2 is the float64 number, and float32
            points stay within it. At radius 0 the centre itself is the only point.

    Raises:
        InvalidInput: NaN or infinite entries, a negative radius, a wrong shape or dtype.
    """

    center: Tensor
    radius: float | Tensor
    _radius: Tensor = field(init=False, repr=False)

    norm: ClassVar[float]
    dual_norm: ClassVar[float]

    def __post_init__(self):
        object.__setattr__(self, "center", as_center(self.center))
        object.__setattr__(self, "_radius", as_radius(self.radius, self.center))

    def violation(self, x: Tensor) -> Tensor:
        """`||x - center|| - radius` where positive, else 0; (batch,) float64."""
        check_center(x, self.center, self._radius)
        return (row_norm(x.double() - self.center.double(), self.norm) - self._radius).clamp(min=0)

    def support(self, direction: Tensor) -> Tensor:
        """`<direction, center> + radius * dual norm of direction`, (batch,)."""
        check_center(direction, self.center, self._radius)
        slope = direction.double()
        at_center = (slope * self.center.double()).flatten(1).sum(1)
        return (at_center + self._radius * row_norm(slope, self.dual_norm)).to(direction.dtype)

    def size(self, like: Tensor) -> Tensor:
        """The radius, (batch,)."""
        check_center(like, self.center, self._radius)
        return self._radius.to(like.dtype).expand(like.shape[0])

    def of_rows(self, rows: Tensor, like: Tensor) -> Self:
        """The balls of these rows."""
        return type(self)(rows_of(self.center, rows, like.ndim), rows_of(self._radius, rows, 1))

    def _inside(self, direction: Tensor, like: Tensor) -> Tensor:
        """The point `center + radius * direction` in `like`'s dtype, for a direction of norm at most 1 (float64)."""
        radius = per_row(inside_radius(self._radius, like.shape[1:].numel()).expand(len(like)), like)
        return toward(self.center.double().expand_as(like), radius * direction, like.dtype)


@dataclass(frozen=True, eq=False)
class LinfBall(Ball, Intervals):
    """`max |x - center| <= radius`; see `Ball` for the arguments."""

    norm: ClassVar[float] = torch.inf
    dual_norm: ClassVar[float] = 1
    _cache: dict = field(init=False, repr=False, default_factory=dict)

    def _edges(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        center = self.center.double()
        radius = per_row(self._radius, center)
        return -farthest(-center, radius, dtype), farthest(center, radius, dtype)

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """As in `Intervals`."""
        check_center(like, self.center, self._radius)
        return super().bounds(like)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The sign of the gradient."""
        check_center(gradient, self.center, self._radius)
        return gradient.sign()


@dataclass(frozen=True, eq=False)
class L2Ball(Ball):
    """`||x - center||_2 <= radius`; see `Ball` for the arguments."""

    norm: ClassVar[float] = 2
    dual_norm: ClassVar[float] = 2

    def project(self, x: Tensor) -> Tensor:
        """The nearest point, each entry rounded toward the centre."""
        check_center(x, self.center, self._radius)
        center = self.center.double().expand_as(x)
        offset = x.double() - center
        distance = row_norm(offset)
        outside = distance > self._radius
        if not outside.any():
            return x.clone()
        share = inside_radius(self._radius, x.shape[1:].numel()) / distance
        found = toward(center, offset * per_row(share, x), x.dtype)
        return found if outside.all() else torch.where(per_row(outside, x), found, x)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The gradient divided by its 2-norm."""
        check_center(gradient, self.center, self._radius)
        return unit_rows(gradient)

    def sample(self, streams: RowStreams, like: Tensor) -> Tensor:
        """Uniform draws in the ball: a normal direction and a radius to the power 1/n."""
        check_center(like, self.center, self._radius)
        direction = unit_rows(streams.normal(like).double())
        share = streams.uniform(like.flatten(1)[:, :1]).double() ** (1 / like.shape[1:].numel())
        return self._inside(direction * per_row(share[:, 0], like), like)


@dataclass(frozen=True, eq=False)
class L1Ball(Ball):
    """`||x - center||_1 <= radius`; see `Ball` for the arguments."""

    norm: ClassVar[float] = 1
    dual_norm: ClassVar[float] = torch.inf

    def project(self, x: Tensor) -> Tensor:
        """The nearest point (the exact threshold of Duchi et al., ICML 2008), rounded toward the centre."""
        check_center(x, self.center, self._radius)
        endless = x.new_full((), torch.inf)
        return clipped_ball.nearest(x, self.center, self._radius, 1, -endless, endless)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The sign of the gradient's largest entry in magnitude, the first of them in a tie; zeros elsewhere."""
        check_center(gradient, self.center, self._radius)
        flat = gradient.flatten(1)
        largest = flat.abs().argmax(1, keepdim=True)
        return torch.zeros_like(flat).scatter(1, largest, flat.gather(1, largest).sign()).reshape(gradient.shape)

    def sample(self, streams: RowStreams, like: Tensor) -> Tensor:
        """Uniform draws in the ball: n of n + 1 exponential draws divided by the sum of all, with random signs."""
        check_center(like, self.center, self._radius)
        sizes, signs = -torch.log1p(-streams.uniform(like).double()), streams.uniform(like) - 0.5
        rest = -torch.log1p(-streams.uniform(like.flatten(1)[:, :1]).double())
        total = (sizes.flatten(1).sum(1) + rest[:, 0]).clamp(min=torch.finfo(torch.float64).tiny)
        return self._inside(sizes.copysign(signs) / per_row(total, like), like)


BALLS: dict[float, type[Ball]] = {ball.norm: ball for ball in (L1Ball, L2Ball, LinfBall)}
"""By norm."""
