"""DDN: walk on spheres around the original whose radius shrinks past the boundary and grows before it.

Source: Rony, Hafemann, Oliveira, Ben Ayed, Sabourin & Granger, "Decoupling direction and norm for efficient
gradient-based L2 adversarial attacks and defenses" (CVPR 2019, arXiv:1811.09600), Algorithm 1.

Legend: way = the paper's delta, from the original to x; radius = its epsilon.

Deviations: (1) The direction of the cross-entropy's gradient is taken from the label's logit minus the log-sum-exp of
the others, which is parallel to it and does not vanish where a class wins by far. A goal that is no `Margin` and no
`TargetedMargin` gives its own gradient. (2) `sharpen`: the paper's direction blends the rival classes to the end, so
that its walk settles beside the nearest point where two rivals are close. (3) The step falls to a hundredth by a
cosine, and the way goes on from the point that the set has cut it to, as in the authors' code; Algorithm 1 says
neither. (4) Nothing is rounded to 256 levels. (5) The set may be any, not the box of all images alone; it cuts the
sphere by projection. (6) A gradient of zeros moves nothing, where the authors' code draws a random one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.geometry import per_row, unit_rows
from gatewise.methods.base import (
    Method,
    Start,
    Steps,
    boundary_of,
    cosine_decay,
    origin_of,
    require_euclidean,
    require_positive,
    visit,
)
from gatewise.objectives.base import ObjectiveFunction
from gatewise.objectives.logits import logit_of
from gatewise.objectives.margin import Margin, TargetedMargin
from gatewise.problem import Problem

_FARTHEST = 1e9  # Beyond any set; a radius that grows for ever would leave the numbers.


@dataclass(frozen=True, kw_only=True)
class DecoupledDirectionNorm(Method):
    """Unit gradient steps for the direction, a radius that follows success for the norm.

    For a `Distance` with p = 2 as objective: the nearest point that meets the goal.
    """

    name: ClassVar[str] = "ddn"

    step_size: float = 1.0
    """Length of the first step, in input units; the last is a hundredth of it."""
    radius: float = 1.0
    """First radius, in input units (the paper's epsilon_0)."""
    change: float = 0.05
    """By which share the radius shrinks past the boundary and grows before it (the paper's gamma)."""
    sharpen: bool = True
    """Lower the softmax's temperature with the step, to a hundredth: all rivals choose the direction at first, the
    nearest alone at the end. False is the paper's."""
    steps: int | None = None
    """Steps to take; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(step_size=self.step_size, radius=self.radius, steps=self.steps)
        if not 0 < self.change < 1:
            raise InvalidInput(f"change must lie between 0 and 1, got {self.change}.")
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Algorithm 1."""
        require_euclidean(problem, self.name)
        boundary, origin = boundary_of(problem), origin_of(problem, start)
        x, steps = start.points, start.steps(self.steps)
        radius = torch.full_like(x.flatten(1)[:, 0], self.radius)
        for step in range(steps):
            fall = 0.01 + 0.99 * cosine_decay(step, steps)
            here = replace(boundary, objective=_smooth(boundary.objective, fall if self.sharpen else 1.0)).at(x)
            yield visit(problem, here)
            assert here.output is not None
            way = x - origin - self.step_size * fall * unit_rows(here.gradient())
            past = boundary.measure(x, here.output) <= 0
            radius = (radius * torch.where(past, 1 - self.change, 1 + self.change)).clamp(max=_FARTHEST)
            x = problem.domain.project(origin + per_row(radius, x) * unit_rows(way))
        yield visit(problem, boundary.at(x))


def _smooth(goal: ObjectiveFunction, temperature: float) -> ObjectiveFunction:
    """Log-sum-exp in place of the largest of the logits that are not named."""

    def rest(y: Tensor, named: Tensor) -> Tensor:
        return temperature * (y / temperature).scatter(1, named[:, None], -torch.inf).logsumexp(1)

    match goal:
        case Margin(labels):
            return lambda x, y: logit_of(y, labels) - rest(y, labels)
        case TargetedMargin(targets):
            return lambda x, y: rest(y, targets) - logit_of(y, targets)
        case _:
            return goal
