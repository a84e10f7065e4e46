"""A linear functional of the output."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gatewise.geometry import rows_of
from gatewise.objectives.base import Objective


@dataclass(frozen=True, eq=False)
class Linear(Objective):
    """`<weights, y>`; `weights` has the shape of one output, or (batch, …) for one functional a row."""

    weights: Tensor

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(batch,)."""
        return (self.weights * y).flatten(1).sum(1)

    def of_rows(self, rows: Tensor, x: Tensor, y: Tensor) -> Linear:
        """The functionals of these rows."""
        return Linear(rows_of(self.weights, rows, y.ndim))
