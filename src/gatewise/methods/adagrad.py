"""Adagrad on the input, projected.

Source: Duchi, Hazan & Singer, "Adaptive subgradient methods" (JMLR 12, 2011), the diagonal form.

Deviations: (1) The projection is Euclidean, not in the metric of the accumulated gradients. (2) The step is in units
of the set's size, by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gatewise.geometry import per_row
from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Adagrad(Method):
    """Steps shrink with the gradients seen, by coordinate."""

    name: ClassVar[str] = "adagrad"

    step_size: float = 0.5
    """Step, in units of the set's size; the sum of squares makes it fall."""
    steps: int | None = None
    """Steps to take; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(step_size=self.step_size, steps=self.steps)
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Yield x, then step."""
        x = start.points
        size = per_row(self.step_size * problem.domain.size(x), x)
        squares = torch.zeros_like(x)
        for _ in range(start.steps(self.steps)):
            here = problem.at(x)
            yield here
            gradient = here.gradient()
            squares = squares + gradient.square()
            x = problem.domain.project(x - size * gradient / (squares.sqrt() + torch.finfo(x.dtype).tiny))
        yield problem.at(x)
