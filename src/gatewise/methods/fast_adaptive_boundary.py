"""FAB: the shortest step to the linearised boundary, over and over, never far from the original point.

Source: Croce & Hein, "Minimally distorted adversarial examples with a fast adaptive boundary attack" (ICML 2020,
arXiv:1907.02044), Algorithm 1.

Legend: gap = the function whose zeros are the boundary; slope = the dual norm of its gradient, so that gap / slope is
the distance to the linearised boundary in the set's own norm; way = the paper's delta; bias = its alpha.

Deviations: (1) The boundary is the goal's, or where there is no goal the objective's zero set: one gradient a step,
where the paper linearises toward every class and takes the nearest. (2) The norm is a `Distance`'s, else the set's, and
the set may be a ball as well as the box of all images: the boundary is then searched inside the ball. (3) The paper's
exact projection onto hyperplane and box is a steepest step that the set projects, stretched by a few secants until it
arrives: the same in linf and l2 sets, but for the secants' last digits; a `Distance` with p = 1 is refused. (4) The
final search takes the place of the last point. (5) The original is the center of a `Distance`, else the point that the
method is started from. (6) Restarts and one run toward each class are the combinators `restarts`, whose points are
drawn from all of the set, and `multi-targeted`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatewise.domains.base import Domain
from gatewise.errors import InvalidInput
from gatewise.geometry import per_row, row_norm
from gatewise.methods.base import (
    Method,
    Start,
    Steps,
    boundary_of,
    norm_of,
    origin_of,
    require_positive,
    steepest_of,
    visit,
)
from gatewise.problem import Problem


@dataclass(frozen=True, kw_only=True)
class FastAdaptiveBoundary(Method):
    """Steps to the linearised boundary, drawn toward the original point.

    With a `Distance` as objective it looks for the nearest point that meets the goal; without one, in the set's own
    norm, for one in the set. It follows the goal, and an objective only where there is none.
    """

    name: ClassVar[str] = "fab"

    step_size: float = 1.05
    """Length of a step, in distances to the linearised boundary: a little past it (the paper's eta)."""
    bias: float = 0.1
    """Largest weight of the step from the original point against that from x (the paper's alpha_max)."""
    backward: float = 0.9
    """What is left of the way from the original point where x is past the boundary (the paper's beta)."""
    final_search: int = 3
    """Forward passes at the end, on the segment from the original to the nearest point past the boundary; 0: none."""
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
        domain, x, p = problem.domain, start.points, norm_of(problem)
        original, boundary = origin_of(problem, start), boundary_of(problem)
        steepest = steepest_of(problem, original, self.name)
        nearest, distance = x, torch.full_like(x.flatten(1)[:, 0], torch.inf)
        for _ in range(start.steps(self.steps)):
            here = boundary.at(x)
            yield visit(problem, here)
            assert here.value is not None
            past = here.value <= 0
            if bool(past.any()):
                nearer = past & (row_norm(x - original, p) < distance)
                nearest = torch.where(per_row(nearer, x), x, nearest)
                distance = row_norm(x - original, p).where(nearer, distance)
                back = domain.project(original + self.backward * (x - original))
                x = torch.where(per_row(past, x), back, x)
                here = boundary.at(x)
            gap, gradient = here.value, here.gradient()
            assert gap is not None
            way, length = _shortest_way(domain, steepest, x, gap, gradient)
            gap_of_original = gap + _inner(gradient, original - x)
            way_of_original, length_of_original = _shortest_way(domain, steepest, original, gap_of_original, gradient)
            bias = (length / (length + length_of_original)).nan_to_num(0).clamp(max=self.bias)
            ahead, ahead_of_original = x + self.step_size * way, original + self.step_size * way_of_original
            x = domain.project(torch.lerp(ahead, ahead_of_original, per_row(bias, x)))
        yield visit(problem, boundary.at(self._searched(boundary, original, x, nearest, distance, p)))

    def _searched(
        self, boundary: Problem, original: Tensor, x: Tensor, nearest: Tensor, distance: Tensor, p: float
    ) -> Tensor:
        """The nearest point past the boundary, drawn to it along the segment from the original by regula falsi; x
        where none is known, or the original is itself past the boundary.
        """

        def gap_at(point: Tensor) -> Tensor:
            with torch.no_grad():
                return boundary.measure(point, boundary.network(point))

        if not self.final_search:
            return x
        nearer = (gap_at(x) <= 0) & (row_norm(x - original, p) < distance)
        gap_inside = gap_at(original)
        inside, outside = original, torch.where(per_row(nearer | distance.isinf() | (gap_inside <= 0), x), x, nearest)
        gap_outside = gap_at(outside)
        searched = (gap_outside <= 0) & (gap_inside > 0)
        for _ in range(self.final_search):
            share = (gap_inside / (gap_inside - gap_outside)).nan_to_num(1).clamp(0, 1)
            middle = boundary.domain.project(torch.lerp(inside, outside, per_row(share, x)))
            gap = gap_at(middle)
            past = gap <= 0
            outside = torch.where(per_row(past & searched, x), middle, outside)
            inside = torch.where(per_row(~past & searched, x), middle, inside)
            gap_outside, gap_inside = gap.where(past, gap_outside), gap.where(~past, gap_inside)
        return outside


def _shortest_way(
    domain: Domain, steepest: Callable[[Tensor], Tensor], x: Tensor, gap: Tensor, gradient: Tensor
) -> tuple[Tensor, Tensor]:
    """From x to the zeros of `gap + <gradient, way>` inside the set, or as near to them as the set reaches; and how
    long the step is before the set cuts it, (batch,).

    The longer the step, the smaller the share of it that the set leaves: so secants end short of the zeros, never past.
    """
    direction = steepest(gradient)
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
