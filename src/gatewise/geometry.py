"""Words of geometry that every floor shares: rows, row norms, half-spaces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Reshape `values` (batch,) to (batch, 1, …, 1) so that it broadcasts over the rows of `like`."""
    return values.reshape(-1, *[1] * (like.ndim - 1))


def rows_of(data: Tensor, rows: Tensor, ndim: int) -> Tensor:
    """The rows `rows` (k,) int64 of data that has a batch axis, that is `ndim` axes and more than one row; data
    that all rows share comes back as it is.
    """
    return data[rows.to(data.device)] if data.ndim == ndim and len(data) > 1 else data


def row_norm(x: Tensor, p: float = 2) -> Tensor:
    """The p-norm of each row of `x` (batch, …): shape (batch,); p may be `inf`."""
    return torch.linalg.vector_norm(x.flatten(1), ord=p, dim=1)


def unit_rows(x: Tensor) -> Tensor:
    """Each row of `x` (batch, …) divided by its 2-norm; a row of zeros stays zero."""
    norm = row_norm(x)
    if bool((norm > 1e-15).all()):
        return x / per_row(norm, x)
    # Squares of entries below 1e-20 underflow in float32: such rows are scaled by their largest entry first.
    largest = x.flatten(1).abs().amax(1)
    scaled = x / per_row(largest.where(largest > 0, 1), x)
    norm = row_norm(scaled)
    return scaled / per_row(norm.where(norm > 0, 1), x)


@dataclass(frozen=True)
class HalfSpaces:
    """The polyhedron `A x <= b`, one per row, as an operator: A is never formed unless `dense` asks for it.

    `product` maps points (batch, …) to (batch, m); `transpose_product` maps multipliers (batch, m) to (batch, …);
    `offset` is b, (batch, m) or (1, m).
    """

    product: Callable[[Tensor], Tensor]
    transpose_product: Callable[[Tensor], Tensor]
    offset: Tensor

    def slack(self, x: Tensor) -> Tensor:
        """`b - A x`, shape (batch, m): non-negative exactly where `x` satisfies the constraint."""
        return self.offset - self.product(x)

    def dense(self, like: Tensor) -> Tensor:
        """A as a matrix (batch, m, n) for points shaped as `like` (batch, …), with n entries a row."""
        batch, m = like.shape[0], self.offset.shape[-1]
        rows = [
            self.transpose_product(unit.expand(batch, m)).flatten(1)
            for unit in torch.eye(m, dtype=like.dtype, device=like.device)
        ]
        return torch.stack(rows, dim=1)
