"""What holds of every run of every method: one run each, looked at from all sides."""

import copy
from itertools import pairwise

import pytest
import torch

from gatewise.result import Status

from .cases import BUDGET, METHODS, PAIRS, check_it_went_on_to_the_end, watched_run

pytestmark = pytest.mark.parametrize(
    ("method", "problem", "dtype"),
    [
        pytest.param(method, problem, dtype, id=f"{method}-{problem}-{str(dtype)[6:]}")
        for method, problem in PAIRS
        for dtype in (torch.float32, torch.float64)
    ],
)


def test_every_visited_point_is_feasible_exactly_and_keeps_the_dtype(method, problem, dtype):
    run = watched_run(method, problem, dtype)
    assert len(run.points) > 1
    for iterate in run.points:
        assert iterate.x.dtype is dtype
        assert iterate.x.shape == run.case.start.shape
        assert not iterate.x.requires_grad
        assert not run.case.problem.domain.violation(iterate.x).any()


def test_what_a_method_says_of_a_point_is_what_the_network_says(method, problem, dtype):
    run = watched_run(method, problem, dtype)
    module, objective = copy.deepcopy(run.case.module), run.case.problem.objective
    with torch.no_grad():
        for iterate in run.points:
            if iterate.value is None or iterate.output is None:
                continue  # left to the driver
            output = module(iterate.x)
            torch.testing.assert_close(iterate.output, output, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(iterate.value, objective(iterate.x, output), rtol=1e-5, atol=1e-6)


def test_the_result_is_feasible_and_its_value_is_that_of_a_plain_pass_of_the_module(method, problem, dtype):
    run = watched_run(method, problem, dtype)
    result, (objective, goal) = run.result, (run.case.problem.objective, run.case.problem.goal)
    with torch.no_grad():
        output = copy.deepcopy(run.case.module)(result.x)
    assert result.x.dtype is result.value.dtype is dtype
    assert torch.equal(result.value, objective(result.x, output))
    met = torch.zeros(3, dtype=torch.bool) if goal is None else goal(result.x, output) <= 0
    assert torch.equal(result.goal_met, met)
    assert torch.equal(result.violation, torch.zeros(3, dtype=torch.float64))
    assert not run.case.problem.domain.violation(result.x).any()


def test_the_best_of_the_visited_points_is_kept(method, problem, dtype):
    run = watched_run(method, problem, dtype)
    problem, points = run.case.problem, [iterate.x for iterate in run.points]
    with torch.no_grad():
        outputs = [run.case.module(x) for x in points]
    values = torch.stack([problem.objective(x, y) for x, y in zip(points, outputs, strict=True)])
    if problem.goal is not None:
        met = torch.stack([problem.goal(x, y) <= 0 for x, y in zip(points, outputs, strict=True)])
        values = values.where(met | ~met.any(0), torch.inf)
    torch.testing.assert_close(run.result.value, values.amin(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(run.result.history[-1], run.result.value, rtol=1e-5, atol=1e-6)


def test_the_history_never_rises_but_where_a_row_first_meets_the_goal(method, problem, dtype):
    run = watched_run(method, problem, dtype)
    history = run.result.history
    assert history.shape == (run.result.steps, 3)
    assert torch.equal(history, torch.stack(run.values))
    met = torch.stack(run.met)
    assert (met[1:] >= met[:-1]).all(), "a goal once met stays met"
    first_met = met[1:] & ~met[:-1]
    assert ((history[1:] <= history[:-1]) | first_met).all()


def test_a_method_that_begins_at_the_given_point_never_ends_worse(method, problem, dtype):
    run = watched_run(method, problem, dtype)
    if not METHODS[method].visits_start:
        assert not torch.equal(run.points[0].x, run.case.start)
        return
    assert torch.equal(run.points[0].x, run.case.problem.domain.project(run.case.start))
    better = run.result.value <= run.points[0].value + 1e-6
    assert (better | run.result.goal_met).all()
    assert (run.result.value < run.points[0].value).any(), "the method does not move at all"


def test_the_budget_is_spent_and_not_overspent_and_no_step_costs_more_than_declared(method, problem, dtype):
    run = watched_run(method, problem, dtype)
    check_it_went_on_to_the_end(METHODS[method], run.result, run.points, BUDGET)
    declared = METHODS[method].method.backwards_per_step
    steps = [after - before for before, after in pairwise([0, *run.spent])]
    announced = [0, *(point.ahead for point in run.points[:-1])]
    assert all(step <= max(3 * declared, ahead) for step, ahead in zip(steps, announced, strict=True))
    assert run.spent[-1] <= 3 * BUDGET


def test_every_row_says_how_it_ended(method, problem, dtype):
    result = watched_run(method, problem, dtype).result
    spent = result.backwards_per_row == BUDGET or METHODS[method].dear_steps
    for met, status in zip(result.goal_met, result.status, strict=True):
        assert status is (Status.GOAL_MET if met else Status.BUDGET_SPENT if spent else Status.FINISHED)
        assert str(status).endswith(".")
    assert result.seconds > 0
