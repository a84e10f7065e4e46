"""The sigmoid surrogate and what it is held to: Definitions 5.2 and 5.3, equation 7, Proposition 5.4."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gatewise.errors import InvalidInput
from gatewise.network import Fixed, Surrogate, view
from gatewise.network.consistency import (
    choose_switches,
    disagreement,
    per_gate,
    steepest_activation_direction,
)
from gatewise.network.hyperplanes import reachable

from .networks import Everything, Lambda, matrices, mlp, pooled

SIZES = (4, 6, 5, 3)
SEEDS = st.integers(0, 10**6)


def _rows(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _consistent(pattern, seed, near=0.2):
    """eta drawn above 1 - near where the gate is on, below near where it is off: consistent in the sense of eq. 7."""
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.where(on, 1 - u, u)
        for on in pattern
        for u in [near * torch.rand(on.shape, dtype=torch.float64, generator=generator)]
    ]


def _through_gates(network, x, gates):
    """The outputs of an mlp with `gates[i] * h` after its i-th layer, in plain tensors."""
    (*weights, last), (*biases, last_bias) = matrices(network)
    for weight, bias, gate in zip(weights, biases, gates, strict=True):
        x = gate * (x @ weight.T + bias)
    return x @ last.T + last_bias


@given(seed=SEEDS, slope=st.floats(10, 50))
def test_the_surrogate_is_the_sigmoid_times_its_own_preactivation(seed, slope):
    network, x = mlp(*SIZES, seed=seed), _rows(3, 4, seed=seed)
    eta = [torch.rand(3, size, dtype=torch.float64) for size in SIZES[1:-1]]
    expected = _through_gates(network, x, [1 / (1 + torch.exp(-slope * (e - 0.5))) for e in eta])
    torch.testing.assert_close(view(network).trace(x, Surrogate(eta, slope)).output, expected, rtol=0, atol=1e-12)


@given(seed=SEEDS)
def test_a_consistent_eta_far_from_one_half_is_the_network_itself(seed):
    network, x = mlp(*SIZES, seed=seed), _rows(3, 4, seed=seed)
    lens = view(network)
    eta = _consistent(lens.pattern(x), seed)
    torch.testing.assert_close(lens.trace(x, Surrogate(eta, 2000.0)).output, network(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("slope", [0.2, -1.0])
def test_a_leaky_surrogate_keeps_the_slope_below_zero(slope):
    gate = Lambda(lambda x: torch.nn.functional.leaky_relu(x, slope))
    z, eta = _rows(5, 7), torch.rand(5, 7, dtype=torch.float64)
    s = torch.sigmoid(30 * (eta - 0.5))
    out = view(gate).trace(z, Surrogate([eta], 30.0)).output
    torch.testing.assert_close(out, (slope + (1 - slope) * s) * z, rtol=0, atol=1e-12)


def test_a_max_pool_carries_no_eta_and_follows_rest():
    network, x = pooled(), _rows(2, 1, 6, 6)
    lens = view(network)
    trace = lens.trace(x)
    eta = per_gate(trace, trace.switches, _consistent([trace.pattern()[i] for i in trace.switches], 0))
    assert eta[1] is None
    torch.testing.assert_close(lens.trace(x, Surrogate(eta)).output, network(x), rtol=0, atol=1e-12)
    # With the winners held the surrogate run is affine in x; without, its winners move with x.
    held = Surrogate(eta, rest=Fixed(trace.pattern()))
    y, z = _rows(2, 1, 6, 6, seed=1), _rows(2, 1, 6, 6, seed=2)
    at = [lens.trace(point, held).output for point in (y, z, (y + z) / 2)]
    torch.testing.assert_close((at[0] + at[1]) / 2, at[2], rtol=0, atol=1e-10)


def test_eta_takes_a_gradient_and_gates_left_out_do_not_need_one():
    network, x = mlp(*SIZES), _rows(3, 4)
    eta = torch.full((3, 5), 0.5, dtype=torch.float64, requires_grad=True)
    output = view(network).trace(x, Surrogate([None, eta], 20.0)).output
    (gradient,) = torch.autograd.grad(output.sum(), eta)
    assert (gradient != 0).all()


@given(seed=SEEDS, slope=st.floats(20, 50))
def test_proposition_5_4_where_eta_is_consistent_it_climbs_with_the_steepest_activation_direction(seed, slope):
    network, x = mlp(*SIZES, seed=seed), _rows(3, 4, seed=seed)
    lens = view(network)
    pattern = lens.pattern(x)
    nu = [on.double().requires_grad_() for on in pattern]
    eta = [e.requires_grad_() for e in _consistent(pattern, seed, near=0.05)]
    exact, relaxed = _through_gates(network, x, nu), lens.trace(x, Surrogate(eta, slope)).output
    climbs = False
    for k in range(SIZES[-1]):
        wanted = torch.autograd.grad(exact[:, k].sum(), nu, retain_graph=True)
        found = torch.autograd.grad(relaxed[:, k].sum(), eta, retain_graph=True)
        for h, in_nu, in_eta in zip(lens.trace(x).preactivations, wanted, found, strict=True):
            # A gate that the output does not feel has a direction by convention, and nothing to climb.
            direction = steepest_activation_direction(h, in_nu) * (in_nu != 0)
            product, size = (direction * in_eta).sum(1), in_eta.norm(dim=1)
            # "Up to s(eta) = nu": what the sigmoid leaves of a gate can turn the sign of a derivative near zero.
            assert (product >= -1e-3 * size).all()
            climbs |= bool((product > 0).any())
    assert climbs, "no direction at all: the test says nothing"


@given(seed=SEEDS)
def test_definition_5_2_names_exactly_the_gates_whose_switching_raises_the_output(seed):
    network, x = mlp(*SIZES, seed=seed), _rows(1, 4, seed=seed)
    lens = view(network)
    pattern = lens.pattern(x)
    nu = [on.double().requires_grad_() for on in pattern]
    output = _through_gates(network, x, nu)[0, 0]
    heights = lens.trace(x).preactivations
    for layer, gradient in enumerate(torch.autograd.grad(output, nu)):
        on = pattern[layer]
        direction = steepest_activation_direction(heights[layer], gradient)
        assert set(direction.unique().tolist()) <= {-1.0, 0.0, 1.0}
        for j in range(on.shape[1]):
            switched = [p.clone() for p in pattern]
            switched[layer][0, j] = ~switched[layer][0, j]
            change = lens.trace(x, Fixed(switched)).output[0, 0] - output
            if direction[0, j] != 0:
                assert change >= -1e-12
                assert direction[0, j] == (-1 if on[0, j] else 1)
            else:
                assert change <= 1e-12


def test_definition_5_2_leaves_a_neuron_on_its_hyperplane_alone():
    h, gradient = torch.tensor([0.0, 0.0, 2.0, 2.0, -2.0]), torch.tensor([1.0, -1.0, 0.0, -1.0, 1.0])
    assert steepest_activation_direction(h, gradient).tolist() == [0, 0, -1, -1, 1]


@given(seed=SEEDS)
def test_the_disagreement_is_zero_exactly_where_eta_agrees_with_the_true_pattern(seed):
    generator = torch.Generator().manual_seed(seed)
    h, eta, norm = _rows(4, 9, seed=seed), torch.rand(4, 9, generator=generator).double(), 0.1 + _rows(4, 9).abs()
    found = disagreement(h, norm, eta)
    apart = ((h > 0) & (eta < 0.5)) | ((h < 0) & (eta > 0.5))  # equation 7
    assert torch.equal(found.row, apart.nonzero()[:, 0])
    assert torch.equal(found.should_be_on, (h > 0)[apart])
    should_be_on = h.clamp(min=0) / norm * (0.5 - eta).clamp(min=0)  # equation 10
    should_be_off = (-h).clamp(min=0) / norm * (eta - 0.5).clamp(min=0)
    torch.testing.assert_close(found.charge, (should_be_on + should_be_off)[apart], rtol=0, atol=1e-12)
    torch.testing.assert_close(found.largest_halves(), should_be_on.amax(1) + should_be_off.amax(1), rtol=0, atol=1e-12)
    ones = torch.ones(4, 9).double()
    torch.testing.assert_close(disagreement(h, None, eta).charge, disagreement(h, ones, eta).charge)


def test_the_disagreement_pushes_x_to_the_hyperplane_and_eta_to_the_pattern():
    h, eta = torch.tensor([[2.0, -2.0, 2.0, -2.0]]), torch.tensor([[0.2, 0.9, 0.9, 0.1]])
    norm = torch.tensor([[1.0, 2.0, 1.0, 1.0]])
    h.requires_grad_(), eta.requires_grad_()
    disagreement(h, norm, eta).charge.sum().backward()
    torch.testing.assert_close(h.grad, torch.tensor([[0.3, -0.2, 0, 0]]))  # equation 11
    torch.testing.assert_close(eta.grad, torch.tensor([[-2.0, 1.0, 0, 0]]))


def test_at_one_half_and_on_the_hyperplane_the_penalty_does_not_push():
    """The indicators of the paper's gradients are strict."""
    h, eta = torch.tensor([[2.0, -2.0, 0.0, 0.0]]), torch.tensor([[0.5, 0.5, 0.2, 0.9]])
    h.requires_grad_(), eta.requires_grad_()
    disagreement(h, None, eta).charge.sum().backward()
    assert not h.grad.any()
    assert not eta.grad.any()


