"""Projected gradient: a steepest step in the set's own norm, back onto the set.

Sources: Madry et al., "Towards deep learning models resistant to adversarial attacks" (ICLR 2018, arXiv:1706.06083);
its one-step form is FGSM, Goodfellow et al. (ICLR 2015, arXiv:1412.6572).

With a constant step the walk depends on nothing but where it stands, so a row that comes back to a point it has
visited, as signs soon do at a corner of the ball or across a kink, goes round for ever. The run ends when every row has
come back, whatever is left of the budget. What is remembered of a point is a digest of its bytes.

Deviations: (1) the step decays from the set's radius to 0 by default, which finds more than the customary constant
step at every budget we measured; `schedule="constant"` is the paper's. (2) The norm is the set's: linf signs, l2 and
l1 steps are one loop.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from gatewise.geometry import per_row
from gatewise.methods.base import Method, Start, Steps, cosine_decay, require_positive
from gatewise.problem import Problem


@dataclass(frozen=True, kw_only=True)
class ProjectedGradient(Method):
    """Steepest steps in the set's own norm."""

    name: ClassVar[str] = "pgd"

    step_size: float = 1.0
    """First step, in units of the set's size (a ball's radius, half a box's width)."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the step falls over the steps ahead."""
    random_start: bool = False
    """Begin at a random point of the set instead of the given one."""
    steps: int | None = None
    """Steps to take; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(step_size=self.step_size, steps=self.steps)
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Yield x, then step."""
        domain, steps = problem.domain, start.steps(self.steps)
        x = domain.sample(start.streams, start.points) if self.random_start else start.points
        size = per_row(self.step_size * domain.size(x), x)
        visited: list[set[bytes]] = [set() for _ in x]
        for step in range(steps):
            here = problem.at(x)
            yield here
            if self.schedule == "constant" and _all_came_back(x, visited):
                return
            decay = cosine_decay(step, steps) if self.schedule == "cosine" else 1.0
            x = domain.project(x - decay * size * domain.steepest(here.gradient()))
        yield problem.at(x)


def _all_came_back(x: Tensor, visited: list[set[bytes]]) -> bool:
    """Whether every row is at a point that it has visited; what it visits now is added."""
    digests = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in x.cpu().numpy()]
    came_back = all(digest in points for digest, points in zip(digests, visited, strict=True))
    for digest, points in zip(digests, visited, strict=True):
        points.add(digest)
    return came_back


ProjectedGradient.presets = {"fgsm": {"steps": 1, "schedule": "constant"}}
