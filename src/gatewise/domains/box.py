"""The box."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gatewise.domains._points import as_data, check_points, check_together
from gatewise.domains._rounding import at_least, at_most
from gatewise.domains.intervals import Intervals
from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.geometry import per_row, rows_of


@dataclass(frozen=True, eq=False)
class Box(Intervals):
    """`lower <= x <= upper`, entry by entry.

    Its norm is the linf norm of the step measured in half-widths, times the largest half-width of the row: in a box
    of equal widths it is the linf norm itself.

    Args:
        lower: a number, or a float32 or float64 tensor that broadcasts against the points: (batch, …) for bounds of
            each row's own, any shape without the batch axis for bounds that all rows share. May hold `-inf`.
        upper: likewise, at least `lower`; may hold `inf`. Bounds count as given: 0.1 is the float64 number, and
            float32 points stay within it.

    Raises:
        InvalidInput: NaN, `lower` above `upper` somewhere, shapes that do not go together, or a wrong dtype.
    """

    lower: float | Tensor
    upper: float | Tensor
    _lower: Tensor = field(init=False, repr=False)
    _upper: Tensor = field(init=False, repr=False)
    _cache: dict = field(init=False, repr=False, default_factory=dict)

    def __post_init__(self):
        lower, upper = as_data("lower", self.lower).double(), as_data("upper", self.upper).double()
        check_together(lower=lower.shape, upper=upper.shape)
        if (lower > upper).any():
            raise InvalidInput("lower is above upper in some entry; swap or correct the bounds.")
        if (lower == torch.inf).any() or (upper == -torch.inf).any():
            raise InvalidInput("lower is inf or upper is -inf in some entry, where no number fits; give finite ones.")
        object.__setattr__(self, "_lower", lower)
        object.__setattr__(self, "_upper", upper)

    def _edges(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        return at_least(self._lower, dtype), at_most(self._upper, dtype)

    def violation(self, x: Tensor) -> Tensor:
        """The largest excess of an entry over its bound, (batch,) float64."""
        check_points(x, self._lower.shape, self._upper.shape)
        point = x.double()
        excess = torch.maximum(self._lower.to(x.device) - point, point - self._upper.to(x.device))
        return excess.flatten(1).amax(1).clamp(min=0)

    def steepest(self, gradient: Tensor) -> Tensor:
        """`sign(gradient) * half_width / largest half_width` of the row; plain signs in a row without end."""
        check_points(gradient, self._lower.shape, self._upper.shape)
        half_width = self._half_width(gradient)
        if half_width.ndim == 0:
            return gradient.sign()
        largest = per_row(self._largest(half_width, gradient), gradient)
        scale = torch.where(largest.isfinite(), half_width / largest.where(largest > 0, 1), 1)
        return gradient.sign() * scale.to(gradient.dtype)

    def size(self, like: Tensor) -> Tensor:
        """The largest half-width of each row, (batch,)."""
        check_points(like, self._lower.shape, self._upper.shape)
        largest = self._largest(self._half_width(like), like)
        if not largest.isfinite().all():
            raise UnsupportedProblem(
                "A box with an infinite bound has no size to measure steps by; give finite bounds, or intersect it "
                "with a ball."
            )
        return largest.to(like.dtype)

    def of_rows(self, rows: Tensor, like: Tensor) -> Box:
        """The bounds of these rows."""
        return Box(*(rows_of(edge, rows, like.ndim) for edge in (self._lower, self._upper)))

    def _half_width(self, like: Tensor) -> Tensor:
        return ((self._upper - self._lower) / 2).to(like.device)

    def _largest(self, half_width: Tensor, like: Tensor) -> Tensor:
        return half_width.expand(like.shape).flatten(1).amax(1)
