"""Relaxed gates as lists of what moves, or all together, are the relaxed gates of Definition 5.3 and equation 10,
written densely.
"""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gatewise.geometry import unit_rows
from gatewise.network import NetworkView, Surrogate, view
from gatewise.network.consistency import disagreement, per_gate
from gatewise.network.relaxed import RelaxedGates

from .networks import mlp, pooled

LISTS, ALL_AT_ONCE = 0, 10**9


class Branches(nn.Module):
    """Two gates side by side, so that neither comes after the other; one that sees a constant alone; and a leaky one
    that all of them reach.
    """

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.parts = nn.ModuleList(nn.Linear(4, 8) for _ in range(3)).append(nn.Linear(8, 16)).append(nn.Linear(16, 3))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.5, generator=generator)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        left, right, constant, middle, last = self.parts
        beside = torch.relu(left(x)) + torch.relu(right(x)) + torch.relu(constant(torch.ones_like(x)))
        return last(nn.functional.leaky_relu(middle(beside), 0.1))


def _network(kind: str) -> tuple[nn.Module, tuple[int, ...]]:
    known = {"pooled": (pooled, (1, 6, 6)), "relu": (lambda: mlp(4, 6, 16, 3), (4,)), "branches": (Branches, (4,))}
    make, shape = known[kind]
    return make(), shape


def _relaxed(kind: str, seed: int, steepness: float, partial: bool = False, few: int = LISTS, pieces: bool = False):
    """A view, a point, its gates with eta stirred by kicks, and which gates carry eta."""
    network, shape = _network(kind)
    lens, generator = NetworkView(network, rows_per_run=2 if pieces else None), torch.Generator().manual_seed(seed)
    x = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        first = lens.trace(x)
        chosen = first.switches[-1:] if partial else first.switches
        gates = RelaxedGates(first, chosen, steepness, few=few)
        for _ in range(2):
            compared = gates.compared()
            free = gates.free(compared, lens.trace(x, compared))
            kicks = [
                (gate, row, torch.randn(gates.row_size(gate), generator=generator, dtype=torch.float64))
                for gate in range(len(chosen))
                for row in range(3)
                if torch.rand((), generator=generator) < 0.7
            ]
            gates.step(free, torch.randn(len(free.eta), generator=generator, dtype=torch.float64), kicks, length=0.4)
    return lens, (x + 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)), gates, chosen


def _positions(gates: RelaxedGates, free) -> Tensor:
    return torch.arange(sum(e.numel() for e in gates.eta))[free.position]


def _in_x(gates: RelaxedGates, compared, by_height: Tensor, x: Tensor) -> Tensor:
    return compared.roots(by_height).gradient(x)


def _gathered(free, dense: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in dense])[free.position]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    steepness=st.sampled_from([2000.0, 60.0, 8.0]),
    kind=st.sampled_from(["relu", "pooled", "branches"]),
    partial=st.booleans(),
    few=st.sampled_from([LISTS, ALL_AT_ONCE]),
    pieces=st.booleans(),
)
def test_both_runs_and_their_gradients_are_those_of_the_dense_gates(seed, steepness, kind, partial, few, pieces):
    lens, x, gates, chosen = _relaxed(kind, seed, steepness, partial, few, pieces)
    x.requires_grad_()
    weight = torch.linspace(-1, 1, 9, dtype=torch.float64).view(3, 3)

    eta = [e.clone().requires_grad_() for e in gates.eta]
    assert all(bool(((e >= 0) & (e <= 1)).all()) for e in eta)
    true = lens.trace(x)
    surrogate = lens.trace(x, Surrogate(per_gate(true, chosen, eta), steepness))
    apart = [disagreement(true.preactivations[i], None, e) for i, e in zip(chosen, eta, strict=True)]
    wanted = torch.autograd.grad(
        sum(d.charge.sum() for d in apart) + (weight * surrogate.output).sum(), [x, *eta], materialize_grads=True
    )

    compared = gates.compared()
    mine = lens.trace(x, compared, keep=False)
    free = gates.free(compared, mine)
    charge, by_height, by_eta = free.charge(None)
    rule = gates.surrogate()
    relaxed = lens.trace(x, rule)
    in_x = _in_x(gates, compared, by_height, x) + torch.autograd.grad(relaxed.output, (x, *rule.beside), weight)[0]
    in_eta = gates.gradient(free, by_eta, rule)

    torch.testing.assert_close(mine.output, true.output)
    torch.testing.assert_close(relaxed.output, surrogate.output)
    totals = sum(torch.zeros(3).double().index_add(0, d.row, d.charge) for d in apart)
    torch.testing.assert_close(gates.by_row(free, charge), totals)
    torch.testing.assert_close(in_x, wanted[0])
    dense = torch.cat([g.flatten() for g in wanted[1:]])
    torch.testing.assert_close(torch.zeros_like(dense).index_add(0, _positions(gates, free), in_eta), dense)
    agreement = torch.cat(
        [((true.preactivations[i] > 0) == (e > 0.5)).flatten(1) for i, e in zip(chosen, eta, strict=True)], 1
    )
    torch.testing.assert_close(gates.agreement(free), agreement.double().mean(1))

    direction, norms = gates.directions(free, in_eta)
    torch.testing.assert_close(direction, _gathered(free, [unit_rows(g) for g in wanted[1:]]))
    torch.testing.assert_close(norms, torch.stack([g.flatten(1).norm(dim=1) for g in wanted[1:]]))


