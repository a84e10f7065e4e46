"""Conjugate gradients for many symmetric positive (semi)definite systems at once, each row stopping by itself.

Source: Hestenes & Stiefel 1952; with a preconditioner, Golub & Van Loan, "Matrix computations" (2013), section 11.5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from gatewise.geometry import per_row


class Solved(NamedTuple):
    """`solution` (batch, …), its `product` with the matrix, and how many products each row took, (batch,) int64."""

    solution: Tensor
    product: Tensor
    steps: Tensor


def conjugate_gradients(
    product: Callable[[Tensor], Tensor],
    right: Tensor,
    *,
    tolerance: float,
    most: int | Tensor,
    precondition: Callable[[Tensor], Tensor] = lambda residual: residual,
) -> Solved:
    """Solve `A d = right` from d = 0, for each row of `right` (batch, …).

    Args:
        product: `A d`, each row by itself.
        right: the right-hand sides; in singular systems, in the range of A.
        tolerance: a row stops where its residual is this share of its right-hand side in 2-norm.
        most: products at most, for all rows or (batch,) int64 for each; what there is then comes back. Every step
            lowers `d'Ad/2 - right'd`.
        precondition: an approximate solve, symmetric and positive definite.
    """
    solution, image, residual = torch.zeros_like(right), torch.zeros_like(right), right
    steps = torch.zeros(len(right), dtype=torch.int64, device=right.device)
    enough = tolerance**2 * _inner(right, right)
    direction, weight = right, torch.ones_like(enough)
    for step in range(int(most.max()) if isinstance(most, Tensor) else most):
        open_rows = (_inner(residual, residual) > enough) & (steps < most)
        if not bool(open_rows.any()):
            break
        near = precondition(residual)
        before, weight = weight, _inner(residual, near)
        share = _quotient(weight, before) if step else torch.zeros_like(weight)
        direction = near + per_row(share, near) * direction
        pushed = product(direction)
        length = per_row(torch.where(open_rows, _quotient(weight, _inner(direction, pushed)), 0), right)
        solution = solution + length * direction
        image = image + length * pushed
        residual = residual - length * pushed
        steps += open_rows
    return Solved(solution, image, steps)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).flatten(1).sum(1)


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return torch.where(b > 0, a / b.where(b > 0, 1), 0)
