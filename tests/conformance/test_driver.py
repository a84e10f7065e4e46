"""The one driver: what it promises whatever the method."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from gatewise.domains import Box, L2Ball
from gatewise.errors import GatewiseError, InvalidInput
from gatewise.methods import Adam, GradientDescent, Method, ProjectedGradient
from gatewise.network import NetworkView, view
from gatewise.objectives import Distance, Linear, Margin
from gatewise.problem import Iterate, Problem
from gatewise.result import Status
from gatewise.solve import goal_met, maximize, minimize, never

from .cases import l2_vectors, linf_images, scalar_in_box


@dataclass(frozen=True, kw_only=True)
class Tour(Method):
    """Visits given points and asks for nothing."""

    name = "tour"
    points: tuple

    def iterate(self, problem, start):
        for point in self.points:
            yield Iterate(point)


IDENTITY = view(nn.Identity().eval())


def _tour(rows):
    """One tensor (batch, n) for each list of row values."""
    return tuple(torch.tensor(points, dtype=torch.float64) for points in rows)


def _solve_tour(points, *, objective=lambda x, y: y[:, 0], goal=None, **options):
    points = _tour(points)
    problem = Problem(IDENTITY, Box(-10.0, 10.0), objective, goal)
    return minimize(problem, Tour(points=points), torch.zeros_like(points[0]), **options)


def test_the_best_point_of_each_row_is_kept():
    result = _solve_tour([[[3.0], [1.0]], [[2.0], [5.0]], [[4.0], [0.0]]])
    assert result.value.tolist() == [2.0, 0.0]
    assert result.history.tolist() == [[3.0, 1.0], [2.0, 1.0], [2.0, 0.0]]
    assert result.steps == 3
    assert result.status == (Status.FINISHED, Status.FINISHED)


def test_points_that_meet_the_goal_go_before_points_that_do_not():
    """The goal asks for a second entry at most 0; the objective is the first."""
    result = _solve_tour(
        [[[1.0, 5.0]], [[7.0, -1.0]], [[0.0, 5.0]], [[6.0, -1.0]], [[8.0, -2.0]]],
        goal=lambda x, y: y[:, 1],
        stop=never,
    )
    assert result.history.flatten().tolist() == [1.0, 7.0, 7.0, 6.0, 6.0]
    assert result.value.tolist() == [6.0]
    assert result.goal_met.tolist() == [True]
    assert result.status == (Status.GOAL_MET,)


def test_with_goal_met_a_row_is_done_at_its_first_point_and_others_go_on():
    result = _solve_tour(
        [[[5.0, 1.0], [5.0, 1.0]], [[4.0, -1.0], [4.0, 1.0]], [[3.0, -1.0], [3.0, -1.0]], [[2.0, -1.0], [2.0, -1.0]]],
        goal=lambda x, y: y[:, 1],
    )
    assert result.x.tolist() == [[4.0, -1.0], [3.0, -1.0]]
    assert result.steps == 3


@dataclass(frozen=True, kw_only=True)
class Relay(Method):
    """Visits given points, each named after its finder."""

    name = "relay"
    points: tuple
    finders: tuple

    def iterate(self, problem, start):
        for point, finder in zip(self.points, self.finders, strict=True):
            yield Iterate(point, by=finder)


def test_the_finders_name_stays_with_each_rows_best_point():
    points = _tour([[[3.0], [1.0]], [[2.0], [5.0]], [[4.0], [5.0]]])
    problem, seen = Problem(IDENTITY, Box(-10.0, 10.0), lambda x, y: y[:, 0]), []
    method = Relay(points=points, finders=("", "second", "third"))
    result = minimize(problem, method, points[0], callback=lambda standing: seen.append(list(standing.found_by)))
    assert result.found_by == ("second", "relay")
    assert seen == [["relay", "relay"], ["second", "relay"], ["second", "relay"]]
    assert _solve_tour([[[3.0]], [[2.0]]]).found_by == ("tour",)


def test_a_point_that_first_meets_the_goal_takes_its_finders_name_along():
    points = _tour([[[1.0, 5.0]], [[7.0, -1.0]], [[0.0, 5.0]]])
    problem = Problem(IDENTITY, Box(-10.0, 10.0), lambda x, y: y[:, 0], lambda x, y: y[:, 1])
    result = minimize(problem, Relay(points=points, finders=("a", "b", "c")), points[0], stop=never)
    assert result.found_by == ("b",)


@dataclass(frozen=True, kw_only=True)
class Dear(Method):
    """Pays one backward pass a step and row, and now and then several, which it announces or does not."""

    name = "dear"
    prices: tuple
    announces: bool = True

    def iterate(self, problem, start):
        for price in self.prices:
            yield Iterate(start.points, ahead=price * len(start.points) if self.announces else 0)
            for _ in range(price):
                problem.at(start.points).gradient()
        yield Iterate(start.points)


@pytest.mark.parametrize(
    ("prices", "announces", "spent", "ending"),
    [
        ((1, 5, 1, 1, 1, 1), True, 10, Status.BUDGET_SPENT),  # a dear step that was announced is no measure for others
        ((1, 5, 1, 5, 1), True, 7, Status.BUDGET_SPENT),  # the second is not begun
        ((1, 5, 1, 1, 1, 1), False, 6, Status.BUDGET_SPENT),  # one that was not makes the driver wary
        ((1, 5, 1), True, 7, Status.FINISHED),
    ],
)
def test_no_step_is_begun_whose_announced_price_is_beyond_the_budget(prices, announces, spent, ending):
    case = scalar_in_box(torch.float32)
    result = minimize(case.problem, Dear(prices=prices, announces=announces), case.start, budget=10)
    assert result.backwards_per_row == spent
    assert set(result.status) == {ending}


def test_the_default_stop_rule_is_never_without_a_goal_and_for_distances():
    points = [[[3.0, -1.0]], [[2.0, -1.0]], [[1.0, 1.0]]]
    center = torch.zeros(1, 2, dtype=torch.float64)
    near = _solve_tour(points, objective=Distance(center, torch.inf), goal=lambda x, y: y[:, 1])
    assert near.x.tolist() == [[2.0, -1.0]]
    assert near.steps == 3
    assert _solve_tour(points, objective=lambda x, y: y[:, 0] * 0).steps == 3


def test_a_stop_rule_of_ones_own_sees_the_standing():
    result = _solve_tour(
        [[[3.0], [9.0]], [[2.0], [8.0]], [[1.0], [1.0]], [[0.0], [0.0]]], stop=lambda s: s.value <= 2.5
    )
    assert result.value.tolist() == [2.0, 1.0]
    assert result.status == (Status.STOPPED, Status.STOPPED)


def test_a_method_need_not_run_the_network_the_driver_does():
    result = _solve_tour([[[3.0]], [[2.0]]])
    assert result.forwards_per_row == 2
    assert result.backwards_per_row == 0


def test_a_method_that_leaves_the_set_is_put_back_at_the_end():
    result = _solve_tour([[[-30.0]]])
    assert result.x.tolist() == [[-10.0]]
    assert result.value.tolist() == [-10.0]
    assert result.violation.tolist() == [0.0]


def test_a_method_without_any_point_still_gives_a_result():
    problem = Problem(IDENTITY, Box(-10.0, 10.0), lambda x, y: y[:, 0])
    result = minimize(problem, Tour(points=()), torch.ones(2, 1))
    assert result.steps == 0
    assert result.value.tolist() == [1.0, 1.0]
    assert result.history.shape == (0, 2)


@dataclass(frozen=True, kw_only=True)
class Clockwatcher(Method):
    """Notes how long it has."""

    name = "clockwatcher"
    noted: list

    def iterate(self, problem, start):
        for _ in range(2):
            self.noted.append(start.seconds_left())
            yield Iterate(start.points)


def test_a_method_is_told_how_long_it_has():
    problem, point = Problem(IDENTITY, Box(-10.0, 10.0), lambda x, y: y[:, 0]), torch.zeros(1, 1)
    noted = []
    minimize(problem, Clockwatcher(noted=noted), point, seconds=60.0)
    assert 0 < noted[1] < noted[0] < 60
    minimize(problem, Clockwatcher(noted=noted), point, budget=5)
    assert noted[2:] == [torch.inf] * 2


def test_maximize_turns_the_sign_at_one_door():
    case = scalar_in_box(torch.float64)
    up = maximize(case.problem, ProjectedGradient(), case.start, budget=20)
    turned = Problem(view(case.module), case.problem.domain, lambda x, y: -y[:, 0])
    down = minimize(turned, ProjectedGradient(), case.start, budget=20)
    assert torch.equal(up.x, down.x)
    assert torch.equal(up.value, -down.value)
    assert (up.history[1:] >= up.history[:-1]).all()
    assert torch.equal(up.value, case.module(up.x)[:, 0])


def test_any_lambda_is_an_objective():
    case = scalar_in_box(torch.float32)
    problem = Problem(case.problem.network, case.problem.domain, lambda x, y: (x**2).sum(1) + y[:, 0].abs())
    result = minimize(problem, Adam(), case.start, budget=20)
    assert torch.equal(result.value, (result.x**2).sum(1) + case.module(result.x)[:, 0].abs())


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        (lambda x, y: y.sum(), r"returned \(\) for 3 rows"),
        (lambda x, y: y, r"returned \(3, 1\) for 3 rows"),
        (lambda x, y: 1.0, "returned float for 3 rows"),
    ],
)
def test_an_objective_that_does_not_give_one_value_a_row_gets_a_sentence(objective, said):
    case = scalar_in_box(torch.float32)
    problem = Problem(case.problem.network, case.problem.domain, objective)
    with pytest.raises(InvalidInput, match=f"{said}; it must return one value a row"):
        minimize(problem, ProjectedGradient(), case.start, budget=2)


def test_an_objective_that_ignores_the_network_has_a_zero_gradient_where_it_is_flat():
    case = scalar_in_box(torch.float32)
    problem = Problem(case.problem.network, case.problem.domain, lambda x, y: torch.ones(len(x)))
    result = minimize(problem, GradientDescent(), case.start, budget=5)
    assert torch.equal(result.x, case.start)


def test_a_success_that_a_fresh_pass_does_not_reproduce_is_reported():
    class Drifting(nn.Module):
        """Says the second class wins, but only for its first calls."""

        calls = 0

        def forward(self, x):
            self.calls += 1
            return torch.stack([x[:, 0], x[:, 0] + (1.0 if self.calls < 4 else -1.0)], dim=1)

    labels = torch.tensor([0, 0])
    problem = Problem(view(Drifting().eval()), Box(0.0, 1.0), Margin(labels), goal=Margin(labels))
    result = minimize(problem, ProjectedGradient(), torch.full((2, 1), 0.5), budget=8, stop=never)
    assert result.status == (Status.NOT_REPRODUCED, Status.NOT_REPRODUCED)
    assert not result.goal_met.any()


def test_a_result_can_be_required_and_ranked():
    case = l2_vectors(torch.float32, radius=6.0)
    result = minimize(case.problem, ProjectedGradient(), case.start, budget=50)
    assert result.require() is result
    assert result.value[result.best()] == result.value.min()
    small = l2_vectors(torch.float32, radius=1e-4)
    with pytest.raises(GatewiseError, match=r"Row 0 does not meet the goal inside the domain\. The budget"):
        minimize(small.problem, ProjectedGradient(), small.start, budget=5).require()


def test_counts_are_this_runs_own_on_a_view_that_is_used_again():
    case = l2_vectors(torch.float32)
    first = minimize(case.problem, ProjectedGradient(), case.start, budget=6, stop=never)
    second = minimize(case.problem, ProjectedGradient(), case.start, budget=6, stop=never)
    assert first.forwards_per_row == second.forwards_per_row == 7
    assert first.backwards_per_row == second.backwards_per_row == 6
    assert torch.equal(first.x, second.x)


def test_the_final_check_is_not_counted():
    case = l2_vectors(torch.float32)
    minimize(case.problem, ProjectedGradient(), case.start, budget=6, stop=never)
    assert case.problem.network.meter.forwards == 3 * 7


def test_the_start_given_is_not_written_to():
    case = linf_images(torch.float32)
    start = case.start.clone().requires_grad_()
    minimize(case.problem, ProjectedGradient(), start, budget=6)
    assert torch.equal(start, case.start)
    assert start.grad is None


def test_without_a_terminal_nothing_is_printed(capfd):
    case = l2_vectors(torch.float32)
    minimize(case.problem, ProjectedGradient(), case.start, budget=6)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("rows", [1, 3, 5])
def test_a_network_of_fixed_batch_size_is_searched_like_any_other(rows):
    free = l2_vectors(torch.float64, rows=range(rows))

    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = copy.deepcopy(free.module)
            self.eval()

        def forward(self, x):
            assert len(x) == 4
            return self.inner(x)

    network = NetworkView(Fixed(), rows_per_run=4)
    problem = Problem(network, free.problem.domain, free.problem.objective, free.problem.goal)
    found = minimize(problem, ProjectedGradient(), free.start, budget=8, stop=never)
    expected = minimize(free.problem, ProjectedGradient(), free.start, budget=8, stop=never)
    torch.testing.assert_close(found.x, expected.x)
    assert found.forwards_per_row == expected.forwards_per_row
    assert found.backwards_per_row == expected.backwards_per_row


def test_the_stop_rules_are_functions_of_the_standing():
    standing = type("S", (), {"goal_met": torch.tensor([True, False])})()
    assert goal_met(standing).tolist() == [True, False]
    assert never(standing).tolist() == [False, False]


def test_a_linear_objective_over_a_ball_is_a_sound_problem():
    center = torch.zeros(2, 3, dtype=torch.float64)
    problem = Problem(IDENTITY, L2Ball(center, 1.0), Linear(torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)))
    result = minimize(problem, ProjectedGradient(), center, budget=10)
    torch.testing.assert_close(result.value, torch.full((2,), -5.0, dtype=torch.float64))