@given(seed=st.integers(0, 10**6), few=st.sampled_from([LISTS, ALL_AT_ONCE]))
def test_a_step_moves_the_free_and_the_kicked_and_stays_in_the_unit_interval(seed, few):
    lens, x, gates, _ = _relaxed("relu", seed, 60.0, few=few)
    compared = gates.compared()
    free = gates.free(compared, lens.trace(x, compared))
    before = torch.cat([e.flatten() for e in gates.eta])
    noise = torch.randn(16, dtype=torch.float64)
    gates.step(free, torch.ones_like(free.eta), [(1, 2, noise)], length=-0.3)
    expected = before.index_add(0, _positions(gates, free), torch.full_like(free.eta, -0.3))
    expected[-16:] -= 0.3 * noise
    torch.testing.assert_close(torch.cat([e.flatten() for e in gates.eta]), expected.clamp(0, 1))


def test_at_the_start_eta_is_the_true_pattern_and_nothing_is_at_odds():
    lens = view(mlp(4, 6, 16, 3))
    x = torch.randn(3, 4, dtype=torch.float64)
    gates = RelaxedGates(lens.trace(x), (0, 1), 2000.0, few=LISTS)
    compared = gates.compared()
    assert len(gates.free(compared, lens.trace(x, compared)).eta) == 0
    for eta, on in zip(gates.eta, lens.pattern(x), strict=True):
        assert torch.equal(eta, on.double())


@pytest.mark.parametrize("few", [LISTS, ALL_AT_ONCE])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_of_a_preactivation_in_memory_does_not_matter(layout, few):
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten()).double().eval()
    lens = view(network.to(memory_format=layout))
    x = torch.randn(2, 2, 7, 7, dtype=torch.float64).to(memory_format=layout)
    gates = RelaxedGates(lens.trace(x), (0, 1), 2000.0, few=few)
    moved = (-x).requires_grad_()
    compared = gates.compared()
    free = gates.free(compared, lens.trace(moved, compared))
    true = lens.trace(moved)
    apart = [disagreement(true.preactivations[i], None, eta) for i, eta in enumerate(gates.eta)]
    charge, by_height, _ = free.charge(None)
    torch.testing.assert_close(charge[charge > 0], torch.cat([d.charge for d in apart]))
    (wanted,) = torch.autograd.grad(torch.cat([d.charge for d in apart]).sum(), moved)
    torch.testing.assert_close(_in_x(gates, compared, by_height, moved), wanted)


class Overwriting(nn.Module):
    """Writes to a gate's input after the gate has read it, which autograd allows of a ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        z = 2 * x - 1
        through = torch.relu(z)
        z.mul_(-3)
        return through.cumsum(1)


def test_a_gate_s_input_may_be_overwritten_after_the_gate():
    x = torch.linspace(-1, 2, 12, dtype=torch.float64).view(3, 4).requires_grad_()
    found = []
    for few in (LISTS, ALL_AT_ONCE):
        lens = view(Overwriting().eval())
        with torch.no_grad():
            gates = RelaxedGates(lens.trace(-x), (0,), 8.0, few=few)
        compared, rule = gates.compared(), gates.surrogate()
        free = gates.free(compared, lens.trace(x, compared, keep=False))
        _, by_height, by_eta = free.charge(None)
        in_x = _in_x(gates, compared, by_height, x)
        (late,) = torch.autograd.grad(lens.trace(x, rule, keep=False).output.sum(), x)
        in_eta = torch.zeros(12, dtype=torch.float64)
        in_eta[_positions(gates, free)] = gates.gradient(free, by_eta, rule)
        found.append(torch.cat([in_x.flatten(), late.flatten(), in_eta]))
    torch.testing.assert_close(*found)


class Constant(nn.Module):
    """A gate that sees a constant alone, and whose output is written to."""

    def __init__(self):
        super().__init__()
        self.constant, self.seeing = nn.Linear(4, 8), nn.Linear(4, 8)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.constant(torch.ones_like(x)))
        out += torch.relu(self.seeing(x))
        return out


@pytest.mark.parametrize("few", [LISTS, ALL_AT_ONCE])
def test_gates_that_see_a_constant_move_too_whatever_becomes_of_their_output(few):
    torch.manual_seed(0)
    lens, x = view(Constant().double().eval()), torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    gates = RelaxedGates(lens.trace(x), (0, 1), 8.0, few=few)
    compared, rule = gates.compared(), gates.surrogate()
    free = gates.free(compared, lens.trace(x, compared))
    output = lens.trace(x, rule).output
    torch.autograd.grad(output.sum(), (x, *rule.beside))
    in_eta = torch.zeros(48, dtype=torch.float64)
    in_eta[_positions(gates, free)] = gates.gradient(free, free.charge(None)[2], rule)
    eta = gates.eta[0].clone().requires_grad_()
    surrogate = lens.trace(x, Surrogate([eta, gates.eta[1]], 8.0)).output
    torch.testing.assert_close(in_eta[:24].view(3, 8), torch.autograd.grad(surrogate.sum(), eta)[0])


@pytest.mark.parametrize("few", [LISTS, ALL_AT_ONCE])
def test_what_a_step_ran_is_given_back_without_the_garbage_collector(few):
    lens, x, gates, _ = _relaxed("branches", 3, 60.0, few=few)
    x.requires_grad_()
    gc.disable()
    try:
        compared, rule = gates.compared(), gates.surrogate()
        true, relaxed = lens.trace(x, compared), lens.trace(x, rule)
        torch.autograd.grad(relaxed.output.sum(), x)  # nothing is asked of the true run, as under ablation M2
        held = [weakref.ref(one) for one in (compared, rule, *true.preactivations, *relaxed.preactivations)]
        del compared, rule, true, relaxed
        assert all(ref() is None for ref in held)
    finally:
        gc.enable()
