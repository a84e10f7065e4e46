"""ALMA: distance plus a penalty whose weights learn where the boundary is.

Source: Rony, Granger, Pedersoli & Ben Ayed, "Augmented Lagrangian adversarial attacks" (ICCV 2021, arXiv:2011.11857),
Algorithm 3, with the penalty-Lagrangian function P2 and the settings of Section 5 for the 2-norm on MNIST.

Legend: y = the constraint, at most 0 where the goal is met; mu, rho = multiplier and weight of P(y, rho, mu).

Deviations: (1) The constraint is the goal over the spread of the logits, first minus third: for a `Margin` the paper's
DLR, for `TargetedMargin` and `MarginTo` its like; any other goal is the constraint as it stands. (2) It carries no
tolerance of 1e-4: a tie meets the goal here. (3) The length of the first step is found by scaling, not by doubling and
bisection, and measured from where the method is started. (4) The set may be any. (5) A gradient of zeros moves nothing,
where the authors' code draws a random one. (6) The 2-norm alone, of the distances in the paper.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gatewise.domains.base import Domain
from gatewise.errors import InvalidInput
from gatewise.geometry import per_row, row_norm, unit_rows
from gatewise.methods.base import (
    Method,
    Start,
    Steps,
    boundary_of,
    origin_of,
    require_euclidean,
    require_positive,
    visit,
)
from gatewise.objectives.base import ObjectiveFunction
from gatewise.objectives.margin import Margin, MarginTo, TargetedMargin
from gatewise.problem import Problem


@dataclass(frozen=True, kw_only=True)
class AugmentedLagrangian(Method):
    """Normalised gradient steps with momentum on distance plus penalty.

    For a `Distance` with p = 2 as objective: the nearest point that meets the goal. The defaults are for about a
    thousand steps; `preset=short` is for about a hundred.
    """

    name: ClassVar[str] = "alma"

    step_size: float = 0.1
    """Length of the first step, in input units (the paper's epsilon)."""
    smoothing: float = 0.9
    """Weight of the past in the means of multiplier, gradient and its square (the paper's alpha)."""
    decay: float = 0.01
    """What is left of the step at the end; it falls from where the boundary is first crossed."""
    progress: float = 0.95
    """Share of the constraint, at most, that may be left between checks (the paper's tau) …"""
    growth: float = 1.2
    """… lest the penalty's weight grow by this factor (the paper's gamma)."""
    check: int = 10
    """Steps between checks (the paper's M)."""
    steps: int | None = None
    """Steps to take; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(
            step_size=self.step_size, decay=self.decay, growth=self.growth, check=self.check, steps=self.steps
        )
        if not 0 <= self.smoothing < 1:
            raise InvalidInput(f"smoothing must be at least 0 and below 1, got {self.smoothing}.")
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Algorithm 3."""
        require_euclidean(problem, self.name)
        boundary, origin = boundary_of(problem), origin_of(problem, start)
        boundary = replace(boundary, objective=_scaled(boundary.objective))
        domain, x, steps, alpha = problem.domain, start.points, start.steps(self.steps), self.smoothing
        square, momentum = torch.ones_like(x), torch.zeros_like(x)
        mu = rho = torch.ones_like(x.flatten(1)[:, 0])
        found, before, length = torch.full_like(mu, torch.inf), mu, mu
        for step in range(steps):
            here = boundary.at(x)
            yield visit(problem, here)
            y, gradient = here.value, here.gradient()
            assert y is not None
            if step == 0:
                before = y
            elif (step + 1) % self.check == 0:
                rho = torch.where(found.isinf() & ~(y < self.progress * before), self.growth * rho, rho)
                before = y
            if step > 0:
                mu = mu.lerp(_slope(y, rho, mu), 1 - alpha).clamp(1e-6, 1e12)
            found = found.where((y > 0) | found.isfinite(), step)
            gradient = per_row(_slope(y, rho, mu), x) * gradient
            if step == 0:
                length = _length_of_step(domain, x, gradient, self.step_size)
            else:
                gradient = gradient + unit_rows(x - origin)
            square = square.lerp(gradient.square(), 1 - alpha)
            momentum = alpha * momentum + gradient / (square.sqrt() + 1e-8)
            decay = self.decay ** ((step - found) / (steps - found).clamp(min=1)).nan_to_num(0).clamp(min=0)
            x = domain.project(x - per_row(length * decay, x) * momentum)
        yield visit(problem, boundary.at(x))


AugmentedLagrangian.presets = {"long": {"smoothing": 0.9}, "short": {"smoothing": 0.5}}


def _slope(y: Tensor, rho: Tensor, mu: Tensor) -> Tensor:
    """The derivative in y of P2: `mu y + mu rho y^2 + rho^2 y^3 / 6` where y >= 0, `mu y / (1 - rho y)` below."""
    above = mu + 2 * mu * rho * y + rho**2 * y**2 / 2
    return above.where(y >= 0, mu / (1 - rho * y.clamp(max=0)) ** 2)


def _scaled(goal: ObjectiveFunction) -> ObjectiveFunction:
    """A classifier's goal over the spread of the logits."""
    if not isinstance(goal, Margin | TargetedMargin | MarginTo):
        return goal

    def ratio(x: Tensor, y: Tensor) -> Tensor:
        value = goal(x, y)
        if y.shape[1] < 3:
            return value
        first, _, third = y.topk(3, dim=1).values.unbind(1)
        return value / (first - third + 1e-8)

    return ratio


def _length_of_step(domain: Domain, x: Tensor, gradient: Tensor, wanted: float) -> Tensor:
    """The multiple of the gradient, (batch,), that the set cuts to a step of the wanted 2-norm, as far as it reaches.

    The set cuts long steps more: so what is left of a step grows ever more slowly, and scaling ends short of the norm.
    """
    length = wanted / row_norm(gradient).clamp(min=1e-12)
    for _ in range(10):
        left = row_norm(domain.project(x - per_row(length, x) * gradient) - x)
        length = length * (wanted / left).nan_to_num(1, posinf=1).clamp(1, 2)
    return length
