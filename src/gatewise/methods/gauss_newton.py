"""Gauss-Newton steps through gates that are smoothed and let go: gate annealing of second order.

With its gates held a piecewise-linear network is affine, and a sum of squares of its outputs a linear least-squares
problem. That problem is true inside one linear region only, which is why plain Gauss-Newton steps end early on such a
network. Here, as in `gate-annealing`, every gate is replaced by its expectation under input noise whose width falls to
0. The derivative of that expectation, Phi(h/s), is the share of the noise that has the gate on, so that the quadratic
model speaks of all the regions that the noise reaches. It is minimised by conjugate gradients within a trust region: a
product with the network's Jacobian is one run with those shares held, one with its transpose a backward pass.

Sources: the steps are Levenberg's (1944) and Marquardt's (1963), within a trust region (Nocedal & Wright 2006,
Algorithm 4.1) by the truncated conjugate gradients of Steihaug (1983); the homotopy that of `gate-annealing`; for
objectives that are no sum of squares, the generalised Gauss-Newton matrix (Schraudolph 2002).

Legend: J = the network's Jacobian with the gates' shares held, p = step, A = J^T (curvature of the objective) J.

Deviations: (1) `products` iterations of conjugate gradients a step, without a tolerance. (2) Deviations of
pre-activations are the running mean of one draw a step (`gatewise.network.RunningNorms`). (3) Max-pools keep their
maximum. (4) The trust region knows nothing of the set: the step is projected, and a step that does not lower the
smoothed objective is not taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.geometry import per_row, row_norm
from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.network.hyperplanes import RunningNorms
from gatewise.network.piecewise import require_piecewise_linear
from gatewise.network.rules import Fixed, Smoothed
from gatewise.network.view import Trace
from gatewise.objectives.curvature import curvature
from gatewise.problem import Iterate, Problem, input_gradient


@dataclass(frozen=True, kw_only=True)
class GaussNewton(Method):
    """Least-squares steps through smoothed gates whose width shrinks to zero.

    Made for sums of squares such as `SquaredError`; the network has to be affine where its gates are held.
    """

    name: ClassVar[str] = "gauss-newton"

    width: float = 0.5
    """Standard deviation of the noise at first, in units of the set's size; it falls to 0 linearly. 0: the network
    itself from the start."""
    products: int = 10
    """Iterations of conjugate gradients a step; each costs a backward pass."""
    step_size: float = 0.25
    """Radius of the trust region at first: root mean square of a step's entries, in units of the set's size."""
    fresh: float = 0.2
    """Share of the running mean of squared deviations that each draw replaces."""
    settle: float = 0.15
    """Share of the steps, at the end, that are taken in the network itself."""
    steps: int | None = None
    """Steps to take; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(step_size=self.step_size, products=self.products, fresh=self.fresh, steps=self.steps)
        if self.settle >= 1 or self.fresh > 1:
            raise InvalidInput(f"settle must be below 1 and fresh at most 1, got {self.settle} and {self.fresh}.")
        super().__post_init__()

    @property
    def backwards_per_step(self) -> int:
        """The gradient, and one for each product with A."""
        return 1 + self.products

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Look at the network and its hyperplanes, model the smoothed objective, step within the trust region."""
        network, domain = problem.network, problem.domain
        x, steps = start.points, start.steps(self.steps, cost=self.backwards_per_step)
        size = domain.size(x)
        radius = self.step_size * size * math.sqrt(x[0].numel())
        norms = RunningNorms(network, start.streams, refresh=1, fresh=self.fresh, first=1)
        for step in range(steps):
            left = max(0.0, 1 - (step + 1) / ((1 - self.settle) * steps)) * self.width
            with torch.no_grad():
                here = network.trace(x).require_rows()
                value = problem.measure(x, here.output)
            yield Iterate(x, value, here.output)

            if step == 0 and bool(value.isfinite().any()):
                require_piecewise_linear(network, x[value.isfinite()][:1])
            smooth = None
            if left:
                norms.look(here, lambda at=here: Fixed(at.pattern()))
                smooth = _smoothed(here, norms, left * size)
            leaf = x.detach().requires_grad_()
            with torch.enable_grad():
                run = network.trace(leaf, smooth)
                value = problem.measure(leaf, run.output)
            gradient, product = input_gradient(value, leaf, keep=True), _product(problem, leaf, run, smooth)
            p, of_p = _conjugate_gradients(gradient, product, radius, self.products)
            value = value.detach()
            del run, product

            with torch.no_grad():
                ahead = domain.project(x + p)
                reached = problem.measure(ahead, network.trace(ahead, smooth, keep=False).output)
            fall = -_inner(gradient + of_p / 2, ahead - x)  # what the model expects of it
            kept, length = (value - reached) / fall.clamp_min(torch.finfo(x.dtype).tiny), row_norm(p)
            widened = torch.where((kept > 0.75) & (length > 0.9 * radius), 2 * radius, radius)
            radius = torch.where(kept > 0.25, widened, length / 4)
            x = torch.where(per_row(reached < value, x), ahead, x)
        yield problem.at(x)


def _smoothed(here: Trace, norms: RunningNorms, width: Tensor) -> Smoothed:
    """Every switch's expectation under noise of `width` (batch,)."""
    every = zip(here.gates, norms.norms()[:-1], strict=True)
    return Smoothed([per_row(width, norm) * norm if gate.pool is None else None for gate, norm in every])


