"""FMN: gradient steps in a ball around the original whose radius follows the distance to the boundary.

Source: Pintor, Roli, Brendel & Biggio, "Fast minimum-norm adversarial attacks through adaptive norm constraints"
(NeurIPS 2021, arXiv:2102.12827), Algorithm 1.

Legend: radius = the paper's epsilon; change = its gamma; nearest = its ||delta*||.

Deviations: (1) Before the boundary is first crossed the radius is the paper's estimate of the distance to it, and
`change` more, and it never falls: at the estimate itself the walk comes ever closer to the boundary from inside, and
where the set cuts the step it does not even come close. (2) The ball is a ball: points inside it stay, where the
authors' code and its descendants put every point on the sphere, or none. (3) The set may be any, not the box of all
images alone; the point is projected on the ball, then on the set. (4) The 0-norm is not offered, nor a start by
bisection from a point of another class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gatewise.domains.balls import BALLS
from gatewise.errors import InvalidInput
from gatewise.geometry import row_norm, unit_rows
from gatewise.methods.base import (
    Method,
    Start,
    Steps,
    boundary_of,
    cosine_decay,
    norm_of,
    origin_of,
    require_positive,
    visit,
)
from gatewise.problem import Problem

_FARTHEST = 1e9  # Beyond any set: where the gap is flat, the boundary seems to be nowhere.


@dataclass(frozen=True, kw_only=True)
class FastMinimumNorm(Method):
    """Unit gradient steps in a ball that shrinks past the boundary and grows before it, ever more slowly.

    For a `Distance` as objective, in its norm: the nearest point that meets the goal.
    """

    name: ClassVar[str] = "fmn"

    step_size: float = 1.0
    """2-norm of the first step, in input units; the last is a hundredth of it (the paper's alpha)."""
    change: float = 0.05
    """By which share the radius first shrinks past the boundary and grows before it (the paper's gamma_0)."""
    last_change: float = 0.001
    """The same at the last step (the paper's gamma_K)."""
    steps: int | None = None
    """Steps to take; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(step_size=self.step_size, steps=self.steps)
        for name in ("change", "last_change"):
            if not 0 < getattr(self, name) < 1:
                raise InvalidInput(f"{name} must lie between 0 and 1, got {getattr(self, name)}.")
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Algorithm 1."""
        boundary, origin, p = boundary_of(problem), origin_of(problem, start), norm_of(problem)
        x, steps = start.points, start.steps(self.steps)
        radius = nearest = torch.full_like(x.flatten(1)[:, 0], torch.inf)
        for step in range(steps):
            here = boundary.at(x)
            yield visit(problem, here)
            decay, gap, gradient = cosine_decay(step, steps), here.value, here.gradient()
            assert gap is not None
            change = self.last_change + (self.change - self.last_change) * decay
            distance, past = row_norm(x - origin, p), gap <= 0
            nearest = nearest.where(~past | (nearest < distance), distance)
            estimate = distance + gap.abs() / row_norm(gradient, BALLS[p].dual_norm)
            grown = radius.where(nearest.isfinite(), radius.nan_to_num(posinf=0).maximum(estimate)) * (1 + change)
            radius = (radius * (1 - change)).minimum(nearest).where(past, grown).nan_to_num(_FARTHEST)
            ahead = x - self.step_size * (0.01 + 0.99 * decay) * unit_rows(gradient)
            x = problem.domain.project(BALLS[p](origin, radius.clamp(max=_FARTHEST)).project(ahead))
        yield visit(problem, boundary.at(x))
