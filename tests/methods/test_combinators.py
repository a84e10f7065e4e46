"""Combinators: how they share the budget, where their members start, what they aim at, what they hand on."""

from dataclasses import dataclass, field

import pytest
import torch

from gatewise.combinators import MultiTargeted, Restarts, WarmStart
from gatewise.domains import LinfBall
from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.methods import ActivationDescent, AutoProjectedGradient, Method, ProjectedGradient, Start
from gatewise.network import view
from gatewise.objectives import CrossEntropy, DifferenceOfLogitsRatio, Linear, Margin, TargetedMargin
from gatewise.problem import Problem
from gatewise.solve import minimize, never
from gatewise.streams import RowStreams

from .trajectories import SEED, gradient, network, points

NET, START = network(6, 12, 9, 4), points(3, 6)
LABELS = NET(START).argmax(1)
BALL = LinfBall(START, 0.2)


@dataclass(frozen=True, kw_only=True)
class Recorder(Method):
    """A member that remembers how it was started, and asks for one gradient a step."""

    member: Method
    starts: list[Start] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    name = "recorder"

    @property
    def backwards_per_step(self) -> int:
        return self.member.backwards_per_step

    def iterate(self, problem, start):
        self.starts.append(start)
        self.problems.append(problem)
        yield from self.member.iterate(problem, start)


def _walk(method, *, objective=None, budget=60):
    problem = Problem(view(NET), BALL, Margin(LABELS) if objective is None else objective)
    return list(method.iterate(problem, Start(START, budget, RowStreams(SEED, range(3)))))


def test_restarts_share_the_budget_equally():
    recorder = Recorder(member=ProjectedGradient())
    walk = _walk(Restarts(member=recorder, times=4), budget=61)
    assert [start.budget for start in recorder.starts] == [15] * 4
    assert len(walk) == 4 * 16


def test_the_first_run_of_restarts_is_the_member_alone():
    for member in (ProjectedGradient(), AutoProjectedGradient(), ActivationDescent(step_size=0.1)):
        alone = _walk(member, budget=15)
        together = _walk(Restarts(member=member, times=4), budget=60)
        for mine, theirs in zip(together[: len(alone)], alone, strict=True):
            assert torch.equal(mine.x, theirs.x)


def test_later_runs_start_from_random_points_of_the_set():
    recorder = Recorder(member=ProjectedGradient())
    _walk(Restarts(member=recorder, times=3))
    streams = RowStreams(SEED, range(3))
    assert recorder.starts[0].points is START
    for start in recorder.starts[1:]:
        assert torch.equal(start.points, BALL.sample(streams, START))
        assert not BALL.violation(start.points).any()


def test_restarts_without_end_go_on_until_the_clock_stops_them():
    problem = Problem(view(NET), BALL, Margin(LABELS))
    method = Restarts(member=ProjectedGradient(steps=3), times=None)
    result = minimize(problem, method, START, seconds=0.3, stop=never)
    assert result.steps > 12
    assert result.seconds < 10


def test_restarts_without_end_are_one_run_where_there_is_a_budget():
    recorder = Recorder(member=ProjectedGradient())
    _walk(Restarts(member=recorder, times=None), budget=12)
    assert [start.budget for start in recorder.starts] == [12]


