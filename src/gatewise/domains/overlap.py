"""What two sets of intervals share: a linf ball in a box, the commonest set in the field."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gatewise.domains._points import check_together
from gatewise.domains.box import Box
from gatewise.domains.intervals import Intervals


@dataclass(frozen=True, eq=False)
class Overlap(Intervals):
    """A linf ball with a box, or with another linf ball; the norm is the ball's."""

    first: Intervals
    second: Intervals
    _cache: dict = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self):
        self.nonempty_edges(torch.float64)

    def _edges(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        (lower, upper), (other_lower, other_upper) = self.first._edges(dtype), self.second._edges(dtype)
        check_together(first=lower.shape, second=other_lower.shape)
        check_together(first=upper.shape, second=other_upper.shape)
        return lower.maximum(other_lower), upper.minimum(other_upper)

    def violation(self, x: Tensor) -> Tensor:
        """The larger of the two violations, (batch,) float64."""
        return self.first.violation(x).maximum(self.second.violation(x))

    def steepest(self, gradient: Tensor) -> Tensor:
        """The sign of the gradient."""
        self.bounds(gradient)
        return gradient.sign()

    def size(self, like: Tensor) -> Tensor:
        """The ball's radius, the smaller of two, (batch,)."""
        balls = [member for member in (self.first, self.second) if not isinstance(member, Box)]
        return torch.stack([ball.size(like) for ball in balls]).amin(0)
