"""A network with one hidden layer of a few neurons, enumerated region by region: each region is a linear program."""

import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from gatewise.combinators import Restarts
from gatewise.domains import Box
from gatewise.methods import ProjectedGradient
from gatewise.network import view
from gatewise.objectives import Linear, Margin
from gatewise.problem import Problem
from gatewise.solve import minimize, never

from .attackers import NEED_MARGIN, attackers

NEURONS, SEEDS = 6, range(3)


def _network(seed, outputs):
    torch.manual_seed(seed)
    module = nn.Sequential(nn.Linear(2, NEURONS), nn.ReLU(), nn.Linear(NEURONS, outputs)).double().eval()
    with torch.no_grad():
        module[0].weight.mul_(2)
    return module.requires_grad_(False)


def _least_over_regions(module, c):
    """The least of `c @ module(x)` over the box [-1, 1]^2: the best of 2^6 linear programs."""
    W, b, V, d = (t.numpy() for t in (module[0].weight, module[0].bias, module[2].weight, module[2].bias))
    best, regions = np.inf, 0
    for pattern in itertools.product([0.0, 1.0], repeat=NEURONS):
        on = np.array(pattern)
        slope, offset = (c @ V * on) @ W, (c @ V * on) @ b + c @ d
        sign = 1 - 2 * on  # on: -(W x + b) <= 0; off: W x + b <= 0
        program = linprog(slope, A_ub=sign[:, None] * W, b_ub=-sign * b, bounds=[(-1, 1)] * 2)
        if program.status == 0:
            best, regions = min(best, program.fun + offset), regions + 1
    assert regions > NEURONS, "hyperplanes that cut the box make more regions than neurons"
    return best


@pytest.fixture(scope="module")
def scalar_minima():
    return [_least_over_regions(_network(seed, 1), np.ones(1)) for seed in SEEDS]


@pytest.fixture(scope="module")
def margin_minima():
    """The least margin of class 0 against two rivals: the better of two enumerations."""
    rivals = np.array([[1.0, -1.0, 0.0], [1.0, 0.0, -1.0]])
    return [min(_least_over_regions(_network(seed, 3), c) for c in rivals) for seed in SEEDS]


def _problems(seed):
    scalar = Problem(view(_network(seed, 1)), Box(-1.0, 1.0), Linear(torch.ones(1, dtype=torch.float64)))
    labels = torch.zeros(1, dtype=torch.int64)
    return scalar, Problem(view(_network(seed, 3)), Box(-1.0, 1.0), Margin(labels), goal=Margin(labels))


START = torch.zeros(1, 2, dtype=torch.float64)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("method", attackers(1.0))
def test_no_method_beats_the_global_optimum(method, seed, scalar_minima, margin_minima):
    scalar, margin = _problems(seed)
    if method not in ("multi-targeted", *NEED_MARGIN):
        result = minimize(scalar, attackers(1.0)[method], START, budget=60)
        assert result.value.item() >= scalar_minima[seed] - 1e-9
    result = minimize(margin, attackers(1.0)[method], START, budget=60, stop=never)
    assert result.value.item() >= margin_minima[seed] - 1e-9
    assert not (result.goal_met.item() and margin_minima[seed] > 1e-9), "success where none exists"


@pytest.mark.parametrize("seed", SEEDS)
def test_restarted_projected_gradient_reaches_the_global_optimum(seed, scalar_minima, margin_minima):
    method = Restarts(member=ProjectedGradient(), times=12)
    for problem, least in zip(_problems(seed), (scalar_minima[seed], margin_minima[seed]), strict=True):
        result = minimize(problem, method, START, budget=600, stop=never)
        assert result.value.item() == pytest.approx(least, abs=1e-4)