@pytest.mark.parametrize("norm", [None, torch.full((3, 5), 0.7, dtype=torch.float64)])
def test_the_written_out_gradients_are_the_true_ones(norm):
    h, eta = _rows(3, 5).requires_grad_(), torch.rand(3, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda h, eta: disagreement(h, norm, eta).charge, (h, eta))
    for slope in (0.0, 0.2, -1.0):
        gate = Lambda(lambda x, slope=slope: torch.nn.functional.leaky_relu(x, slope))
        lens = view(gate)
        assert torch.autograd.gradcheck(
            lambda z, eta, lens=lens: lens.trace(z, Surrogate([eta], 12.0)).output, (h, eta), check_batched_grad=False
        )


def test_a_neuron_that_no_input_reaches_is_left_undivided():
    assert reachable(torch.tensor([2.0, 0.0])).tolist() == [2.0, 1.0]


@pytest.mark.parametrize(
    ("chosen", "positions"),
    [("all", (0, 2)), ("last", (2,)), ("0", (0,)), ("-1", (2,)), ("-2", (0,)), ("0,1", (0, 2)), ("1,-1", (2,))],
)
def test_gates_are_chosen_among_the_elementwise_ones(chosen, positions):
    trace = view(pooled()).trace(_rows(1, 1, 6, 6))
    assert choose_switches(trace, chosen) == positions


