"""A block's matrix, written out once, and `I + W'W` by a Cholesky factor on its smaller side."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor


class Dense:
    """W, (outputs, inputs)."""

    def __init__(self, matrix: Tensor):
        self.matrix = matrix

    @cached_property
    def _factor(self) -> Tensor:
        w = self.matrix.double()
        gram = w.mT @ w if w.shape[1] <= w.shape[0] else w @ w.mT
        return torch.linalg.cholesky(gram + torch.eye(len(gram), dtype=w.dtype, device=w.device)).to(self.matrix.dtype)

    def solve(self, right: Tensor) -> Tensor:
        """`(I + W'W)^{-1} right` for `right` (batch, inputs); where outputs are fewer, by Woodbury's identity
        `(I + W'W)^{-1} = I - W'(I + WW')^{-1}W`.
        """
        if self.matrix.shape[1] <= self.matrix.shape[0]:
            return torch.cholesky_solve(right.mT, self._factor).mT
        inner = torch.cholesky_solve(self.matrix @ right.mT, self._factor)
        return right - (self.matrix.mT @ inner).mT

    @cached_property
    def _modes(self) -> tuple[Tensor, Tensor]:
        """Squared singular values and right singular vectors."""
        _, values, vectors = torch.linalg.svd(self.matrix.double(), full_matrices=False)
        return values.square().to(self.matrix.dtype), vectors.to(self.matrix.dtype)

    def solve_shifted(self, right: Tensor, shift: Tensor) -> Tensor:
        """`(shift I + W'W)^{-1} right` with a shift of each row's own, (batch,) at least 0; what W'W and the shift
        leave singular to rounding is held at a ten-thousandth of W'W's largest eigenvalue.
        """
        values, vectors = self._modes
        floor = 1e-4 * values.max()
        across = right @ vectors.mT
        rest = right - across @ vectors
        shift = shift[:, None]
        return (across / (values + shift).clamp_min(floor)) @ vectors + rest / shift.clamp_min(floor)