def _product(problem: Problem, leaf: Tensor, run: Trace, smooth: Smoothed | None) -> Callable[[Tensor], Tensor]:
    """`p -> A p`, (batch, …) both, at a run from `leaf` whose graph is there."""
    x, y, network = leaf.detach(), run.output.detach(), problem.network
    shares = run.pattern()
    if smooth is not None:
        every = zip(shares, run.preactivations, smooth.deviation, strict=True)
        shares = [on if s is None else torch.special.ndtr(h.detach() / s) for on, h, s in every]
    held, bend = Fixed(shares), curvature(problem.objective, x, y)
    with torch.no_grad():
        base = network.trace(x, held, keep=False).output

    def product(p: Tensor) -> Tensor:
        # A difference of two runs: a direction about as long as x keeps the digits that a short one would lose.
        length = row_norm(p)
        longer = (1 + row_norm(x)) / length.where(length > 0, 1)
        with torch.no_grad():
            moved = network.trace(x + per_row(longer, p) * p, held, keep=False).output - base
        of_x, of_y = bend(p, moved / per_row(longer, moved))
        return of_x + torch.autograd.grad(run.output, leaf, of_y, retain_graph=True, materialize_grads=True)[0]

    return product


def _conjugate_gradients(
    gradient: Tensor, product: Callable[[Tensor], Tensor], radius: Tensor, times: int
) -> tuple[Tensor, Tensor]:
    """Steihaug's step p for `gradient p + p A p / 2`, no longer than `radius` (batch,), and A p, (batch, …) both.

    Conjugate gradients from 0, up to where they leave the ball or meet a direction along which nothing curves upward.
    """
    p, of_p, downhill, direction = torch.zeros_like(gradient), torch.zeros_like(gradient), -gradient, -gradient
    square = _inner(downhill, downhill)
    going = square > 0
    for _ in range(times):
        if not bool(going.any()):
            break
        along = product(direction)
        bend = _inner(direction, along)
        # How far along the direction the ball ends.
        both, most = _inner(p, direction), _inner(direction, direction).where(going, 1)
        most = ((both.square() + most * (radius.square() - _inner(p, p)).clamp_min(0)).sqrt() - both) / most
        length = torch.where(bend > 0, square / bend.where(bend > 0, 1), torch.inf).minimum(most).where(going, 0)
        p, of_p = p + per_row(length, p) * direction, of_p + per_row(length, p) * along
        downhill = -gradient - of_p
        before, square = square, _inner(downhill, downhill)
        going = going & (length < most) & (square > 0)
        share = torch.where(going, square / before.where(going, 1), 0)
        direction = torch.where(per_row(going, p), downhill + per_row(share, p) * direction, direction)
    return p, of_p


def _inner(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).flatten(1).sum(1)
