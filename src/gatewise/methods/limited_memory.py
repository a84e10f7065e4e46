"""L-BFGS on squared distance plus a weighted loss, over and over, while a line search over the weight closes in.

Source: Szegedy et al., "Intriguing properties of neural networks" (ICLR 2014, arXiv:1312.6199), Section 4.1; the inner
solver is the two-loop recursion of Nocedal, "Updating quasi-Newton matrices with limited storage" (1980), with the
active bounds held as in Bertsekas, "Projected Newton methods" (1982).

Legend: s, y = differences of points and gradients; weight = 1 over the paper's c; base = the last accepted point.

Deviations: (1) The loss is `log(1 + exp(goal))`: for a margin the cross-entropy of the label and its nearest rival, so
that an untargeted form exists, too. (2) The distance is squared, as in all implementations. (3) Projected L-BFGS with
Armijo steps by halving, all rows in one batch, each at its own pace, instead of L-BFGS-B row by row. (4) The weight
grows tenfold until the goal is met, then its bracket is halved as long as the budget lasts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gatewise.geometry import per_row, row_norm
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
from gatewise.problem import Problem


@dataclass(frozen=True, kw_only=True)
class LimitedMemory(Method):
    """Box-constrained quasi-Newton steps on squared distance plus loss, once for each weight of a line search.

    For a `Distance` with p = 2 as objective, in a box: the nearest point that meets the goal.
    """

    name: ClassVar[str] = "l-bfgs"

    step_size: float = 0.1
    """Length of a search's first step, in input units; the later ones are quasi-Newton steps."""
    weight: float = 0.01
    """First weight of the loss (1 over the paper's c)."""
    memory: int = 10
    """How many steps the quasi-Newton matrix remembers."""
    tolerance: float = 1e-4
    """A weight is done with where a step lowers the value by a smaller share than this …"""
    patience: int = 100
    """… or after so many steps."""
    steps: int | None = None
    """Steps to take, over all weights; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(
            step_size=self.step_size, weight=self.weight, memory=self.memory, patience=self.patience, steps=self.steps
        )
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Each row minimises for its own weight; where it is done it takes the next one and begins again."""
        require_euclidean(problem, self.name)
        boundary, origin, domain = boundary_of(problem), origin_of(problem, start), problem.domain
        lower, upper = domain.bounds(start.points)
        x = base = start.points
        weight = torch.full_like(x.flatten(1)[:, 0], self.weight)
        least, most = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
        taken, length = torch.zeros_like(weight), torch.ones_like(weight)
        base_value, base_gap = torch.full_like(weight, torch.inf), weight
        base_gradient = direction = torch.zeros_like(x)
        pairs: list[tuple[Tensor, Tensor]] = []
        for _ in range(start.steps(self.steps)):
            here = boundary.at(x)
            yield visit(problem, here)
            gap = here.value
            assert gap is not None
            value = (x - origin).square().flatten(1).sum(1) + weight * softplus(gap)
            gradient = 2 * (x - origin) + per_row(weight * gap.sigmoid(), x) * here.gradient()

            first, taken = taken == 0, taken + 1
            better = first | (value <= base_value + 1e-4 * _inner(base_gradient, x - base))
            change = per_row(better & ~first, x)
            pairs = [(s.where(~per_row(first, x), 0), y.where(~per_row(first, x), 0)) for s, y in pairs]
            pairs = [*pairs, ((x - base) * change, (gradient - base_gradient) * change)][-self.memory :]
            settled = better & ~first & (base_value - value <= self.tolerance * value)
            base, base_gradient = (
                new.where(per_row(better, x), old) for new, old in ((x, base), (gradient, base_gradient))
            )
            base_value, base_gap = value.where(better, base_value), gap.where(better, base_gap)
            length = torch.where(better, 1.0, length / 2)

            free = ~(((base <= lower) & (base_gradient > 0)) | ((base >= upper) & (base_gradient < 0)))
            slope = base_gradient * free
            steepest = -per_row(self.step_size / row_norm(slope).clamp(min=1e-12), x) * slope
            direction = torch.where(per_row(better, x), _quasi_newton(slope, free, pairs, steepest), direction)
            done = settled | (length < 1e-3) | (taken >= self.patience)
            met = base_gap <= 0
            least, most = torch.where(done & ~met, weight, least), torch.where(done & met, weight, most)
            weight = torch.where(done, torch.where(most.isfinite(), (least + most) / 2, 10 * weight), weight)
            taken = taken.where(~done, 0)
            x = torch.where(per_row(done, x), start.points, domain.project(base + per_row(length, x) * direction))
        yield visit(problem, boundary.at(x))


def _quasi_newton(slope: Tensor, free: Tensor, pairs: Sequence[tuple[Tensor, Tensor]], steepest: Tensor) -> Tensor:
    """Minus the inverse Hessian times the slope, from what the pairs tell about the free entries; where they tell
    nothing, or point uphill, the steepest step.
    """
    told, scale, q = [], torch.zeros_like(slope.flatten(1)[:, 0]), slope
    for s, y in pairs:
        s, y = s * free, y * free
        curvature, bend = _inner(s, y), _inner(y, y)
        good = curvature > 1e-10 * bend
        told.append((s, y, torch.where(good, 1 / curvature.where(good, 1), 0)))
        scale = torch.where(good, curvature / bend.where(good, 1), scale)
    shares = []
    for s, y, inverse in reversed(told):
        shares.append(inverse * _inner(s, q))
        q = q - per_row(shares[-1], q) * y
    q = per_row(scale, q) * q
    for (s, y, inverse), share in zip(told, reversed(shares), strict=True):
        q = q + per_row(share - inverse * _inner(y, q), q) * s
    downhill = (scale > 0) & (_inner(q, slope) > 0)
    return torch.where(per_row(downhill, q), -q * free, steepest)


def _inner(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).flatten(1).sum(1)