@pytest.mark.parametrize("classes", [1, 2, 3, 9])
def test_multi_targeted_aims_at_the_likeliest_wrong_classes_in_turn(classes):
    recorder = Recorder(member=ProjectedGradient())
    _walk(MultiTargeted(member=recorder, classes=classes), budget=60)
    order = NET(START).scatter(1, LABELS[:, None], -torch.inf).argsort(1, descending=True)
    aimed = [problem.objective.targets for problem in recorder.problems]
    assert len(aimed) == min(classes, 3)
    for place, targets in enumerate(aimed):
        assert torch.equal(targets, order[:, place])
    assert [start.budget for start in recorder.starts] == [60 // len(aimed)] * len(aimed)
    assert all(start.points is START for start in recorder.starts)


@pytest.mark.parametrize(
    "objective", [Margin(LABELS), -CrossEntropy(LABELS), DifferenceOfLogitsRatio(LABELS)], ids=["margin", "ce", "dlr"]
)
def test_multi_targeted_yields_values_of_the_objective_as_it_was_given(objective):
    for iterate in _walk(MultiTargeted(member=ProjectedGradient()), objective=objective):
        torch.testing.assert_close(iterate.value, objective(iterate.x, NET(iterate.x)), rtol=0, atol=1e-12)


def test_multi_targeted_runs_are_the_members_runs_on_the_targeted_problem():
    walk = _walk(MultiTargeted(member=ProjectedGradient(), classes=1), budget=20)
    order = NET(START).scatter(1, LABELS[:, None], -torch.inf).argmax(1)
    alone = _walk(ProjectedGradient(), objective=TargetedMargin(order), budget=20)
    for mine, theirs in zip(walk, alone, strict=True):
        assert torch.equal(mine.x, theirs.x)


def test_multi_targeted_needs_an_objective_with_classes():
    with pytest.raises(UnsupportedProblem, match="Linear has no targeted form; use Margin"):
        _walk(MultiTargeted(member=ProjectedGradient()), objective=Linear(torch.ones(4, dtype=torch.float64)))


@pytest.mark.parametrize(("share", "shares"), [(0.5, [30, 30]), (0.25, [15, 45]), (0.999, [60, 1]), (0.001, [1, 59])])
def test_warm_start_splits_the_budget(share, shares):
    first, then = Recorder(member=ProjectedGradient()), Recorder(member=AutoProjectedGradient())
    _walk(WarmStart(first=first, then=then, share=share))
    assert [first.starts[0].budget, then.starts[0].budget] == shares


def test_warm_start_hands_each_row_its_own_best_point():
    first = ProjectedGradient(schedule="constant", step_size=0.7)
    then = Recorder(member=ProjectedGradient())
    _walk(WarmStart(first=first, then=then))
    walk = _walk(first, budget=30)
    values = torch.stack([iterate.value for iterate in walk])
    best = values.argmin(0)
    assert len(set(best.tolist())) > 1, "rows reach their best at different steps"
    expected = torch.stack([walk[step].x[row] for row, step in enumerate(best.tolist())])
    assert torch.equal(then.starts[0].points, expected)


def test_warm_start_is_never_worse_than_its_first_part():
    problem = Problem(view(NET), BALL, Margin(LABELS))
    first = minimize(problem, ProjectedGradient(), START, budget=10, stop=never)
    both = minimize(problem, WarmStart(first=ProjectedGradient(), then=AutoProjectedGradient()), START, budget=20)
    assert (both.value <= first.value).all()


def test_a_combinator_steps_as_dearly_as_its_dearest_member():
    dear, cheap = ActivationDescent(), ProjectedGradient()
    assert Restarts(member=dear).backwards_per_step == MultiTargeted(member=dear).backwards_per_step == 2
    assert WarmStart(first=cheap, then=dear).backwards_per_step == 2
    assert WarmStart(first=cheap, then=cheap).backwards_per_step == 1


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Restarts(member=ProjectedGradient(), times=0), "times must be a positive number, got 0"),
        (lambda: MultiTargeted(member=ProjectedGradient(), classes=-1), "classes must be a positive number, got -1"),
        (lambda: WarmStart(first=ProjectedGradient(), then=ProjectedGradient(), share=1.0), "share must lie between"),
    ],
)
def test_settings_that_make_no_sense_give_a_sentence(make, said):
    with pytest.raises(InvalidInput, match=said):
        make()


def test_members_may_be_combinators():
    nested = Restarts(member=MultiTargeted(member=ProjectedGradient(), classes=2), times=2)
    problem = Problem(view(NET), BALL, Margin(LABELS))
    result = minimize(problem, nested, START, budget=40, stop=never)
    assert result.backwards_per_row == 40
    assert gradient(NET, Margin(LABELS), result.x).isfinite().all()
