"""||P_j||: the exact form against products of matrices and Jacobians, the estimate against the exact form."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd.functional import jacobian

from gatewise.network import Fixed, Surrogate, exact_norms, squared_norms, view
from gatewise.network.consistency import per_gate
from gatewise.network.hyperplanes import RunningNorms, reachable
from gatewise.streams import RowStreams

from .networks import Everything, matrices, mlp, pooled

SEEDS = st.integers(0, 10**6)


def _rows(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _row_products(network, gates):
    """The norms of the rows of W_i D_{i-1} … D_1 W_1 for each row's own D, up to the output."""
    weights, _ = matrices(network)
    product = weights[0].expand(len(gates[0]), -1, -1)
    norms = [product.norm(dim=2)]
    for weight, gate in zip(weights[1:], gates, strict=True):
        product = weight @ (gate[:, :, None] * product)
        norms.append(product.norm(dim=2))
    return norms


@given(seed=SEEDS)
def test_exact_norms_are_those_of_products_of_weight_matrices(seed):
    network, x = mlp(4, 6, 5, 3, seed=seed), _rows(3, 4, seed=seed)
    lens = view(network)
    base = lens.trace(x)
    norms = exact_norms(lens, base, Fixed(base.pattern()))
    for found, expected in zip(norms, _row_products(network, [p.double() for p in base.pattern()]), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


@given(seed=SEEDS, slope=st.floats(5, 50))
def test_under_the_surrogate_the_gates_in_the_product_are_its_sigmoids(seed, slope):
    network, x = mlp(4, 6, 5, 3, seed=seed), _rows(3, 4, seed=seed)
    lens = view(network)
    eta = [torch.rand(3, size, dtype=torch.float64) for size in (6, 5)]
    rule = Surrogate(eta, slope)
    norms = exact_norms(lens, lens.trace(x, rule), rule)
    for found, expected in zip(
        norms, _row_products(network, [torch.sigmoid(slope * (e - 0.5)) for e in eta]), strict=True
    ):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def _held_everything():
    lens, x = view(Everything().double().eval()), _rows(2, 2, 6, 6)
    base = lens.trace(x)
    return lens, base, Fixed(base.pattern())


def _held_pools():
    """A surrogate over a network with a max-pool whose winners are held at the current point."""
    lens, x = view(pooled()), _rows(2, 1, 6, 6)
    true = lens.trace(x)
    eta = per_gate(true, true.switches, [torch.rand_like(true.preactivations[i]) for i in true.switches])
    base = lens.trace(x, Surrogate(eta, 10.0))
    return lens, base, Surrogate(eta, 10.0, rest=Fixed(base.pattern()))


@pytest.mark.parametrize("case", [_held_everything, _held_pools], ids=["everything", "held max-pools"])
def test_exact_norms_of_convolutions_are_those_of_the_jacobian_with_gates_held(case):
    lens, base, rule = case()

    def heights(point, row):
        run = lens.trace(point[None], rule.each(lambda held: held[row : row + 1]))
        return *run.preactivations, run.output

    for row in range(len(base.input)):
        jacobians = jacobian(lambda point, row=row: heights(point, row), base.input[row])
        for found, slopes in zip(exact_norms(lens, base, rule), jacobians, strict=True):
            expected = slopes[0].flatten(-3).norm(dim=-1)
            torch.testing.assert_close(found[row], expected, rtol=0, atol=1e-10)


def test_with_its_winners_held_a_max_pool_network_is_affine_and_its_norms_do_not_see_other_entries():
    lens, base, rule = _held_pools()
    point = base.input[:1]
    one = rule.each(lambda held: held[:1])

    def output(z):
        return lens.trace(z[None], one).output[0]

    slopes = jacobian(output, point[0])
    far = point + 100 * _rows(1, 1, 6, 6, seed=5)
    predicted = output(point[0]) + torch.einsum("kcij,cij->k", slopes, (far - point)[0])
    torch.testing.assert_close(output(far[0]), predicted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("case", [_held_everything, _held_pools], ids=["everything", "held max-pools"])
def test_one_extra_forward_estimates_the_squared_norms_without_bias(case):
    lens, base, rule = case()
    draws = 2000
    generator = torch.Generator().manual_seed(3)
    samples = [
        squared_norms(lens, base, rule, torch.randn(base.input.shape, generator=generator, dtype=torch.float64))
        for _ in range(draws)
    ]
    for exact, *draws_of_gate in zip(exact_norms(lens, base, rule), *samples, strict=True):
        mean = torch.stack(draws_of_gate).mean(0)
        # (P_j z)^2 / ||P_j||^2 is chi-squared with one degree of freedom: variance 2.
        error = (mean / exact.square().clamp_min(1e-30) - 1)[exact > 0] / math.sqrt(2 / draws)
        assert error.abs().max() < 6, "more than six standard errors away"
        assert error.mean().abs() < 1
        assert (mean[exact == 0] == 0).all()


def test_the_estimate_costs_one_forward_and_the_exact_form_one_per_coordinate():
    lens, base, rule = _held_pools()
    before = lens.meter.forwards
    squared_norms(lens, base, rule, torch.randn_like(base.input))
    assert lens.meter.forwards - before == 2
    exact_norms(lens, base, rule)
    assert lens.meter.forwards - before == 2 + 2 * 36
    assert lens.meter.backwards == 0


def test_norms_do_not_depend_on_the_block_that_they_are_computed_in(monkeypatch):
    lens, base, rule = _held_pools()
    whole = exact_norms(lens, base, rule)
    monkeypatch.setattr("gatewise.network.hyperplanes._BLOCK", 1)
    for found, expected in zip(exact_norms(lens, base, rule), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_running_norms_start_from_several_samples_and_are_refreshed_every_few_calls():
    lens, base, rule = _held_pools()
    running = RunningNorms(lens, RowStreams(0, range(2)), refresh=3, fresh=0.25, first=5)
    streams = RowStreams(0, range(2))
    samples = [squared_norms(lens, base, rule, streams.normal(base.input)) for _ in range(6)]
    first = [torch.stack(by_gate).mean(0) for by_gate in zip(*samples[:5], strict=True)]
    before = lens.meter.forwards
    assert running.at(torch.tensor([0, 5])) == 1
    calls = []
    for _ in range(4):
        running.look(base, lambda: rule)
        calls.append(running.norms())
    assert lens.meter.forwards - before == 2 * (5 + 1)
    for call in calls[:3]:
        for found, expected in zip(call, first, strict=True):
            torch.testing.assert_close(found, reachable(expected.sqrt()))
    for found, old, new in zip(calls[3], first, samples[5], strict=True):
        torch.testing.assert_close(found, reachable((0.75 * old + 0.25 * new).sqrt()))
    flat = torch.cat([norm.flatten() for norm in calls[3]])
    torch.testing.assert_close(running.at(torch.tensor([3, 0, len(flat) - 1])), flat[[3, 0, -1]])


def test_norms_carry_no_graph():
    lens, base, rule = _held_pools()
    base = lens.trace(base.input.requires_grad_(), rule)
    for norm in (*exact_norms(lens, base, rule), *squared_norms(lens, base, rule, torch.randn_like(base.input))):
        assert not norm.requires_grad


def test_row_gradients_give_the_same_norms():
    network, x = mlp(4, 6, 5, 3), _rows(3, 4)
    lens = view(network)
    base = lens.trace(x)
    slopes = torch.stack([jacobian(network, row) for row in x])
    torch.testing.assert_close(exact_norms(lens, base, Fixed(base.pattern()))[-1], slopes.norm(dim=2))
