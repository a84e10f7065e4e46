"""The network near a point as a mixed-integer affine function, against the network itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gatewise.network import view
from gatewise.network.local import local_piece

from .networks import mlp, pooled


def _leaky(slope: float) -> nn.Sequential:
    network = mlp(4, 7, 6, 3)
    return nn.Sequential(*[nn.LeakyReLU(slope) if isinstance(part, nn.ReLU) else part for part in network]).eval()


def _program(network: nn.Module, x: torch.Tensor, weight: torch.Tensor, free, row: int = 0, width: float = 0.0):
    lens = view(network)
    with torch.no_grad():
        trace = lens.trace(x)
    piece = local_piece(lens, trace, free(trace), row, weight, torch.zeros_like(x))
    return lens, piece.program(piece.x - width, piece.x + width)


def _all_free(trace):
    return [torch.ones_like(h, dtype=torch.bool) if gate.pool is None else None
            for gate, h in zip(trace.gates, trace.preactivations, strict=True)]  # fmt: skip


@pytest.mark.parametrize("network", [mlp(4, 7, 6, 3), _leaky(0.2), _leaky(-0.5)], ids=["relu", "leaky", "negative"])
def test_with_every_gate_free_it_is_the_network_everywhere(network):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, dtype=torch.float64, generator=generator)
    weight = torch.randn(2, 3, dtype=torch.float64, generator=generator)
    network.requires_grad_(False)
    lens, program = _program(network, x, weight, _all_free, row=1)
    at_start = program.cost(x[1].numpy()) - float((network(x)[1] * weight[1]).sum())
    for _ in range(5):
        other = torch.randn(1, 4, dtype=torch.float64, generator=generator)
        trace = lens.trace(other)
        z, _ = program.at(other[0].numpy())
        np.testing.assert_allclose(z, torch.cat([h[0] for h in trace.preactivations]).detach().numpy(), atol=1e-12)
        assert program.cost(other[0].numpy()) == pytest.approx(float((trace.output * weight[1]).sum()) + at_start)


def test_with_some_free_it_is_the_network_where_only_those_switch():
    network, x = pooled(), torch.randn(2, 1, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    network.requires_grad_(False)
    weight = torch.eye(3, dtype=torch.float64)[:2]
    lens, program = _program(network, x, weight, _all_free)
    inside = x[:1] + 1e-6 * torch.randn(1, 1, 6, 6, dtype=torch.float64)
    gain = float((network(inside)[0] - network(x[:1])[0]) @ weight[0])
    assert program.cost(inside.numpy().ravel()) - program.cost(x[0].numpy().ravel()) == pytest.approx(gain, abs=1e-12)
    held = [None] * len(lens.trace(x).gates)
    _, affine = _program(network, x, weight, lambda _: held)
    assert len(affine.constant) == 0
    assert affine.cost(inside.numpy().ravel()) - affine.cost(x[0].numpy().ravel()) == pytest.approx(gain, abs=1e-12)


@pytest.mark.parametrize("network", [mlp(4, 7, 6, 3), _leaky(0.2), _leaky(-0.5)], ids=["relu", "leaky", "negative"])
def test_ranges_hold_and_the_solution_is_the_least_of_many_points(network):
    x = torch.randn(1, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    network.requires_grad_(False)
    weight = torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float64)
    _, program = _program(network, x, weight, _all_free, width=1.0)
    low, high = program.ranges()
    best, proved = program.solve(x[0].numpy(), seconds=20.0)
    assert proved
    points = x + 2 * torch.rand(20_000, 4, dtype=torch.float64) - 1
    costs = [program.cost(point) for point in points[:2000].numpy()]
    for point in points[:200].numpy():
        z, _ = program.at(point)
        assert ((low - 1e-9 <= z) & (z <= high + 1e-9)).all()
    assert program.cost(best) <= min(costs) + 1e-6
    values = (network(points) * weight).sum(1)
    found = float((network(torch.from_numpy(best)[None]) * weight).sum())
    assert found <= float(values.min()) + 1e-6
