"""An l2 ball cut by a set of any kind."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gatewise.domains._points import check_center
from gatewise.domains._rounding import inside_radius
from gatewise.domains.balls import L2Ball
from gatewise.domains.base import Domain
from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.geometry import per_row, row_norm
from gatewise.streams import RowStreams

MOST_STEPS = 200
BACK_OFFS = [0.0] + [2.0**-k for k in range(54, -1, -1)]


@dataclass(frozen=True, eq=False)
class CarvedBall(Domain):
    """The points of `ball` that lie in `other`, through nothing but the projection on `other`; the norm is the ball's.

    The nearest point to x is the projection on `other` of a point between x and the ball's centre: with a multiplier
    m >= 0 for the ball, `z - x + m (z - center)` is normal to `other` at z, so z is the projection of
    `center + share * (x - center)` with `share = 1 / (1 + m)`. Its distance from the centre rises with the share.

    Rows with entries that are not finite come back with NaN.

    Raises:
        InvalidInput: at first use, where the two have no point in common.
    """

    ball: L2Ball
    other: Domain
    _met: set = field(init=False, repr=False, default_factory=set)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point: on the way from x to the centre, the last whose projection on `other` is in the ball."""
        self._require_met(x)
        nearest = self.other.project(x)
        outside = self.ball.violation(nearest) > 0
        if not outside.any():
            return nearest
        share, waiting = self._share(x.double(), outside), outside
        # Rounding to x's dtype may leave the ball again: the share is lowered until it does not, at last to 0.
        for back_off in BACK_OFFS:
            candidate = self._projected(share * (1 - back_off), x)
            good = waiting & (self.ball.violation(candidate) == 0)
            nearest, waiting = torch.where(per_row(good, x), candidate, nearest), waiting & ~good
            if not waiting.any():
                break
        return torch.where(per_row(waiting, x), torch.nan, nearest)

    def _projected(self, share: Tensor, x: Tensor) -> Tensor:
        """The projection on `other` of the point that far (batch,) from the centre to `x`, in its dtype."""
        center = self.ball.center.double()
        return self.other.project((center + per_row(share, x) * (x.double() - center)).to(x.dtype))

    def _share(self, x: Tensor, wanted: Tensor) -> Tensor:
        """The share at which the projection leaves the ball, in the rows that are `wanted`; all float64."""
        center = self.ball.center.double()
        radius = inside_radius(self.ball.size(x), x.shape[1:].numel())

        def excess(share: Tensor) -> Tensor:
            return row_norm(self._projected(share, x) - center) - radius

        # Projections move no farther than what is projected, so that much is safe.
        at_center = excess(torch.zeros_like(radius))
        low = (-at_center).clamp(min=0) / row_norm(x - center).clamp(min=torch.finfo(x.dtype).tiny)
        high = torch.ones_like(low)
        below, above = excess(low), excess(high)
        moving = wanted & (below < 0) & (above > 0)
        side = torch.zeros_like(low)
        for step in range(MOST_STEPS):
            if not moving.any():
                break
            secant = (low * above - high * below) / (above - below)
            middle = torch.where(moving, (low + high) / 2 if step % 4 == 3 else secant, low)
            value = excess(middle)
            under = value <= 0
            # An end that stays for a second time counts half (the Illinois rule), else the secant would crawl.
            below, above = (
                torch.where(under, value, torch.where(side > 0, below / 2, below)),
                torch.where(under, torch.where(side < 0, above / 2, above), value),
            )
            side = torch.where(under, -1.0, 1.0)
            low, high = torch.where(moving & under, middle, low), torch.where(moving & ~under, middle, high)
            tolerance = 2 * torch.finfo(x.dtype).eps
            moving = moving & (high - low > tolerance * high) & (value.abs() > tolerance * radius)
        return low

    def _require_met(self, like: Tensor) -> None:
        """Make sure, once a shape and dtype, that the point of `other` nearest to the centre is in the ball."""
        check_center(like, self.ball.center, self.ball._radius)
        if (like.dtype, like.shape) in self._met:
            return
        anchor = self.other.project(self.ball.center.to(like.dtype).expand(like.shape))
        if (self.ball.violation(anchor) > 0).any():
            raise InvalidInput(
                f"The ball and the {type(self.other).__name__} have no {like.dtype} point in common in some row; "
                "enlarge the radius or move the center."
            )
        self._met.add((like.dtype, like.shape))

    def violation(self, x: Tensor) -> Tensor:
        """The larger of the two violations, (batch,) float64."""
        return self.ball.violation(x).maximum(self.other.violation(x))

    def steepest(self, gradient: Tensor) -> Tensor:
        """The gradient divided by its 2-norm."""
        return self.ball.steepest(gradient)

    def support(self, direction: Tensor) -> Tensor:
        """Not known from projections.

        Raises:
            UnsupportedProblem: always.
        """
        raise UnsupportedProblem(
            f"An l2 ball cut by a {type(self.other).__name__} has no exact support function here; intersect the "
            "ball with a box, or leave it out."
        )

    def sample(self, streams: RowStreams, like: Tensor) -> Tensor:
        """Uniform draws from the ball, projected: not uniform where `other` cuts."""
        return self.project(self.ball.sample(streams, like))

    def size(self, like: Tensor) -> Tensor:
        """The ball's radius, (batch,)."""
        return self.ball.size(like)
