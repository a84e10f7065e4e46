"""Random networks: drawn as the paper's, and solved as well as the authors' released code solves them."""

import numpy as np
import pytest
import torch

from gatewise.domains import Box
from gatewise.methods import ActivationDescentReference, GradientDescent
from gatewise.network import view
from gatewise.objectives import Linear
from gatewise.problem import Problem
from gatewise.solve import maximize

from .random_networks import LAYERS, RandomNetworks, drawn, published


def _maximum(method, seeds, iterations, model="A", seed=0):
    network = RandomNetworks(model, seeds)
    problem = Problem(view(network), Box(-1.0, 1.0), Linear(torch.ones(1)))
    start = torch.zeros(len(seeds), LAYERS[model][0][0])
    return maximize(problem, method, start, budget=iterations * method.backwards_per_step, seed=seed).value


def test_the_networks_are_drawn_by_the_legacy_generator():
    np.random.seed(7)
    p, w = np.random.uniform(0, 1, (10, 64)), np.random.uniform(0, 1, (10, 64))
    w[p > 0.5] *= -1
    assert np.array_equal(drawn("A", 7)[0][0], w)


def test_networks_in_one_batch_are_the_networks_alone():
    together, x = RandomNetworks("A", range(3), torch.float64), torch.rand(6, 10, dtype=torch.float64)
    for row in range(6):
        alone = x[row].numpy()
        for layer, (weight, bias) in enumerate(drawn("A", row % 3)):
            alone = (alone if layer == 0 else alone.clip(min=0)) @ weight + bias
        assert together(x)[row].item() == pytest.approx(alone.item(), rel=1e-12)


def test_gradient_descent_reaches_what_the_authors_gradient_descent_reached():
    """A check of the networks: normalised steps of 0.5 from 0 leave no choice."""
    seeds = range(6)
    found, table = _maximum(GradientDescent(step_size=0.5), seeds, 600), torch.tensor(published("A", "gd_best", seeds))
    torch.testing.assert_close(found, table, rtol=0.02, atol=0)


def test_a_short_run_of_the_reference_beats_gradient_descent_on_average():
    seeds = range(8)
    found = _maximum(ActivationDescentReference.preset("random-a"), seeds, 600)
    assert found.mean() > _maximum(GradientDescent(step_size=0.5), seeds, 600).mean()


@pytest.mark.slow
def test_the_reference_reaches_the_published_mean_on_networks_a():
    seeds = range(20)
    found = _maximum(ActivationDescentReference.preset("random-a"), seeds, 3000)
    table = torch.tensor(published("A", "adr_gd", seeds))
    assert found.mean().item() == pytest.approx(table.mean().item(), rel=0.02)
