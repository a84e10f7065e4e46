"""Adam on the input, projected.

Source: Kingma & Ba, "Adam: a method for stochastic optimization" (ICLR 2015, arXiv:1412.6980), Algorithm 1.

Legend: m, v = running mean of the gradient and of its square.

Deviations: (1) x is projected after each step. (2) The step is in units of the set's size, by row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from gatewise.geometry import per_row
from gatewise.methods.base import Method, Start, Steps, cosine_decay, require_positive
from gatewise.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Adam(Method):
    """Steps by running means of the gradient, by coordinate."""

    name: ClassVar[str] = "adam"

    step_size: float = 0.1
    """First step, in units of the set's size."""
    first_decay: float = 0.9
    """Decay of the mean of gradients (the paper's beta 1)."""
    second_decay: float = 0.999
    """Decay of the mean of their squares (the paper's beta 2)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the step falls over the steps ahead."""
    steps: int | None = None
    """Steps to take; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(step_size=self.step_size, steps=self.steps)
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Algorithm 1, with projection."""
        x, steps = start.points, start.steps(self.steps)
        size = per_row(self.step_size * problem.domain.size(x), x)
        m, v = torch.zeros_like(x), torch.zeros_like(x)
        for step in range(steps):
            here = problem.at(x)
            yield here
            gradient = here.gradient()
            m = m.lerp(gradient, 1 - self.first_decay)
            v = v.lerp(gradient.square(), 1 - self.second_decay)
            mean, square = m / (1 - self.first_decay ** (step + 1)), v / (1 - self.second_decay ** (step + 1))
            decay = cosine_decay(step, steps) if self.schedule == "cosine" else 1.0
            x = problem.domain.project(x - decay * size * mean / (square.sqrt() + torch.finfo(x.dtype).tiny))
        yield problem.at(x)
