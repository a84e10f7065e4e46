"""Several runs of one method, each from a fresh point of the set, on the rows that still stand."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import ClassVar

from gatewise.combinators.open_rows import OpenRows
from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Restarts(Method):
    """The member several times, from random points.

    The first run begins at the given point; the budget is shared equally. With `times=None` and no
    budget it goes on until it is stopped, by the clock for instance; each run then has the length that the member takes
    without a budget. With a budget, `times=None` is one run.
    """

    name: ClassVar[str] = "restarts"

    member: Method
    times: int | None = 5
    """Number of runs; None: no end."""

    def __post_init__(self):
        require_positive(times=self.times)
        super().__post_init__()

    @property
    def backwards_per_step(self) -> int:
        """The member's."""
        return self.member.backwards_per_step

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """One run after another."""
        times = self.times if self.times is not None or start.budget is None else 1
        share = None if start.budget is None or times is None else max(1, start.budget // times)
        standing = OpenRows()
        for run in range(times) if times is not None else itertools.count():
            points = start.points if run == 0 else problem.domain.sample(start.streams, start.points)
            yield from standing.run(self.member, problem, replace(start, points=points, budget=share))
