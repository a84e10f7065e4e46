"""Projected gradient on a ball, as a dynamical system: a smooth loss on the sphere, and how it is walked.

Source: Deng, He, Huang, Su, "Towards understanding the dynamics of the first-order adversaries" (ICML 2020). All is
told of the minimised loss L of an offset d in the ball `||d||_2 <= eps`, as in its theory: a minimum of L is an
adversary (the loss that an attack raises is -L), a maximum the least harmful point. With c(d) = ||d||² - eps²:

    multiplier          lambda* = <dL, d> / (2 ||d||²)
    tangent gradient    Gamma = dL - 2 lambda* d, the tangential part of dL
    tangent Hessian     Xi = d²L - 2 lambda* I; on tangent directions it is how L bends along the sphere
    cosine              <dL, d> / (||dL|| ||d||): a point of the sphere is critical where it is 1 or -1; at -1 the
                        gradient holds an adversary on the sphere, at 1 it points away from it

Deviations: (1) the print calls Gamma the tangential part of the network's gradient df; it is that of dL = L'(f) df.
(2) The cosine is taken with dL, so that its sign does not turn with the sign of the residual y - f; with df it is the
same up to that sign. (3) In the ball's interior lambda* and Gamma are those of the sphere through the point.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gatewise.domains import L2Ball
from gatewise.errors import InvalidInput
from gatewise.geometry import row_norm, unit_rows
from gatewise.streams import RowStreams

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

_DENSE = 24  # up to so many inputs the tangent Hessian is written out
_ON_THE_SPHERE = 1e-9  # of the radius


@dataclass(frozen=True, eq=False)
class SphereLoss:
    """A smooth loss L, minimised, over offsets in a ball.

    Args:
        value: L of offsets (k, size) float64, each row by itself: (k,). Differentiable twice.
        radius: of the ball around the offset 0, positive.
        size: entries of an offset, at least 2.

    Raises:
        InvalidInput: a radius or size that cannot be used.
    """

    value: Callable[[Tensor], Tensor]
    radius: float
    size: int

    def __post_init__(self):
        if not (self.radius > 0 and math.isfinite(self.radius)):
            raise InvalidInput(f"The radius must be a positive number, got {self.radius}.")
        if self.size < 2:
            raise InvalidInput("A sphere in one dimension is two points; give an input of two numbers or more.")

    @property
    def ball(self) -> L2Ball:
        """The ball itself."""
        return L2Ball(torch.zeros(1, self.size, dtype=torch.float64), self.radius)

    def gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """L (k,) and dL (k, size) at `points` (k, size)."""
        x = points.detach().requires_grad_()
        with torch.enable_grad():
            value = self.value(x)
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach(), gradient

    def hessian(self, points: Tensor) -> Callable[[Tensor], Tensor]:
        """Products with d²L at `points` (k, size): a function from directions (k, size) to (k, size)."""
        x = points.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self.value(x).sum(), x, create_graph=True)

        def product(directions: Tensor) -> Tensor:
            if not gradient.requires_grad:  # L is affine
                return torch.zeros_like(directions)
            return torch.autograd.grad(gradient, x, directions, retain_graph=True, materialize_grads=True)[0]

        return product

    def at(self, points: Tensor) -> SphereState:
        """What holds at `points` (k, size) of the ball."""
        value, gradient = self.gradient(points)
        along, square = (gradient * points).sum(1), points.square().sum(1)
        multiplier = torch.where(square > 0, along / (2 * square), 0.0)
        tangent = gradient - 2 * multiplier[:, None] * points
        length = row_norm(gradient) * square.sqrt()
        cosine = torch.where(length > 0, along / length, 0.0).clamp(-1, 1)
        on_sphere = square.sqrt() >= self.radius * (1 - _ON_THE_SPHERE)
        return SphereState(value, gradient, multiplier, tangent, cosine, on_sphere)

    def tangent_hessian(self, points: Tensor) -> Callable[[Tensor], Tensor]:
        """Products with P Xi P at `points` (k, size), P the projection on the tangent space: (k, size) to (k, size)."""
        product, multiplier = self.hessian(points), self.at(points).multiplier

        def tangent_product(directions: Tensor) -> Tensor:
            flat = tangential(directions, points)
            return tangential(product(flat) - 2 * multiplier[:, None] * flat, points)

        return tangent_product

    def extreme_eigenvalues(self, points: Tensor, *, tangent: bool = True) -> Tensor:
        """The smallest and the largest eigenvalue (k, 2) of Xi at `points` (k, size), on tangent directions or all.

        By Lanczos (ARPACK); written out where there are few inputs.

        Raises:
            InvalidInput: Lanczos does not converge, as at eigenvalues that hardly differ or are not finite.
        """
        return torch.stack([self._extremes(point[None], tangent) for point in points])

    def _extremes(self, point: Tensor, tangent: bool) -> Tensor:
        n, normal, multiplier = self.size, unit_rows(point), float(self.at(point).multiplier)
        product, inside = self.hessian(point), 0.0
        if tangent:
            product = self.tangent_hessian(point)
            # The normal is given an eigenvalue from inside the tangent spectrum, where it hides.
            probe = unit_rows(tangential(RowStreams(0, [0]).normal(point), point))
            inside = float((probe * product(probe)).sum())

        def whole(direction: Tensor) -> Tensor:
            if tangent:
                return product(direction) + inside * (direction * normal).sum() * normal
            return product(direction) - 2 * multiplier * direction

        if n <= _DENSE:
            matrix = torch.cat([whole(unit[None]) for unit in torch.eye(n, dtype=point.dtype)])
            eigenvalues = torch.linalg.eigvalsh((matrix + matrix.T) / 2)
            return eigenvalues[[0, -1]]
        from scipy.sparse.linalg import ArpackNoConvergence, eigsh

        operator = matrix_free(whole, n)
        start = RowStreams(0, [1]).normal(point)[0].numpy()
        try:
            found = eigsh(operator, k=2, which="BE", v0=start, tol=1e-8, return_eigenvectors=False)  # pyright: ignore
        except ArpackNoConvergence as error:
            raise InvalidInput("Lanczos found no extreme eigenvalues of the tangent Hessian; use a smaller radius or a "
                               "higher temperature.") from error  # fmt: skip
        return torch.from_numpy(np.sort(found))

    def uniform(self, count: int, seed: int) -> Tensor:
        """Uniform draws in the ball, (count, size) float64: where the paper's walks begin."""
        return self.ball.sample(RowStreams(seed, range(count)), torch.zeros(count, self.size, dtype=torch.float64))

    def onto_sphere(self, points: Tensor) -> Tensor:
        """`points` (k, size), none of them 0, scaled to the sphere, which they do not leave outward."""
        return self.ball.project(unit_rows(points) * (2 * self.radius))


