"""Distances: of the output to a target, of the input to where it came from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gatewise.geometry import row_norm, rows_of
from gatewise.objectives.base import Objective


@dataclass(frozen=True, eq=False)
class SquaredOutputDistance(Objective):
    """`||y - target||_2^2`; `target` has the shape of one output or of the batch."""

    target: Tensor

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(batch,)."""
        return (y - self.target).flatten(1).square().sum(1)

    def of_rows(self, rows: Tensor, x: Tensor, y: Tensor) -> SquaredOutputDistance:
        """The distances to these rows' targets."""
        return SquaredOutputDistance(rows_of(self.target, rows, y.ndim))


@dataclass(frozen=True, eq=False)
class Distance(Objective):
    """`||x - center||_p` of the input, p = 1, 2 or inf: with a goal, the nearest point that reaches it.

    `center` (batch, …). Its gradient at the centre is taken as 0.
    """

    center: Tensor
    p: float = 2

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(batch,)."""
        return row_norm(x - self.center, self.p)

    def of_rows(self, rows: Tensor, x: Tensor, y: Tensor) -> Distance:
        """The distances from these rows' centres."""
        return Distance(rows_of(self.center, rows, x.ndim), self.p)
