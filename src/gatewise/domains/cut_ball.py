"""An l2 or l1 ball cut by a box: the set of an attack that keeps images images."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gatewise.domains import _clipped_ball as clipped_ball
from gatewise.domains._points import check_center, check_together
from gatewise.domains.balls import L1Ball, L2Ball
from gatewise.domains.base import Domain
from gatewise.domains.intervals import Intervals
from gatewise.errors import InvalidInput
from gatewise.geometry import per_row
from gatewise.streams import RowStreams


@dataclass(frozen=True, eq=False)
class CutBall(Domain):
    """The points of `ball` that lie in `box`, a `Box` or a linf ball; everything about it is exact.

    In the l2 ball's norm a step is as long as in the ball. For the l1 ball, whose longest steps change one entry, it
    is `max(||step||_1, radius * max |step| / width)`: see `steepest`.

    Raises:
        InvalidInput: ball and box do not meet, or their shapes do not go together.
    """

    ball: L2Ball | L1Ball
    box: Intervals
    _met: set = field(init=False, repr=False, default_factory=set)

    def __post_init__(self):
        center, (lower, upper) = self.ball.center.double(), self.box.nonempty_edges(torch.float64)
        rows = (*self.ball._radius.shape, *[1] * (center.ndim - 1)) if self.ball._radius.ndim else ()
        shape = check_together(center=center.shape, radius=rows, lower=lower.shape, upper=upper.shape)
        self._bounds(center.new_zeros(()).expand(shape))

    def _bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The box's bounds in `like`'s dtype, after making sure (once a dtype) that a point of it is in the ball."""
        lower, upper = self.box.bounds(like)
        check_center(like, self.ball.center, self.ball._radius)
        if like.dtype not in self._met:
            anchor = self.ball.center.to(like.dtype).expand(like.shape).clamp(lower, upper)
            if (self.ball.violation(anchor) > 0).any():
                raise InvalidInput(
                    f"The ball and the box have no {like.dtype} point in common in some row; enlarge the radius or "
                    "move the center toward the box."
                )
            self._met.add(like.dtype)
        return lower, upper

    def project(self, x: Tensor) -> Tensor:
        """The nearest point, rounded inward; a root of one equation a row."""
        lower, upper = self._bounds(x)
        return clipped_ball.nearest(x, self.ball.center, self.ball._radius, int(self.ball.norm), lower, upper)

    def violation(self, x: Tensor) -> Tensor:
        """The larger of the two violations, (batch,) float64."""
        return self.ball.violation(x).maximum(self.box.violation(x))

    def support(self, direction: Tensor) -> Tensor:
        """The maximum of `<direction, x>`, (batch,); an infinite box is cut by the ball."""
        check_center(direction, self.ball.center, self.ball._radius)
        slope = direction.double()
        lower, upper = self.box.bounds(slope)
        norm = int(self.ball.norm)
        return clipped_ball.support(slope, self.ball.center, self.ball._radius, norm, lower, upper).to(direction.dtype)

    def steepest(self, gradient: Tensor) -> Tensor:
        """The l2 ball's step; for an l1 ball, the largest gradient entries moved as far as the radius pays for.

        The l1 ball's own steepest step moves one entry, and the box then stops it short. So the step may not move an
        entry farther than `width / radius`: the same share of the box as the whole step is of the radius. Then it is
        the sign of the gradient on the `radius / width` entries of largest magnitude: as many changes through the
        full range of a pixel as the radius pays for (Croce & Hein, "Mind the box", ICML 2021).
        """
        lower, upper = self._bounds(gradient)
        if isinstance(self.ball, L2Ball):
            return self.ball.steepest(gradient)
        slope = gradient.flatten(1).abs().double()
        # At radius 0 any step will do; this one is finite.
        radius = per_row(self.ball._radius, gradient).clamp(min=torch.finfo(torch.float64).tiny)
        share = ((upper.double() - lower.double()) / radius).expand_as(gradient).flatten(1)
        unit = torch.ones_like(slope[:, 0])
        lengths = clipped_ball.longest(slope, torch.zeros_like(slope), share.clamp(max=1), unit, 1)
        return (lengths.reshape(gradient.shape) * gradient.sign()).to(gradient.dtype)

    def sample(self, streams: RowStreams, like: Tensor) -> Tensor:
        """Uniform draws from the ball, projected: not uniform where the box cuts."""
        return self.project(self.ball.sample(streams, like))

    def size(self, like: Tensor) -> Tensor:
        """The ball's radius, (batch,)."""
        return self.ball.size(like)