@dataclass(frozen=True, eq=False)
class SphereState:
    """What holds at k points; the module's docstring has the definitions.

    `value` L (k,), `gradient` dL (k, size), `multiplier` lambda* (k,), `tangent` Gamma (k, size), `cosine` (k,) in
    [-1, 1] (0 where one of the two vectors is 0), `on_sphere` (k,) bool.
    """

    value: Tensor
    gradient: Tensor
    multiplier: Tensor
    tangent: Tensor
    cosine: Tensor
    on_sphere: Tensor


def tangential(vectors: Tensor, points: Tensor) -> Tensor:
    """The part of `vectors` (k, n) that is upright on `points` (k, n), by row."""
    normals = unit_rows(points)
    return vectors - (vectors * normals).sum(1, keepdim=True) * normals


def matrix_free(product: Callable[[Tensor], Tensor], size: int) -> LinearOperator:
    """A `product` of directions (1, size), float64, as scipy's solvers ask for it."""
    from scipy.sparse.linalg import LinearOperator

    def of_array(direction: np.ndarray) -> np.ndarray:
        return product(torch.from_numpy(np.ravel(direction))[None])[0].numpy()

    return LinearOperator((size, size), of_array, dtype=np.float64)  # pyright: ignore


def widest_angle(vectors: Tensor) -> float:
    """The largest angle between two of `vectors` (k, n), in radians."""
    units = unit_rows(vectors)
    return float(torch.acos((units @ units.T).min().clamp(-1, 1)))


@dataclass(frozen=True, eq=False)
class Walk:
    """Projected gradient descent of L from k points, all points visited.

    `points` (steps + 1, k, size); `values`, `cosines`, `slopes` (the norm of Gamma) and `on_sphere`, (steps + 1, k).
    """

    points: Tensor
    values: Tensor
    cosines: Tensor
    slopes: Tensor
    on_sphere: Tensor

    def first(self, holds: Tensor) -> Tensor:
        """The first step at which `holds` (steps + 1, k) bool, (k,) int64; steps + 1 where it never does."""
        never = torch.ones_like(holds[:1])
        return torch.cat([holds, never]).int().argmax(0)


def walk(loss: SphereLoss, start: Tensor, step_sizes: Iterable[float | Tensor]) -> Walk:
    """Projected gradient descent, `d <- P(d - eta dL)`, one step for each of `step_sizes`.

    Args:
        loss: on which to go down.
        start: (k, size) float64, in the ball.
        step_sizes: eta of each step, a number or (k,).
    """
    x, ball = start, loss.ball
    visited, states = [x], [loss.at(x)]
    for eta in step_sizes:
        eta = torch.as_tensor(eta, dtype=x.dtype).reshape(-1, 1)
        x = ball.project(x - eta * states[-1].gradient)
        visited.append(x)
        states.append(loss.at(x))
    return Walk(
        torch.stack(visited),
        torch.stack([state.value for state in states]),
        torch.stack([state.cosine for state in states]),
        torch.stack([row_norm(state.tangent) for state in states]),
        torch.stack([state.on_sphere for state in states]),
    )
