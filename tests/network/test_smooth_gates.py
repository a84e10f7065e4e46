"""Smoothed, softplus and split gates."""

import math

import pytest
import torch
import torch.nn.functional as F

from gatewise.network import Smoothed, Softplus, Split, view

from .networks import Lambda, matrices, mlp, pooled

RELU, LEAKY = Lambda(F.relu), Lambda(lambda x: F.leaky_relu(x, 0.2))


@pytest.mark.parametrize("gate", [RELU, LEAKY], ids=["relu", "leaky"])
def test_a_smoothed_gate_is_the_expectation_under_normal_noise(gate):
    draws = 400_000
    deviation = torch.linspace(0.2, 2, 9, dtype=torch.float64)[None]
    z = deviation * torch.linspace(-2.5, 2.5, 9, dtype=torch.float64)
    samples = gate(z + deviation * torch.randn(draws, 9, dtype=torch.float64))
    smoothed = view(gate).trace(z, Smoothed([deviation])).output
    error = (samples.mean(0) - smoothed[0]).abs() / (samples.std(0) / math.sqrt(draws))
    assert error.max() < 5, "more than five standard errors from the Monte-Carlo mean"


def test_a_smoothed_gate_without_noise_is_the_gate_with_a_finite_gradient():
    z = torch.tensor([[-1.0, 0.5, 2.0]], dtype=torch.float64, requires_grad=True)
    deviation = torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64)
    out = view(RELU).trace(z, Smoothed([deviation])).output
    assert out[0, :2].tolist() == [0, 0.5]
    (gradient,) = torch.autograd.grad(out.sum(), z)
    assert gradient[0, :2].tolist() == [0, 1]
    assert 0 < gradient[0, 2] < 1


def test_smoothing_raises_a_convex_gate_and_fades_with_the_noise():
    z = torch.linspace(-3, 3, 50, dtype=torch.float64)[None]
    wide, narrow = (view(RELU).trace(z, Smoothed([torch.full_like(z, s)])).output for s in (1.0, 1e-3))
    assert (wide >= z.relu()).all()
    torch.testing.assert_close(narrow, z.relu(), rtol=0, atol=1e-3)


POOLS = {
    "2d": Lambda(lambda x: F.max_pool2d(x, 2)),
    "2d, overlapping": Lambda(lambda x: F.max_pool2d(x, 3, stride=2, padding=1)),
    "1d": Lambda(lambda x: F.max_pool1d(x.flatten(2), (3,), stride=2)),
    "2d, oblong and dilated": Lambda(lambda x: F.max_pool2d(x, (2, 3), stride=(1, 2), dilation=(2, 1))),
}


@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_a_smoothed_max_pool_without_noise_is_the_maximum_and_with_noise_nearly_the_expectation(pool):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(1, 2, 6, 7, dtype=torch.float64, generator=generator)
    shape = view(pool).trace(z).preactivations[0].shape
    still = view(pool).trace(z, Smoothed([torch.zeros(shape, dtype=torch.float64)])).output
    torch.testing.assert_close(still, pool(z), rtol=0, atol=1e-12)
    deviation = torch.full(shape, 0.5, dtype=torch.float64)
    noise = 0.5 * torch.randn(20_000, 2, 6, 7, dtype=torch.float64, generator=generator)
    sampled = pool(z + noise).mean(0)
    smoothed = view(pool).trace(z, Smoothed([deviation])).output[0]
    assert (smoothed - sampled).abs().max() < 0.05, "exact for two entries; Clark's approximation for more"
    assert (pool(z)[0] - sampled).abs().max() > 0.2


@pytest.mark.parametrize("deviation", [0.0, 1e-9], ids=["none", "narrow"])
@pytest.mark.parametrize("pool", POOLS.values(), ids=POOLS)
def test_a_barely_smoothed_max_pool_has_the_gradient_of_the_maximum(pool, deviation):
    z = torch.randn(2, 2, 6, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    there = view(pool).trace(z).preactivations[0]
    smoothed = view(pool).trace(z, Smoothed([torch.full_like(there, deviation)])).output
    gradients = [torch.autograd.grad(out.square().sum(), z)[0] for out in (smoothed, pool(z))]
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-6, msg="padding, all of one value, makes no NaN of it")


