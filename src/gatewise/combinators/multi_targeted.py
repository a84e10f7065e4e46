"""One targeted run for each of the likeliest wrong classes.

Source: Gowal et al., "An alternative surrogate loss for PGD-based adversarial testing" (2019, arXiv:1910.09338).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatewise.combinators.open_rows import OpenRows
from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.objectives.distance import Distance
from gatewise.objectives.margin import Margin, MarginTo
from gatewise.objectives.targeted import rivals, toward
from gatewise.problem import Problem


@dataclass(frozen=True, kw_only=True)
class MultiTargeted(Method):
    """The member once for each likely wrong class.

    Every run begins at the given point and has the objective's targeted form; the budget is shared equally. Works for
    the objectives that have a targeted form: `Margin`, `-CrossEntropy`, `DifferenceOfLogitsRatio`. With a `Distance` as
    objective it is the goal, a `Margin`, that each run aims at one class: `MarginTo`.
    """

    name: ClassVar[str] = "multi-targeted"

    member: Method
    classes: int = 9
    """How many wrong classes to aim at, likeliest at the start first; no more than there are."""

    def __post_init__(self):
        require_positive(classes=self.classes)
        super().__post_init__()

    @property
    def backwards_per_step(self) -> int:
        """The member's."""
        return self.member.backwards_per_step

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """One class after another; the values yielded are those of the objective as it was given."""
        with torch.no_grad():
            classified = problem.objective
            if isinstance(classified, Distance) and problem.goal is not None:
                classified = problem.goal
            order = rivals(classified, problem.network(start.points))[:, : self.classes]
        share = None if start.budget is None else max(1, start.budget // order.shape[1])
        standing = OpenRows()
        for targets in order.unbind(1):
            shared = dataclasses.replace(start, budget=share)
            yield from standing.run(self.member, _aimed(problem, targets), shared, told=problem)


def _aimed(problem: Problem, targets: Tensor) -> Problem:
    match problem:
        case Problem(objective=Distance(), goal=Margin(labels)):
            return dataclasses.replace(problem, goal=MarginTo(labels, targets))
        case _:
            return dataclasses.replace(problem, objective=toward(problem.objective, targets))
