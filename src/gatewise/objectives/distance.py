"""Distances: of the output to a target, of the input to where it came from."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gatewise.geometry import row_norm
from gatewise.objectives.base import Objective


@dataclass(frozen=True, eq=False)
class SquaredOutputDistance(Objective):
    """`||y - target||_2^2`; `target` has the shape of one output or of the batch."""

    target: Tensor

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(batch,)."""
        return (y - self.target).flatten(1).square().sum(1)


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
