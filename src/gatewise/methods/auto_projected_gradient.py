"""APGD: projected gradient with momentum whose step halves when progress stops.

Source: Croce & Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks" (ICML 2020, arXiv:2003.01690), Algorithm 1 and Section 3.1.

Legend: x_best, g_best = best point so far and the gradient there; checkpoints are the paper's w_j.

Deviations: (1) The direction is the set's own `steepest`, so that one loop serves every norm; for l1 the sparse
variant of "Mind the box" (ICML 2021) is not followed. (2) The paper spends one gradient more than its iterations,
this one exactly the budget. (3) A checkpoint is looked at before the step that it may undo, as in the authors' code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from gatewise.geometry import per_row
from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.problem import Problem


@dataclass(frozen=True, kw_only=True)
class AutoProjectedGradient(Method):
    """Momentum; the step halves when progress stops."""

    name: ClassVar[str] = "apgd"

    momentum: float = 0.75
    """Weight of the new step against the last move (the paper's alpha)."""
    progress: float = 0.75
    """Share of improving steps between checkpoints below which the step halves (the paper's rho)."""
    step_size: float = 2.0
    """First step, in units of the set's size."""
    random_start: bool = False
    """Begin at a random point of the set instead of the given one."""
    steps: int | None = None
    """Steps to take; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(step_size=self.step_size, steps=self.steps)
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Algorithm 1."""
        domain, steps = problem.domain, start.steps(self.steps)
        checkpoints = _checkpoints(steps)
        x = domain.sample(start.streams, start.points) if self.random_start else start.points
        size = self.step_size * domain.size(x)
        before, last_value = x, torch.full_like(size, -torch.inf)
        x_best, g_best, best = x, torch.zeros_like(x), torch.full_like(size, torch.inf)
        improving = torch.zeros_like(size)
        best_then, halved_then, last_checkpoint = best, torch.ones_like(size, dtype=torch.bool), 0
        for step in range(steps):
            here = problem.at(x)
            yield here
            value, gradient = here.value, here.gradient()
            assert value is not None
            improving = improving + (value < last_value)
            better = value < best
            best = torch.where(better, value, best)
            x_best = torch.where(per_row(better, x), x, x_best)
            g_best = torch.where(per_row(better, x), gradient, g_best)
            if step in checkpoints:
                slow = improving < self.progress * (step - last_checkpoint)
                stuck = ~halved_then & (best_then <= best)
                halve = slow | stuck
                size = torch.where(halve, size / 2, size)
                x = torch.where(per_row(halve, x), x_best, x)
                gradient = torch.where(per_row(halve, x), g_best, gradient)
                value = torch.where(halve, best, value)
                best_then, halved_then, last_checkpoint = best, halve, step
                improving = torch.zeros_like(size)
            last_value = value

            momentum = self.momentum if step else 1.0
            ahead = domain.project(x - per_row(size, x) * domain.steepest(gradient))
            before, x = x, domain.project(x + momentum * (ahead - x) + (1 - momentum) * (x - before))
        yield problem.at(x)


def _checkpoints(steps: int) -> frozenset[int]:
    """The steps w_j at which progress is looked at: 22% of the way, then ever closer together, down to 6%."""
    last, here, found = 0, 22, set()  # in percent: as fractions 0.41 + 0.16 would come out above 0.57
    while here <= 100:
        found.add(math.ceil(here * steps / 100))
        last, here = here, here + max(here - last - 3, 6)
    return frozenset(found)
