"""What is affine passes through: with its gates held the whole network is one affine map (Proposition 5.1)."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gatewise.network import Fixed, require_piecewise_linear, view

from .networks import Everything, Lambda, mlp, pooled

NETWORKS = {
    "mlp": (mlp(4, 8, 8, 3), (4,)),
    "pooled": (pooled(), (1, 6, 6)),
    "everything": (Everything().double().eval(), (2, 6, 6)),
}

LAYERS = {
    "batch norm": (nn.BatchNorm1d(4), (4,)),
    "transposed": (nn.ConvTranspose2d(2, 3, 3, stride=2, output_padding=1), (2, 4, 4)),
    "average pool": (nn.AvgPool2d(2, padding=1, count_include_pad=False), (2, 4, 4)),
    "adaptive average pool": (nn.AdaptiveAvgPool2d(1), (2, 4, 4)),
    "constant padding": (nn.ConstantPad2d(1, 0.5), (2, 4, 4)),
    "circular convolution": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 4, 4)),
    "upsampling": (nn.Upsample(scale_factor=2, mode="bilinear"), (2, 4, 4)),
    "pixel shuffle": (nn.PixelShuffle(2), (4, 3, 3)),
    "dropout": (nn.Dropout(0.5), (4,)),
    "residual": (Lambda(lambda x: x + 2 * x.flip(1)), (4,)),
    "concatenation": (Lambda(lambda x: torch.cat([x, 1 - x], dim=1)), (4,)),
    "padding": (Lambda(lambda x: F.pad(x, (1, 2), value=0.3)), (4,)),
    "einsum": (Lambda(lambda x: torch.einsum("bi,ij->bj", x, torch.arange(8.0).double().view(4, 2))), (4,)),
    "constant scaling": (Lambda(lambda x: (x - 0.1) / torch.tensor([0.2, 0.5, 1, 2]).double()), (4,)),
    "a sigmoid of weights": (Lambda(lambda x: x * torch.sigmoid(torch.arange(4.0)).double()), (4,)),
}


def _rows(shape, seed=0, rows=3):
    return torch.randn(rows, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", LAYERS)
def test_layers_without_gates_pass_through(name):
    layer, shape = LAYERS[name]
    module = nn.Sequential(layer, nn.ReLU(), nn.Flatten()).double().eval()
    x = _rows(shape)
    lens = view(module)
    require_piecewise_linear(lens, x)
    assert len(lens.trace(x).gates) == 1
    assert torch.equal(lens.trace(x).output, module(x))


@pytest.mark.parametrize("name", NETWORKS)
@given(seed=st.integers(0, 10**6))
def test_holding_a_points_own_pattern_reproduces_its_output(name, seed):
    module, shape = NETWORKS[name]
    lens, x = view(module), _rows(shape, seed)
    torch.testing.assert_close(lens.trace(x, Fixed(lens.pattern(x))).output, module(x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
@given(seed=st.integers(0, 10**6), share=st.floats(-2, 2))
def test_with_any_pattern_held_the_network_is_affine(name, seed, share):
    module, shape = NETWORKS[name]
    lens = view(module)
    x, y, elsewhere = (_rows(shape, seed + i) for i in range(3))
    held = Fixed(lens.pattern(elsewhere))
    between = lens.trace(share * x + (1 - share) * y, held)
    ends = lens.trace(x, held), lens.trace(y, held)
    for i, h in enumerate(between.preactivations):
        expected = share * ends[0].preactivations[i] + (1 - share) * ends[1].preactivations[i]
        torch.testing.assert_close(h, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(
        between.output, share * ends[0].output + (1 - share) * ends[1].output, rtol=0, atol=1e-10
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_of_the_held_network_is_the_networks_own(name):
    module, shape = NETWORKS[name]
    lens, x = view(module), _rows(shape).requires_grad_()
    held = Fixed(lens.pattern(x))
    (plain,) = torch.autograd.grad(module(x).square().sum(), x)
    (fixed,) = torch.autograd.grad(lens.trace(x, held).output.square().sum(), x)
    torch.testing.assert_close(fixed, plain, rtol=0, atol=1e-10)


def test_a_pattern_may_leave_gates_as_they_are():
    module = mlp(4, 8, 8, 3)
    lens, x = view(module), _rows((4,))
    assert torch.equal(lens.trace(x, Fixed([None, None])).output, module(x))


def test_a_pattern_is_bool_for_switches_and_winners_for_pools():
    lens, x = view(pooled()), _rows((1, 6, 6))
    first, pool, last = lens.pattern(x)
    assert first.dtype is last.dtype is torch.bool
    assert pool.dtype is torch.int64
    assert pool.shape == (3, 3, 2, 2)
    assert torch.equal(last, lens.trace(x).preactivations[2] > 0)
