"""Relaxed gates as lists of what moves are the relaxed gates of Definition 5.3 and equation 10, written densely."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gatewise.geometry import unit_rows
from gatewise.network import Surrogate, view
from gatewise.network.consistency import disagreement, per_gate
from gatewise.network.relaxed import RelaxedGates

from .networks import mlp, pooled


def _network(kind: str) -> tuple[nn.Module, tuple[int, ...]]:
    return (pooled(), (1, 6, 6)) if kind == "pooled" else (mlp(4, 6, 16, 3), (4,))


def _relaxed(kind: str, seed: int, steepness: float, partial: bool = False):
    """A view, a point, its gates with eta stirred by kicks, and which gates carry eta."""
    network, shape = _network(kind)
    lens, generator = view(network), torch.Generator().manual_seed(seed)
    x = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        first = lens.trace(x)
        chosen = first.switches[-1:] if partial else first.switches
        gates = RelaxedGates(first, chosen, steepness)
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


def _gathered(free, dense: list[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in dense])[free.position]


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    steepness=st.sampled_from([2000.0, 60.0, 8.0]),
    kind=st.sampled_from(["relu", "pooled"]),
    partial=st.booleans(),
)
def test_both_runs_and_their_gradients_are_those_of_the_dense_gates(seed, steepness, kind, partial):
    lens, x, gates, chosen = _relaxed(kind, seed, steepness, partial)
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
    charge = free.charge(None)
    relaxed = lens.trace(x, gates.surrogate(free))
    found = torch.autograd.grad(charge.sum() + (weight * relaxed.output).sum(), [x, free.eta], materialize_grads=True)

    torch.testing.assert_close(mine.output, true.output)
    torch.testing.assert_close(relaxed.output, surrogate.output)
    totals = sum(torch.zeros(3).double().index_add(0, d.row, d.charge) for d in apart)
    torch.testing.assert_close(gates.total(free, charge), totals)
    torch.testing.assert_close(found[0], wanted[0])
    dense = torch.cat([g.flatten() for g in wanted[1:]])
    torch.testing.assert_close(torch.zeros_like(dense).index_add(0, free.position, found[1]), dense)

    direction, norms = gates.directions(free, found[1])
    torch.testing.assert_close(direction, _gathered(free, [unit_rows(g) for g in wanted[1:]]))
    torch.testing.assert_close(norms, torch.stack([g.flatten(1).norm(dim=1) for g in wanted[1:]]))


@given(seed=st.integers(0, 10**6))
def test_a_step_moves_the_free_and_the_kicked_and_stays_in_the_unit_interval(seed):
    lens, x, gates, _ = _relaxed("relu", seed, 60.0)
    compared = gates.compared()
    free = gates.free(compared, lens.trace(x, compared))
    before = torch.cat([e.flatten() for e in gates.eta])
    noise = torch.randn(16, dtype=torch.float64)
    gates.step(free, torch.ones_like(free.eta), [(1, 2, noise)], length=-0.3)
    expected = before.index_add(0, free.position, torch.full_like(free.eta.detach(), -0.3))
    expected[-16:] -= 0.3 * noise
    torch.testing.assert_close(torch.cat([e.flatten() for e in gates.eta]), expected.clamp(0, 1))


def test_at_the_start_eta_is_the_true_pattern_and_nothing_is_at_odds():
    lens = view(mlp(4, 6, 16, 3))
    x = torch.randn(3, 4, dtype=torch.float64)
    gates = RelaxedGates(lens.trace(x), (0, 1), 2000.0)
    compared = gates.compared()
    assert len(gates.free(compared, lens.trace(x, compared)).position) == 0
    for eta, on in zip(gates.eta, lens.pattern(x), strict=True):
        assert torch.equal(eta, on.double())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_of_a_preactivation_in_memory_does_not_matter(layout):
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.ReLU(), nn.Flatten()).double().eval()
    lens = view(network.to(memory_format=layout))
    x = torch.randn(2, 2, 7, 7, dtype=torch.float64).to(memory_format=layout)
    gates = RelaxedGates(lens.trace(x), (0, 1), 2000.0)
    moved = (-x).requires_grad_()
    compared = gates.compared()
    free = gates.free(compared, lens.trace(moved, compared))
    true = lens.trace(moved)
    apart = [disagreement(true.preactivations[i], None, eta) for i, eta in enumerate(gates.eta)]
    torch.testing.assert_close(free.charge(None), torch.cat([d.charge for d in apart]))
    (wanted,) = torch.autograd.grad(sum(d.charge.sum() for d in apart), moved)
    torch.testing.assert_close(torch.autograd.grad(free.charge(None).sum(), moved)[0], wanted)