def test_smoothing_two_entries_is_exact_and_has_the_gradient_of_the_expectation():
    z = torch.tensor([[[0.3, -0.1]]], dtype=torch.float64, requires_grad=True)
    rule = Smoothed([torch.tensor([[[0.4, 0.7]]], dtype=torch.float64)])
    spread, gap = math.hypot(0.4, 0.7), 0.4
    normal = torch.distributions.Normal(0.0, 1.0)
    first = normal.cdf(torch.tensor(gap / spread, dtype=torch.float64))
    density = normal.log_prob(torch.tensor(gap / spread, dtype=torch.float64)).exp()
    out = view(Lambda(lambda x: F.max_pool1d(x, 2))).trace(z, rule).output
    torch.testing.assert_close(out.flatten()[0], 0.3 * first - 0.1 * (1 - first) + spread * density)
    (gradient,) = torch.autograd.grad(out.sum(), z)
    torch.testing.assert_close(gradient.flatten(), torch.stack([first, 1 - first]))


def test_a_pool_without_deviation_or_listed_windows_keeps_its_maximum():
    network, x = pooled(), torch.randn(2, 1, 6, 6, dtype=torch.float64)
    zeros = [torch.zeros(1, dtype=torch.float64), None, torch.zeros(1, dtype=torch.float64)]
    torch.testing.assert_close(view(network).trace(x, Smoothed(zeros)).output, network(x), rtol=0, atol=1e-12)
    adaptive = Lambda(lambda x: F.adaptive_max_pool2d(x, 2))
    wide = Smoothed([torch.ones(2, 1, 6, 6, dtype=torch.float64)])
    torch.testing.assert_close(view(adaptive).trace(x, wide).output, adaptive(x), rtol=0, atol=0)


@pytest.mark.parametrize("temperature", [0.01, 0.5, 3.0])
def test_softplus_is_its_formula_and_above_the_gate_by_at_most_t_log_2(temperature):
    z = torch.linspace(-4, 4, 81, dtype=torch.float64)[None]
    out = view(RELU).trace(z, Softplus(temperature)).output
    expected = temperature * torch.logaddexp(z / temperature, torch.zeros_like(z))
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-8)
    assert (out - z.relu()).min() >= -1e-12
    assert (out - z.relu()).max() <= temperature * math.log(2) + 1e-12
    leaky = view(LEAKY).trace(z, Softplus(temperature)).output
    torch.testing.assert_close(leaky, 0.2 * z + 0.8 * expected, rtol=0, atol=1e-8)


def test_split_cuts_the_network_into_separate_affine_blocks():
    network, x = mlp(4, 6, 5, 3), torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    weights, biases = matrices(network)
    given = [torch.randn(2, size, dtype=torch.float64, requires_grad=True) for size in (6, 5)]
    trace = view(network).trace(x, Split(given))
    blocks = [x, *given]
    heights = [*trace.preactivations, trace.output]
    for h, block, weight, bias in zip(heights, blocks, weights, biases, strict=True):
        torch.testing.assert_close(h, block @ weight.T + bias, rtol=0, atol=1e-12)
        depends = torch.autograd.grad(h.sum(), blocks, retain_graph=True, allow_unused=True)
        assert [gradient is not None for gradient in depends] == [other is block for other in blocks]


def test_split_replaces_pools_too_and_leaves_what_it_is_not_given():
    network, x = pooled(), torch.randn(2, 1, 6, 6, dtype=torch.float64)
    own = view(network).trace(x)
    pooled_output = F.max_pool2d(F.leaky_relu(own.preactivations[0], 0.2), 2)
    split = view(network).trace(x, Split([None, pooled_output + 1, None]))
    torch.testing.assert_close(split.output, network[3:](pooled_output + 1), rtol=0, atol=1e-12)
