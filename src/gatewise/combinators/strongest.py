"""The strongest search there is here: cheap to dear, each from the best that the others left.

apgd first, then rounds of gate annealing: from random points toward each row's nearest rival classes in turn (the
multi-targeted idea of Gowal et al. 2019), and narrow ones around each row's best point (iterated local search); between
them exact local steps (`local-milp`) around the best points of the rows that still stand: under a clock nearest first,
for a share of the time, otherwise one for each row, where the budget pays for them in full. It follows the goal, and
the objective only where there is none. It goes on until the driver ends it: by budget, by time, or since every row is
done; with neither budget nor clock it makes one spell of each.

Every member runs on the rows that still stand alone, and none of these has more passes than the budget says. Rows share
the clock. Exact steps take what each row needs of them, so that from the first one on it depends on
the rows beside a row how long it is searched.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from gatewise.combinators.open_rows import OpenRows
from gatewise.errors import UnsupportedProblem
from gatewise.geometry import per_row
from gatewise.methods.auto_projected_gradient import AutoProjectedGradient
from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.methods.gate_annealing import GateAnnealing
from gatewise.methods.local_milp import LocalMilp
from gatewise.objectives.base import ObjectiveFunction
from gatewise.objectives.margin import Margin, MarginTo
from gatewise.problem import Iterate, Problem


@dataclass(frozen=True, kw_only=True)
class Strongest(Method):
    """A portfolio: apgd, gate annealing toward every rival, exact local steps, until time or budget ends."""

    name: ClassVar[str] = "strongest"

    run: int = 100
    """Backward passes of one annealing run, at most half the budget; the narrow ones and apgd take half as many."""
    rivals: int = 3
    """Nearest rival classes that later rounds aim at; the first rounds take every class once."""
    rounds: int = 4
    """Rounds of annealing between two spells of exact steps, at least; by the clock, both take as long."""
    spell: float = 0.04
    """Share of the time that is left for a spell of exact steps."""
    workers: int = 2
    """Programs solved at the same time."""

    def __post_init__(self):
        require_positive(run=self.run, rivals=self.rivals, rounds=self.rounds, workers=self.workers)
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Round after round."""
        best = _Best(problem, start)
        anneal, narrow = GateAnnealing(), GateAnnealing(width=0.2, step_size=0.3)
        run = self.run if start.budget is None else min(self.run, max(1, start.budget // 2))
        short, long = replace(start, budget=max(1, run // 2)), replace(start, budget=run)
        yield from best.of(AutoProjectedGradient(), best.toward(None), short)
        yield from best.of(anneal, best.toward(None), long)
        timed = start.deadline < math.inf
        open_ended = start.budget is not None or timed
        spell, rested_at = 0.0, time.perf_counter()
        for turn in itertools.count() if open_ended else range(self.rounds):
            if best.left() <= 0:
                return
            rank = turn if turn < best.rivals else turn % min(self.rivals, best.rivals)
            points = problem.domain.sample(start.streams, start.points)
            yield from best.of(anneal, best.toward(rank), replace(long, points=points))
            yield from best.of(narrow, best.toward(0), replace(short, points=best.x), by="gate-annealing, narrow")
            rested = not timed or time.perf_counter() - rested_at >= spell
            if turn % self.rounds == self.rounds - 1 and rested and best.has_bounds:
                began = time.perf_counter()
                yield from self._exact(best, start)
                rested_at = time.perf_counter()
                spell = rested_at - began

    def _exact(self, best: _Best, start: Start) -> Steps:
        """A spell of exact steps, as long as time and budget allow."""
        exact = LocalMilp(workers=self.workers, steps=1)
        if start.deadline < math.inf:
            exact = replace(exact, nearest=4 * self.workers, steps=None)
        left = None if start.budget is None else int(best.left())
        if left is not None and left <= exact.most_gates:
            return
        ends = time.perf_counter() + self.spell * start.seconds_left()
        begin = replace(start, points=best.x, budget=left, deadline=ends)
        for iterate in best.of(exact, best.toward(None), begin):
            yield iterate
            if time.perf_counter() > ends:
                break


class _Best:
    """Each row's best point so far, and how near each rival class has come."""

    def __init__(self, problem: Problem, start: Start):
        self.problem, self.x, self.budget = problem, start.points, start.budget
        self.objective: ObjectiveFunction = problem.objective if problem.goal is None else problem.goal
        self.value = torch.full_like(self.x.flatten(1)[:, 0], torch.inf)
        self.nearest: Tensor | None = None
        self.standing = OpenRows()

    def left(self) -> float:
        """Backward passes that each row which stands may still have."""
        return math.inf if self.budget is None else self.budget - self.standing.spent

    @property
    def rivals(self) -> int:
        """How many classes a row can be aimed at; 1 where the goal is no margin."""
        return 1 if self.nearest is None else self.nearest.shape[1] - 1

    @property
    def has_bounds(self) -> bool:
        """Whether exact steps are possible: they need a box."""
        try:
            self.problem.domain.bounds(self.x)
        except UnsupportedProblem:
            return False
        return True

    def toward(self, rank: int | None) -> Problem:
        """The problem with the goal as objective; with a rank, that toward each row's so many-th nearest rival."""
        objective = self.objective
        if rank is not None and self.nearest is not None and isinstance(objective, Margin):
            objective = MarginTo(objective.labels, self.nearest.argsort(1)[:, rank])
        return replace(self.problem, objective=objective)

    def of(self, method: Method, problem: Problem, start: Start, by: str = "") -> Iterator[Iterate]:
        """What the method visits, told in the given problem's own terms, while the best points are kept."""
        for iterate in self.standing.run(method, problem, start, told=self.problem):
            assert iterate.output is not None
            with torch.no_grad():
                self._keep(iterate.x, iterate.output)
            yield replace(iterate, by=by or method.name)
            if self.left() < method.backwards_per_step:
                return

    def _keep(self, x: Tensor, output: Tensor) -> None:
        value = self.objective(x, output)
        better = value < self.value
        self.x = torch.where(per_row(better, x), x, self.x)
        self.value = torch.where(better, value, self.value)
        if isinstance(self.objective, Margin):
            labels = self.objective.labels[:, None]
            margins = (output.gather(1, labels) - output).scatter(1, labels, torch.inf)
            self.nearest = margins if self.nearest is None else torch.fmin(margins, self.nearest)
