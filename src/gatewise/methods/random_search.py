"""Random search: independent uniform points of the set, no gradients.

Source: Brooks, "A discussion of random methods for seeking maxima" (Operations Research 1958).

Deviations: (1) The given point is asked first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.problem import Iterate, Problem


@dataclass(frozen=True, kw_only=True)
class RandomSearch(Method):
    """Independent random points of the set: the control for everything else.

    A step is one query, a forward pass. No backward pass is ever spent; it ends itself after one query for each
    backward pass that the budget would pay for.
    """

    name: ClassVar[str] = "random-search"

    steps: int | None = None
    """Queries after that of the given point; None: one for each backward pass of the budget."""

    def __post_init__(self):
        require_positive(steps=self.steps)
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Ask for the value at a point, then draw the next."""
        x = start.points
        for _ in range(start.steps(self.steps) + 1):
            with torch.no_grad():
                output = problem.network(x)
                value = problem.measure(x, output)
            yield Iterate(x, value, output)
            x = problem.domain.sample(start.streams, start.points)
