"""Local exact search: with every gate free it is exact; otherwise it never gets worse."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from gatewise.domains import Box, Intersection, L2Ball, LinfBall
from gatewise.errors import UnsupportedProblem
from gatewise.methods import LocalMilp, ProjectedGradient
from gatewise.network import view
from gatewise.objectives import Linear, Margin
from gatewise.problem import Problem
from gatewise.result import Status
from gatewise.solve import minimize, never


def _network(*sizes: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    parts = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*parts[:-1]).eval().requires_grad_(False)


def test_with_every_gate_free_and_the_whole_set_as_region_it_ends_at_the_global_minimum():
    network = _network(3, 12, 8, 1)
    problem = Problem(view(network), Box(-1.0, 1.0), Linear(torch.ones(1)))
    start = torch.zeros(2, 3)
    start[1] = 0.7
    result = minimize(problem, LocalMilp(gates=20, most_gates=20, radius=2.0), start, progress=False)
    axis = torch.linspace(-1, 1, 101)
    grid = torch.cartesian_prod(axis, axis, axis)
    with torch.no_grad():
        least = float(network(grid).min())
    assert (result.value <= least + 1e-5).all()
    assert result.value[0] == pytest.approx(float(result.value[1]), abs=1e-5)
    assert not result.violation.any()


def test_it_improves_on_where_sign_steps_end_and_counts_a_pass_for_each_free_gate():
    network = _network(12, 40, 40, 4, seed=1)
    centre = torch.rand(3, 12)
    labels = network(centre).argmax(1)
    domain = Intersection(LinfBall(centre, 0.3), Box(0.0, 1.0))
    problem = Problem(view(network), domain, Margin(labels))
    first = minimize(problem, ProjectedGradient(), centre, budget=30, progress=False)
    method = LocalMilp(gates=30, most_gates=30, radius=0.5, steps=2)
    then = minimize(problem, method, first.x, stop=never, progress=False)
    assert (then.value <= first.value).all()
    assert (then.value < first.value - 1e-4).any()
    assert then.backwards_per_row <= 2 * (method.most_gates + 1)
    assert not then.violation.any()


def test_rows_that_met_the_goal_are_left_alone():
    network = _network(4, 8, 3)
    points = torch.rand(2, 4)
    labels = network(points).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    problem = Problem(view(network), LinfBall(points, 1e-3), Margin(labels), goal=Margin(labels))
    result = minimize(problem, LocalMilp(gates=8, steps=1), points, stop=never, progress=False)
    assert torch.equal(result.x[0], points[0])


def test_a_network_without_gates_is_a_linear_program():
    network = nn.Linear(4, 1).eval().requires_grad_(False)
    start = torch.zeros(2, 4)
    problem = Problem(view(network), Box(-1.0, 1.0), Linear(torch.ones(1)))
    result = minimize(problem, LocalMilp(radius=1.0), start, budget=1, progress=False)
    least = network.bias[0] - network.weight.abs().sum()
    torch.testing.assert_close(result.value, least.expand(2), rtol=1e-5, atol=1e-5)
    assert result.backwards_per_row == 1


@pytest.mark.parametrize("budget", [2, 9, 40])
def test_gates_at_equal_distance_are_no_more_than_the_budget_pays_for(budget):
    network = nn.Sequential(nn.Linear(3, 30), nn.ReLU(), nn.Linear(30, 1)).eval().requires_grad_(False)
    with torch.no_grad():
        network[0].weight[:] = torch.tensor([1.0, 0.0, 0.0])
        network[0].bias[:] = -0.1
    problem = Problem(view(network), Box(-1.0, 1.0), Linear(torch.ones(1)))
    result = minimize(problem, LocalMilp(radius=1.0), torch.zeros(1, 3), budget=budget, progress=False)
    assert 1 < result.backwards_per_row <= budget


def test_a_batch_of_as_many_rows_as_a_program_has_gradients_says_of_each_row_whether_it_moved():
    network = _network(4, 2, 3)
    with torch.no_grad():
        network[0].bias[:] = 0.0
    points = torch.rand(3, 4)
    weight = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    problem = Problem(view(network), Box(0.0, 1.0), lambda x, y: (weight * y).sum(1))
    result = minimize(problem, LocalMilp(gates=2, most_gates=2), points, budget=6, progress=False)
    assert [status is Status.ZERO_GRADIENT for status in result.status] == [False, True, False]


def test_a_set_without_bounds_is_refused_by_a_sentence():
    network = _network(4, 8, 3)
    points = torch.rand(2, 4)
    problem = Problem(view(network), L2Ball(points, 0.1), Margin(network(points).argmax(1)))
    with pytest.raises(UnsupportedProblem, match="does not hold each entry between two numbers"):
        minimize(problem, LocalMilp(), points, progress=False)
