"""A cheap method first, a dear one from where it got to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from gatewise.errors import InvalidInput
from gatewise.methods.base import Method, Start, Steps
from gatewise.problem import Best, Problem


@dataclass(frozen=True, kw_only=True)
class WarmStart(Method):
    """One method with its share of the budget, then another from each row's best point."""

    name: ClassVar[str] = "warm-start"

    first: Method
    then: Method
    share: float = 0.5
    """Share of the budget that `first` gets."""

    def __post_init__(self):
        if not 0 < self.share < 1:
            raise InvalidInput(f"share must lie between 0 and 1, got {self.share}.")
        super().__post_init__()

    @property
    def backwards_per_step(self) -> int:
        """The dearer member's."""
        return max(self.first.backwards_per_step, self.then.backwards_per_step)

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """One after the other."""
        spent = None if start.budget is None else max(1, round(self.share * start.budget))
        best = Best.none_yet(start.points)
        for iterate in self.first.iterate(problem, replace(start, budget=spent)):
            yield iterate
            best.take(problem, iterate)
        left = None if start.budget is None or spent is None else max(1, start.budget - spent)
        yield from self.then.iterate(problem, replace(start, points=best.x, budget=left))
