"""Sums of squares, whose form Gauss-Newton steps need to see."""

from __future__ import annotations

import abc

from torch import Tensor

from gatewise.objectives.base import Objective


class LeastSquares(Objective):
    """Base of the objectives that are `||residual||_2^2`."""

    @abc.abstractmethod
    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """What is squared and summed, (batch, m), weights included; differentiable in input `x` and output `y`."""

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(batch,)."""
        return self.residual(x, y).square().sum(1)
