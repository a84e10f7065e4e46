"""Gauss-Newton through smoothed gates: exact where the problem is linear, its model elsewhere, what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gatewise.domains import Box, Latents
from gatewise.errors import InvalidInput, UnsupportedNetwork
from gatewise.methods import Adam, GaussNewton
from gatewise.network import view
from gatewise.objectives import Penalised, SquaredError, ToPixels
from gatewise.problem import Problem
from gatewise.solve import minimize

DTYPE = torch.float64


def _generator(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    parts = [nn.Linear(8, 40), nn.ReLU(), nn.Linear(40, 60), nn.LeakyReLU(0.2), nn.Linear(60, 50)]
    return nn.Sequential(*parts).to(DTYPE).eval()


def test_a_linear_least_squares_problem_is_solved_in_one_step():
    module = nn.Sequential(nn.Linear(5, 9)).to(DTYPE).eval()
    target, start = torch.randn(3, 9, dtype=DTYPE), torch.randn(3, 5, dtype=DTYPE)
    problem = Problem(view(module), Latents(), Penalised(SquaredError(target), torch.zeros(5, dtype=DTYPE), 0.1))
    result = minimize(problem, GaussNewton(products=5, step_size=100.0, steps=1), start, progress=False)
    matrix, offset = module[0].weight.detach(), module[0].bias.detach()
    normal = 2 / 9 * matrix.T @ matrix + 0.1 * torch.eye(5, dtype=DTYPE)
    expected = torch.linalg.solve(normal, (2 / 9 * (target - offset) @ matrix).T).T
    torch.testing.assert_close(result.x, expected)


def test_what_a_generator_made_is_found_again():
    module = _generator()
    made = module(torch.randn(6, 8, dtype=DTYPE)).detach()
    ends = ToPixels((50,), "tanh", -1.0, 1.0)
    problem = Problem(view(module), Latents(5.0), SquaredError(ends(made), output_map=ends))
    start = torch.randn(6, 8, dtype=DTYPE)
    ours = minimize(problem, GaussNewton(), start, budget=440, progress=False)
    theirs = minimize(problem, Adam(), start, budget=440, progress=False)
    assert (ours.value < 1e-12).sum() >= 5
    assert ours.value.median() < theirs.value.median()


def test_the_model_is_the_smoothed_networks_own():
    """Its products are J^T (curvature) J with the Jacobian of the smoothed network, by autograd's own Jacobian."""
    from gatewise.methods.gauss_newton import _product
    from gatewise.network.rules import Smoothed

    module, x = _generator(), torch.randn(2, 8, dtype=DTYPE)
    network, target = view(module), torch.randn(2, 50, dtype=DTYPE)
    problem = Problem(network, Latents(), SquaredError(target))
    gates = [torch.full((1, 40), 0.7, dtype=DTYPE), torch.full((1, 60), 1.3, dtype=DTYPE)]
    p, leaf = torch.randn(2, 8, dtype=DTYPE), x.clone().requires_grad_()
    for rule in (None, Smoothed(gates)):
        with torch.enable_grad():
            run = network.trace(leaf, rule)
        product = _product(problem, leaf, run, rule)(p)
        for row in range(2):
            jacobian = torch.autograd.functional.jacobian(
                lambda z, rule=rule: network.trace(z[None], rule).output[0], x[row]
            )
            torch.testing.assert_close(product[row], 2 / 50 * jacobian.T @ (jacobian @ p[row]))


def test_no_step_leaves_the_trust_region():
    module = _generator()
    problem = Problem(view(module), Latents(), SquaredError(torch.randn(4, 50, dtype=DTYPE)))
    start = torch.randn(4, 8, dtype=DTYPE)
    result = minimize(problem, GaussNewton(step_size=0.01, steps=1), start, progress=False)
    lengths = (result.x - start).norm(dim=1)
    assert (lengths <= 0.01 * 8**0.5 * (1 + 1e-9)).all()
    assert (lengths > 0).any()


def test_a_box_with_an_end_measures_widths_and_steps():
    module = _generator()
    start = torch.rand(3, 8, dtype=DTYPE)
    problem = Problem(view(module), Box(0.0, 1.0), SquaredError(torch.randn(3, 50, dtype=DTYPE)))
    result = minimize(problem, GaussNewton(), start, budget=110, progress=False)
    assert (result.violation == 0).all()
    assert (result.value < problem.measure(start, module(start))).all()


def test_a_smooth_function_inside_is_refused_by_name():
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3)).to(DTYPE).eval()
    problem = Problem(view(module), Latents(), SquaredError(torch.zeros(3, dtype=DTYPE)))
    with pytest.raises(UnsupportedNetwork, match="tanh"):
        minimize(problem, GaussNewton(), torch.randn(2, 4, dtype=DTYPE), budget=20, progress=False)


@pytest.mark.parametrize("settings", [{"settle": 1.0}, {"fresh": 1.5}, {"products": 0}, {"step_size": 0.0}])
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(InvalidInput):
        GaussNewton(**settings)
