"""FAB: the shortest step to the linearised boundary, over and over, never far from the original point.

Source: Croce & Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack" (ICML 2020,
arXiv:1907.02044), Algorithm 1.

Legend: gap = the function whose zeros are the boundary; slope = the dual norm of its gradient, so that gap / slope is
the distance to the linearised boundary in the set's own norm; way = the paper's delta; bias = its alpha.

Deviations: (1) The boundary is the goal's, or where there is no goal the objective's zero set: one gradient a step,
where the paper linearises toward every class and takes the nearest. (2) The norm is the set's, and the set may be a
ball as well as the box of all images: the boundary is then searched inside the ball. (3) The paper's exact projection
onto hyperplane and box is a steepest step that the set projects, stretched by a few secants until it arrives: the same
in linf and l2 sets, but for the secants' last digits. (4) No restarts from points near the original, and no search on
the last segment. (5) The original is the point that the method is started from.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gatewise.domains.base import Domain
from gatewise.errors import InvalidInput
from gatewise.geometry import per_row
from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.problem import Iterate, Problem


@dataclass(frozen=True, kw_only=True)
class FastAdaptiveBoundary(Method):
    """Steps to the linearised boundary, drawn toward the original point.

    With a `Distance` as objective, in the set's own norm, and a set as wide as wanted it looks for the nearest point
    that meets the goal. It follows the goal, and an objective only where there is none: `multi-targeted` cannot aim it.
    """

    name: ClassVar[str] = "fab"

    step_size: float = 1.05
    """Length of a step, in distances to the linearised boundary: a little past it (the paper's eta)."""
    bias: float = 0.1
    """Largest weight of the step from the original point against that from x (the paper's alpha_max)."""
    backward: float = 0.9
    """What is left of the way from the original point where x is past the boundary (the paper's beta)."""
    steps: int | None = None
    """Steps to take; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(step_size=self.step_size, steps=self.steps)
        for name in ("bias", "backward"):
            if not 0 <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name} must lie between 0 and 1, got {getattr(self, name)}.")
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Yield x, go back where it is past the boundary, then step to where the boundary seems to be."""
        domain, x = problem.domain, start.points
        original = x
        boundary = problem if problem.goal is None else replace(problem, objective=problem.goal)
        for _ in range(start.steps(self.steps)):
            here = boundary.at(x)
            assert here.value is not None
            assert here.output is not None
            yield Iterate(x, problem.measure(x, here.output), here.output)
            past = here.value <= 0
            if bool(past.any()):
                x = torch.where(per_row(past, x), original + self.backward * (x - original), x)
                here = boundary.at(x)
            gap, gradient = here.value, here.gradient()
            assert gap is not None
            way, length = _shortest_way(domain, x, gap, gradient)
            gap_of_original = gap + _inner(gradient, original - x)
            way_of_original, length_of_original = _shortest_way(domain, original, gap_of_original, gradient)
            bias = (length / (length + length_of_original)).nan_to_num(0).clamp(max=self.bias)
            ahead, ahead_of_original = x + self.step_size * way, original + self.step_size * way_of_original
            x = domain.project(torch.lerp(ahead, ahead_of_original, per_row(bias, x)))
        yield problem.at(x)


def _shortest_way(domain: Domain, x: Tensor, gap: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """From x to the zeros of `gap + <gradient, way>` inside the set, or as near to them as the set reaches; and how
    long the step is before the set cuts it, (batch,).

    The longer the step, the smaller the share of it that the set leaves: so secants end short of the zeros, never past.
    """
    direction = domain.steepest(gradient)
    slope = _inner(gradient, direction)
    length = gap / slope.where(slope > 0, 1)  # a gradient of zeros has no direction either
    way, shorter, fell_then = torch.zeros_like(x), torch.zeros_like(gap), torch.zeros_like(gap)
    for _ in range(6):
        # Where the gap is all but flat its zeros lie outside any set, and the step to them outside the numbers.
        length = length.clamp(-1e9, 1e9)
        way = domain.project(x - per_row(length, x) * direction) - x
        fell = -_inner(gradient, way)
        stretch = 1 + (gap - fell) / (fell - fell_then) * (1 - shorter / length)
        stretch = stretch.where((gap - fell).abs() > 1e-3 * gap.abs(), 1)  # what is left now may be all rounding
        shorter, fell_then, length = length, fell, length * stretch.nan_to_num(1).clamp(1, 10)
    return way, length.abs()


def _inner(first: Tensor, second: Tensor) -> Tensor:
    return (first * second).flatten(1).sum(1)