@pytest.mark.parametrize("chosen", ["first", "2", "-3", "0,7", "", "0;1"])
def test_gates_that_are_not_there_give_a_sentence(chosen):
    trace = view(pooled()).trace(_rows(1, 1, 6, 6))
    with pytest.raises(InvalidInput, match="does not name gates of this network; say all, last, or positions"):
        choose_switches(trace, chosen)


def test_a_network_without_switches_has_none_to_choose():
    trace = view(torch.nn.Linear(4, 2).eval()).trace(torch.zeros(1, 4))
    with pytest.raises(InvalidInput, match="no elementwise gate"):
        choose_switches(trace, "all")


def test_per_gate_lays_tensors_out_over_all_gates():
    trace = view(pooled()).trace(_rows(1, 1, 6, 6))
    last = torch.zeros(1, 5)
    assert per_gate(trace, (2,), [last]) == (None, None, last)


def test_a_rule_can_be_taken_row_by_row():
    network, x = Everything().double().eval(), _rows(4, 2, 6, 6)
    lens = view(network)
    pattern = lens.pattern(x)
    eta = tuple(e if e.dtype is torch.int64 else 0.9 * e.double() for e in pattern)
    rule = Surrogate(eta, 20.0, rest=Fixed(pattern))
    both = lens.trace(x, rule).output
    for row in range(4):
        alone = lens.trace(x[row : row + 1], rule.each(lambda held, row=row: held[row : row + 1])).output
        torch.testing.assert_close(alone, both[row : row + 1], rtol=0, atol=1e-12)
