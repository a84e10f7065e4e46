"""Region walking: exact inside a region, across its faces where that gains, and never worse."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from gatewise.domains import Box, Intersection, L2Ball, LinfBall
from gatewise.errors import UnsupportedProblem
from gatewise.methods import RegionWalk
from gatewise.network import view
from gatewise.objectives import Linear, Margin
from gatewise.problem import Problem
from gatewise.solve import minimize, never


def _network(*sizes: int, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    parts = [part for a, b in itertools.pairwise(sizes) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*parts[:-1]).double().eval().requires_grad_(False)


def _visited(problem: Problem, method: RegionWalk, start: torch.Tensor) -> list[torch.Tensor]:
    seen: list[torch.Tensor] = []
    minimize(problem, method, start, stop=never, progress=False, callback=lambda standing: seen.append(standing.value))
    return seen


def test_its_first_program_is_the_best_point_of_the_region():
    network = _network(3, 10, 6, 1)
    lens, start = view(network), torch.tensor([[0.2, -0.1, 0.3], [-0.5, 0.4, 0.1]], dtype=torch.float64)
    problem = Problem(lens, Box(-1.0, 1.0), Linear(torch.ones(1, dtype=torch.float64)))
    region = lens.region(start)
    seen = _visited(problem, RegionWalk(faces=16, radius=2.0, steps=1), start)
    for row in range(2):
        normals, matrix = region.normals()[row].numpy(), region.matrix()[row, 0].numpy()
        slack = region.slacks(torch.zeros_like(start))[row].numpy()
        found = linprog(matrix, -normals, slack, bounds=[(-1, 1)] * 3, method="highs")
        least = found.fun + float(region.offset[row])
        assert float(seen[1][row]) == pytest.approx(least, abs=1e-7)  # 0 is the start, 1 the program's point
        assert float(seen[-1][row]) <= least + 1e-12


def test_it_comes_close_to_the_global_minimum_of_a_convex_network():
    torch.manual_seed(0)
    first, last = nn.Linear(3, 15).double().requires_grad_(False), nn.Linear(15, 1).double().requires_grad_(False)
    last.weight.abs_()
    network = nn.Sequential(first, nn.ReLU(), last).eval()
    problem = Problem(view(network), Box(-1.0, 1.0), Linear(torch.ones(1, dtype=torch.float64)))
    start = torch.tensor([[0.9, -0.9, 0.8], [-0.7, 0.2, -1.0]], dtype=torch.float64)
    result = minimize(problem, RegionWalk(faces=15, radius=2.0, steps=40), start, progress=False)
    # The least of t over x, s, t with s >= 0, s >= W x + b: one linear program.
    W, b = first.weight.numpy(), first.bias.numpy()
    cost = np.concatenate([np.zeros(3), last.weight[0].numpy()])
    bounds = [(-1, 1)] * 3 + [(0, None)] * 15
    least = linprog(cost, np.hstack([W, -np.eye(15)]), -b, bounds=bounds, method="highs").fun + last.bias.item()
    values = result.value.numpy()
    assert (values >= least - 1e-9).all()
    np.testing.assert_allclose(values, least, rtol=2e-3)  # it may end where no single group of faces gains


def test_it_crosses_faces_gains_and_counts_a_pass_for_each_face():
    network = _network(12, 40, 40, 4, seed=1)
    centre = torch.rand(3, 12, dtype=torch.float64)
    labels = network(centre).argmax(1)
    domain = Intersection(LinfBall(centre, 0.3), Box(0.0, 1.0))
    problem = Problem(view(network), domain, Margin(labels))
    one = minimize(problem, RegionWalk(faces=30, steps=1), centre, stop=never, progress=False)
    several = minimize(problem, RegionWalk(faces=30, steps=8), centre, stop=never, progress=False)
    assert (several.value < one.value - 1e-4).all()
    assert one.backwards_per_row <= 31
    assert several.backwards_per_row <= 8 * 31
    assert not several.violation.any()
    before, after = (torch.cat(problem.network.pattern(x), 1) for x in (centre, several.x))
    assert (before != after).any(1).all()


def test_rows_that_met_the_goal_are_left_alone():
    network = _network(4, 8, 3)
    points = torch.rand(2, 4, dtype=torch.float64)
    labels = network(points).argmax(1)
    labels[0] = (labels[0] + 1) % 3
    problem = Problem(view(network), LinfBall(points, 1e-3), Margin(labels), goal=Margin(labels))
    result = minimize(problem, RegionWalk(faces=8, steps=1), points, stop=never, progress=False)
    assert torch.equal(result.x[0], points[0])


def test_a_set_without_edges_is_refused():
    network, x = _network(4, 8, 3), torch.zeros(1, 4, dtype=torch.float64)
    problem = Problem(view(network), L2Ball(x, 1.0), Linear(torch.ones(3, dtype=torch.float64)))
    with pytest.raises(UnsupportedProblem, match="Box"):
        minimize(problem, RegionWalk(), x, progress=False)
