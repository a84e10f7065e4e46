"""How an objective bends: products with its second derivative in input and output, for second-order methods."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gatewise.objectives.base import ObjectiveFunction, Sum
from gatewise.objectives.least_squares import LeastSquares
from gatewise.objectives.penalised import Penalised

Curvature = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""From directions in input and output, shaped as they are, to the products, likewise."""


def curvature(objective: ObjectiveFunction, x: Tensor, y: Tensor) -> Curvature:
    """The curvature of `objective` at input `x` (batch, …) and output `y` (batch, …), which stand for themselves here:
    the network between them is not looked at.

    Of a sum of squares `||r||^2` it is Gauss and Newton's `2 r'^T r'`, never negative; of another objective the Hessian
    (Schraudolph 2002), whatever its sign; of sums, the sum.
    """
    match objective:
        case Sum(terms):
            parts = [curvature(term, x, y) for term in terms]

            def total(px: Tensor, py: Tensor) -> tuple[Tensor, Tensor]:
                of_x, of_y = zip(*(part(px, py) for part in parts), strict=True)
                return torch.stack(of_x).sum(0), torch.stack(of_y).sum(0)

            return total
        case Penalised(inner, _, weight):
            bend = curvature(inner, x, y)

            def penalised(px: Tensor, py: Tensor) -> tuple[Tensor, Tensor]:
                of_x, of_y = bend(px, py)
                return of_x + weight * px, of_y

            return penalised
        case LeastSquares():
            return _of_squares(objective, x, y)
        case _:
            return _hessian(objective, x, y)


def _of_squares(objective: LeastSquares, x: Tensor, y: Tensor) -> Curvature:
    at = (x.detach().requires_grad_(), y.detach().requires_grad_())
    with torch.enable_grad():
        residual = objective.residual(*at)
        # r'^T u is linear in u, so that its derivative in u along p is r' p.
        u = torch.zeros_like(residual).requires_grad_()
        slopes = torch.autograd.grad(residual, at, u, create_graph=True, materialize_grads=True)

    def product(px: Tensor, py: Tensor) -> tuple[Tensor, Tensor]:
        felt = [(slope, p) for slope, p in zip(slopes, (px, py), strict=True) if slope.requires_grad]
        (along,) = torch.autograd.grad([slope for slope, _ in felt], u, [p for _, p in felt], retain_graph=True)
        of_x, of_y = torch.autograd.grad(residual, at, 2 * along, retain_graph=True, materialize_grads=True)
        return of_x, of_y

    return product


def _hessian(objective: ObjectiveFunction, x: Tensor, y: Tensor) -> Curvature:
    at = (x.detach().requires_grad_(), y.detach().requires_grad_())
    with torch.enable_grad():
        value = objective(*at).sum()
        slopes = (
            torch.autograd.grad(value, at, create_graph=True, materialize_grads=True) if value.requires_grad else at
        )
    bent = [(slope, i) for i, slope in enumerate(slopes) if value.requires_grad and slope.requires_grad]

    def product(px: Tensor, py: Tensor) -> tuple[Tensor, Tensor]:
        if not bent:
            return torch.zeros_like(px), torch.zeros_like(py)
        slopes, along = [slope for slope, _ in bent], [(px, py)[i] for _, i in bent]
        of_x, of_y = torch.autograd.grad(slopes, at, along, retain_graph=True, materialize_grads=True)
        return of_x, of_y

    return product
