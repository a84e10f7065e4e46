"""Budgets, goals, clocks and callbacks end a run when they should, and leave the best point so far."""

import pytest
import torch

from gatewise.result import Status
from gatewise.solve import goal_met, minimize, never

from .cases import (
    METHODS,
    PAIRS,
    PROBLEMS,
    Watched,
    check_it_went_on_to_the_end,
    every_row_came_back,
    l2_or_linf,
    linf_images,
    scalar_in_box,
)

EVERY_METHOD = pytest.mark.parametrize("method", METHODS)
CLASSIFIERS = [(method, problem) for method, problem in PAIRS if problem != "box"]


@EVERY_METHOD
@pytest.mark.parametrize("budget", [1, 2, 7, 20])
@pytest.mark.parametrize("stop", [goal_met, never])
def test_the_budget_is_never_overspent(method, budget, stop):
    case, row = linf_images(torch.float32), METHODS[method]
    result = minimize(case.problem, row.method, case.start, budget=budget, stop=stop)
    assert result.backwards_per_row <= budget
    assert result.steps >= 1
    assert result.value.isfinite().all()


@EVERY_METHOD
def test_without_a_budget_a_method_comes_to_an_end_of_its_own(method):
    case, row = linf_images(torch.float32, rows=[0]), METHODS[method]
    watched = Watched(member=row.method)
    result = minimize(case.problem, watched, case.start, stop=never)
    assert set(result.status) <= {Status.FINISHED, Status.GOAL_MET}
    spent = result.backwards_per_row if row.takes_gradients else result.forwards_per_row
    assert spent >= row.unlimited or row.ends_itself or (row.ends_at_cycles and every_row_came_back(watched.points))


@pytest.mark.parametrize(("method", "problem"), CLASSIFIERS)
def test_in_a_large_set_the_goal_is_met_and_ends_the_run_early(method, problem):
    radius = {"linf": 0.5, "l1": 12.0, "l2": 6.0}[problem]
    case = PROBLEMS[problem](torch.float32, radius=radius)
    watched = Watched(member=METHODS[method].method)
    result = minimize(case.problem, watched, case.start, budget=400, stop=goal_met)
    assert result.goal_met.all()
    assert set(result.status) == {Status.GOAL_MET}
    assert result.backwards_per_row < 400
    assert result.steps <= 400
    assert (case.module(result.x).argmax(1) != case.module(case.start).argmax(1)).all()
    # A row that is done keeps its first point that meets the goal.
    goal = case.problem.goal
    for row in range(3):
        first = next(point.x[row] for point in watched.points if goal(point.x, case.module(point.x))[row] <= 0)
        assert torch.equal(result.x[row], first)


@EVERY_METHOD
def test_never_goes_on_after_the_goal(method):
    case, row = linf_images(torch.float32, radius=0.5), METHODS[method]
    watched = Watched(member=row.method)
    result = minimize(case.problem, watched, case.start, budget=24, stop=never)
    check_it_went_on_to_the_end(row, result, watched.points, 24)


@pytest.mark.parametrize(("method", "problem"), CLASSIFIERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_radius_zero_returns_the_input_bit_for_bit(method, problem, dtype):
    case = PROBLEMS[problem](dtype, radius=0.0)
    result = minimize(case.problem, METHODS[method].method, case.start, budget=8)
    assert torch.equal(result.x, case.start)
    assert not result.violation.any()


@EVERY_METHOD
def test_a_callback_can_stop_the_run_at_any_step(method):
    case, seen = l2_or_linf(METHODS[method], torch.float32), []

    def third(standing):
        seen.append(standing.value.clone())
        return standing.step == 3

    result = minimize(case.problem, METHODS[method].method, case.start, budget=50, stop=never, callback=third)
    assert result.steps == len(seen) == 3
    assert set(result.status) <= {Status.STOPPED, Status.GOAL_MET}
    torch.testing.assert_close(result.value, seen[-1])


@EVERY_METHOD
def test_the_clock_is_looked_at_after_every_step(method):
    case = l2_or_linf(METHODS[method], torch.float32)
    result = minimize(case.problem, METHODS[method].method, case.start, budget=10**6, stop=never, seconds=1e-9)
    assert result.steps == 1
    assert set(result.status) <= {Status.TIME_SPENT, Status.GOAL_MET}
    assert torch.equal(result.x, case.start) or not METHODS[method].visits_start


@EVERY_METHOD
def test_a_clock_without_a_budget_ends_a_run(method):
    case = l2_or_linf(METHODS[method], torch.float32)
    result = minimize(case.problem, METHODS[method].method, case.start, seconds=0.02, stop=never)
    assert result.seconds < 5


@EVERY_METHOD
def test_a_start_outside_the_set_is_projected_first(method):
    case, row = scalar_in_box(torch.float32), METHODS[method]
    if row.needs_targets or row.needs_proximal:
        case = linf_images(torch.float32)
    watched = Watched(member=row.method)
    result = minimize(case.problem, watched, case.start + 3.0, budget=4, stop=never)
    assert not result.violation.any()
    if row.visits_start:
        assert torch.equal(watched.points[0].x, case.problem.domain.project(case.start + 3.0))


@EVERY_METHOD
def test_a_caller_under_no_grad_gets_the_same_answer(method):
    case = l2_or_linf(METHODS[method], torch.float64)
    outside = minimize(case.problem, METHODS[method].method, case.start, budget=8, stop=never)
    with torch.no_grad():
        inside = minimize(case.problem, METHODS[method].method, case.start, budget=8, stop=never)
    assert torch.equal(inside.x, outside.x)
    assert inside.backwards_per_row == outside.backwards_per_row
