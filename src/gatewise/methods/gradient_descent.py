"""Projected gradient descent with the plain Euclidean gradient, normalised or not.

Sources: Cauchy (1847) and Rosen (1960); the baseline "GD" of Yu & Gao (ICML 2024) is its normalised form with a
constant step 0.5.

Deviations: none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from gatewise.geometry import unit_rows
from gatewise.methods.base import Method, Start, Steps, cosine_decay, require_positive
from gatewise.problem import Problem


@dataclass(frozen=True, kw_only=True)
class GradientDescent(Method):
    """Euclidean gradient steps, normalised or not."""

    name: ClassVar[str] = "gd"

    step_size: float = 0.5
    """Step in input units: its length where gradients are normalised, else the factor of the gradient."""
    normalise: bool = True
    """Divide each row's gradient by its 2-norm."""
    schedule: Literal["cosine", "constant"] = "constant"
    """How the step falls over the steps ahead."""
    steps: int | None = None
    """Steps to take; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(step_size=self.step_size, steps=self.steps)
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Yield x, then step."""
        x, steps = start.points, start.steps(self.steps)
        for step in range(steps):
            here = problem.at(x)
            yield here
            gradient = unit_rows(here.gradient()) if self.normalise else here.gradient()
            decay = cosine_decay(step, steps) if self.schedule == "cosine" else 1.0
            x = problem.domain.project(x - decay * self.step_size * gradient)
        yield problem.at(x)
