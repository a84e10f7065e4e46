"""Perturbed gradient descent: normalised steps, and a random kick where progress has stopped.

Source: Jin, Ge, Netrapalli, Kakade & Jordan, "How to escape saddle points efficiently" (ICML 2017, arXiv:1703.00887),
Algorithm 1.

Deviations: (1) Gradients are normalised and x is projected. (2) "Small gradient" cannot be asked of a
piecewise-linear function, whose gradient does not fade at its kinks: a row counts as stuck when its best value has
not fallen by more than `progress`, relatively, for `patience` steps. (3) The kick is the paper's uniform draw from a
ball, of radius `kick_size` times the length of a normalised gradient step at full size. (4) Both step and kick decay,
and the best point is kept by the driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from gatewise.geometry import per_row, unit_rows
from gatewise.methods.base import Method, Start, Steps, cosine_decay, require_positive
from gatewise.problem import Problem


@dataclass(frozen=True, kw_only=True)
class PerturbedGradientDescent(Method):
    """Gradient steps, and a kick where a row is stuck."""

    name: ClassVar[str] = "perturbed-gd"

    step_size: float = 0.5
    """First step, in input units."""
    kick_size: float = 1.0
    """Radius of the kick, in input units."""
    patience: int = 25
    """Steps without progress before a kick, and between two kicks."""
    progress: float = 1e-3
    """Relative fall of the best value that counts as progress."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How step and kick fall over the steps ahead."""
    steps: int | None = None
    """Steps to take; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(step_size=self.step_size, kick_size=self.kick_size, patience=self.patience, steps=self.steps)
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Yield x, kick the rows that are stuck, then step."""
        x, steps = start.points, start.steps(self.steps)
        dimension = x[0].numel()
        best = torch.full_like(x.flatten(1)[:, 0], torch.inf)
        since = torch.zeros_like(best)
        for step in range(steps):
            here = problem.at(x)
            yield here
            assert here.value is not None
            fell = here.value < best - self.progress * best.abs().nan_to_num(posinf=0.0)
            since = torch.where(fell, 0, since + 1)
            best = torch.where(fell, here.value, best)
            stuck = since >= self.patience
            since = since.masked_fill(stuck, 0)
            decay = cosine_decay(step, steps) if self.schedule == "cosine" else 1.0
            x = x - decay * self.step_size * unit_rows(here.gradient())
            if bool(stuck.any()):
                radius = start.streams.uniform(best[:, None], only=stuck) ** (1 / dimension)
                noise = unit_rows(start.streams.normal(x, only=stuck)) * per_row(radius, x)
                x = x + decay * self.kick_size * noise
            x = problem.domain.project(x)
        yield problem.at(x)
