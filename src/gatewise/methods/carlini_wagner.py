"""Carlini & Wagner's l2 attack: squared distance plus a weighted hinge of the margin, by Adam, through a tanh.

Source: Carlini & Wagner, "Towards evaluating the robustness of neural networks" (IEEE S&P 2017, arXiv:1608.04644),
Sections V and VI, equation (7) with the loss f_6; c's search, the early abort and the defaults of the authors' code.

Legend: w = the free variable, x = middle + tanh(w) * half; weight = the paper's c; m, v = Adam's means.

Deviations: (1) The hinge is of the goal, whatever it is. (2) The given point is looked at before the search, since a
tanh cannot give every pixel exactly. (3) A row that no longer falls waits for the others until the next weight; the run
goes on as long as one falls. (4) Progress is looked at ten times a search, but no oftener than every tenth step. (5)
The budget is shared equally among the searches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatewise.errors import UnsupportedProblem
from gatewise.geometry import per_row
from gatewise.methods.base import (
    Method,
    Start,
    Steps,
    boundary_of,
    origin_of,
    require_euclidean,
    require_positive,
    visit,
)
from gatewise.problem import Problem


@dataclass(frozen=True, kw_only=True)
class CarliniWagner(Method):
    """Adam on squared distance plus a hinge, once for each weight of a binary search.

    For a `Distance` with p = 2 as objective, in a box: the nearest point that meets the goal, at a high price;
    published runs take 9 times 1,000 (`preset=short`) to 9 times 10,000 steps (`preset=long`).
    """

    name: ClassVar[str] = "carlini-wagner"

    step_size: float = 0.01
    """Adam's step, in units of w."""
    weight: float = 0.001
    """First weight of the hinge (the paper's c); it grows tenfold until the goal is met, then its bracket is halved."""
    searches: int = 9
    """How many weights are tried."""
    confidence: float = 0.0
    """How far past the boundary is far enough (the paper's kappa)."""
    early_abort: bool = True
    """End a row's search where its loss no longer falls."""
    steps: int | None = None
    """Steps to take, over all searches; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(step_size=self.step_size, weight=self.weight, searches=self.searches, steps=self.steps)
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """A binary search over the weight, and Adam inside it."""
        require_euclidean(problem, self.name)
        boundary, origin = boundary_of(problem), origin_of(problem, start)
        yield visit(problem, boundary.at(start.points))
        middle, half = _box(problem, start.points)
        w_start = ((start.points - middle) / half.where(half > 0, 1) * (1 - 1e-6)).clamp(-1, 1).atanh()
        total = start.steps(self.steps)
        weight = torch.full_like(w_start.flatten(1)[:, 0], self.weight)
        least, most = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
        w = w_start
        for search in range(self.searches):
            steps = total * (search + 1) // self.searches - total * search // self.searches
            w, m, v = w_start, torch.zeros_like(w_start), torch.zeros_like(w_start)
            met, falling, loss_then = weight < 0, weight > 0, torch.full_like(weight, torch.inf)
            for step in range(steps):
                x = problem.domain.project(middle + half * w.tanh())
                here = boundary.at(x)
                yield visit(problem, here)
                assert here.value is not None
                hinge = here.value + self.confidence
                met = met | (hinge <= 0)
                loss = (x - origin).square().flatten(1).sum(1) + weight * hinge.clamp(min=0)
                if self.early_abort and step % max(10, steps // 10) == 0:
                    falling, loss_then = falling & (loss <= 0.9999 * loss_then), loss
                    if not bool(falling.any()):
                        break
                gradient = 2 * (x - origin) + per_row(weight * (hinge > 0), x) * here.gradient()
                gradient = gradient * half * (1 - w.tanh().square())
                m, v = m.lerp(gradient, 0.1), v.lerp(gradient.square(), 0.001)
                mean, square = m / (1 - 0.9 ** (step + 1)), v / (1 - 0.999 ** (step + 1))
                w = torch.where(per_row(falling, w), w - self.step_size * mean / (square.sqrt() + 1e-8), w)
            least, most = least.where(met, weight), most.where(~met, weight)
            weight = torch.where(most.isfinite(), (least + most) / 2, 10 * weight)
        yield visit(problem, boundary.at(problem.domain.project(middle + half * w.tanh())))


CarliniWagner.presets = {"short": {"steps": 9_000}, "long": {"steps": 90_000}}


def _box(problem: Problem, x: Tensor) -> tuple[Tensor, Tensor]:
    """Middle and half-width of each entry, (batch, …)."""
    lower, upper = problem.domain.bounds(x)
    if not bool(lower.isfinite().all() and upper.isfinite().all()):
        raise UnsupportedProblem("carlini-wagner needs a box with finite bounds; give Box two numbers, or use ddn.")
    return ((lower + upper) / 2).expand_as(x), ((upper - lower) / 2).expand_as(x)
