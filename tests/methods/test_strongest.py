"""The portfolio: who searches, that it stays within its budget and its clock, and that one bad point spoils nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from gatewise.combinators import Strongest
from gatewise.domains import Box, L2Ball, LinfBall
from gatewise.methods import Method, Start
from gatewise.network import view
from gatewise.objectives import CrossEntropy, Linear, Margin
from gatewise.problem import Problem
from gatewise.result import Status
from gatewise.solve import minimize, never
from gatewise.streams import RowStreams

from .trajectories import SEED, network, points

NET, START = network(6, 12, 9, 4), points(3, 6)
LABELS = NET(START).argmax(1)
QUICK = Strongest(run=40, rounds=1)
MEMBERS = ["apgd", "gate-annealing", "gate-annealing", "gate-annealing, narrow"]


def _finders(domain, method=QUICK, **options):
    """Who visited the points of a run without end of its own, in order, each named once in a row; and the result."""
    problem, seen = Problem(view(NET), domain, -CrossEntropy(LABELS), goal=Margin(LABELS)), []
    start = Start(START, options.get("budget"), RowStreams(SEED, range(3)))
    if not options:
        seen = [iterate.by for iterate in method.iterate(problem, start)]
    return seen, minimize(problem, method, START, stop=never, **options)


def test_without_budget_and_clock_it_makes_one_spell_of_each():
    seen, result = _finders(LinfBall(START, 0.01))
    assert list(dict.fromkeys(seen)) == [*dict.fromkeys(MEMBERS), "local-milp"]
    assert set(result.status) == {Status.FINISHED}
    assert set(result.found_by) <= set(seen)
    assert result.seconds < 20
    round_one = Strongest().iterate(
        Problem(view(NET), L2Ball(START, 0.01), Margin(LABELS)), Start(START, None, RowStreams(SEED, range(3)))
    )
    assert "local-milp" not in {iterate.by for iterate in round_one}, "no box, no exact steps"


@dataclass(frozen=True, kw_only=True)
class Overheard(Method):
    """The portfolio, with who found each point noted."""

    name = "overheard"
    said: list[str] = field(default_factory=list)

    def iterate(self, problem, start):
        for iterate in QUICK.iterate(problem, start):
            self.said.append(iterate.by)
            yield iterate


@pytest.mark.parametrize(("budget", "exact"), [(1, False), (30, False), (1320, False), (1321, True), (1500, True)])
@pytest.mark.parametrize("seconds", [None, 60.0])
def test_the_budget_is_spent_and_not_overspent_with_exact_steps_and_without(budget, exact, seconds):
    problem = Problem(view(NET), LinfBall(START, 0.1), Margin(LABELS), goal=Margin(LABELS))
    method = Overheard()
    result = minimize(problem, method, START, budget=budget, seconds=seconds, stop=never)
    assert budget - 1 < result.backwards_per_row <= budget, "exact steps leave a row's share of a pass"
    assert exact or result.backwards_per_row == budget
    assert set(result.status) <= {Status.BUDGET_SPENT, Status.GOAL_MET}
    assert ("local-milp" in method.said) == exact, "they come in where the budget pays for them"


def test_a_clock_ends_it():
    _, result = _finders(LinfBall(START, 0.01), seconds=1.0)
    assert set(result.status) == {Status.TIME_SPENT}
    assert result.seconds < 4


def test_it_takes_problems_without_goal_and_without_classes():
    scalar = network(6, 12, 9, 1)
    problem = Problem(view(scalar), Box(0.0, 1.0), Linear(torch.ones(1, dtype=torch.float64)))
    result = minimize(problem, QUICK, START)
    assert (result.value < scalar(START)[:, 0]).all()


def test_a_point_of_nan_on_the_way_does_not_end_the_search_for_its_row():
    class Hole(nn.Module):
        """NaN once, at the second look."""

        looks = 0

        def forward(self, x):
            self.looks += 1
            return NET(x) * (torch.nan if self.looks == 2 else 1.0)

    problem = Problem(view(Hole().eval()), LinfBall(START, 0.05), Margin(LABELS), goal=Margin(LABELS))
    result = minimize(problem, QUICK, START, budget=120, stop=never)
    assert (result.value < Margin(LABELS)(START, NET(START))).all()
