"""`require_piecewise_linear` names what is smooth and catches what it cannot name; a plain run is never refused."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gatewise.errors import UnsupportedNetwork
from gatewise.network import require_piecewise_linear, view

from .networks import Everything, Lambda, mlp, pooled


def _between(middle):
    """`middle` between two gates."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 6), nn.ReLU(), deepcopy(middle), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)
    ).eval()


def _behind(last):
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), last).eval()


NAMED = {
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "gelu": nn.GELU(),
    "silu": nn.SiLU(inplace=True),
    "elu": nn.ELU(),
    "softplus": nn.Softplus(),
    "hardswish": nn.Hardswish(),
    "softmax": nn.Softmax(dim=1),
    "layer_norm": nn.LayerNorm(6),
    "exp": Lambda(torch.exp),
    "sqrt": Lambda(lambda h: (h + 1).sqrt()),
    "square": Lambda(torch.square),
}

CAUGHT = {
    "x * x": Lambda(lambda h: h * h),
    "power": Lambda(lambda h: h**2),
    "where": Lambda(lambda h: torch.where(h > 0.5, h, -h)),
    "division by a norm": Lambda(lambda h: h / (1 + h.norm(dim=1, keepdim=True))),
    "batch norm without statistics": nn.BatchNorm1d(6, track_running_stats=False),
    "a jump": nn.Threshold(0.5, 0.0),
    "rounding": Lambda(lambda h: torch.round(10 * h)),
    "a bilinear form": Lambda(lambda h: torch.einsum("bi,bj->bi", h, h)),
    "sorting": Lambda(lambda h: h.sort(dim=1).values),
    "largest entry": Lambda(lambda h: h - h.amax(dim=1, keepdim=True)),
}


def _rows(dtype=torch.float32):
    return 2 * torch.randn(4, 4, dtype=dtype)


@pytest.mark.parametrize("name", NAMED)
def test_smooth_functions_before_the_last_gate_are_named_with_a_remedy(name):
    for up_to in ("last gate", "output"):
        with pytest.raises(
            UnsupportedNetwork, match=rf"applies {name}, which .* before gate 2 of 2; use a method .*pgd"
        ):
            require_piecewise_linear(view(_between(NAMED[name])), _rows(), up_to=up_to)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CAUGHT)
def test_anything_else_that_is_not_affine_is_caught_by_superposition(name, dtype):
    network = _between(CAUGHT[name]).to(dtype)
    with pytest.raises(UnsupportedNetwork, match=r"not affine in its input before gate 2 of 2.*use a method"):
        require_piecewise_linear(view(network), _rows(dtype))


@pytest.mark.parametrize("name", [*NAMED, *CAUGHT])
def test_a_plain_run_is_never_refused(name):
    network, x = _between((NAMED | CAUGHT)[name]), _rows()
    torch.testing.assert_close(view(network)(x), network(x))
    torch.testing.assert_close(view(network).trace(x).output, network(x))


@pytest.mark.parametrize("last", [nn.Tanh(), nn.Sigmoid(), nn.Softmax(dim=1), Lambda(lambda h: h * h)])
def test_smooth_functions_after_the_last_gate_are_fine_for_search_and_refused_for_regions(last):
    lens, x = view(_behind(last)), _rows()
    require_piecewise_linear(lens, x, up_to="last gate")
    with pytest.raises(UnsupportedNetwork, match="after its last gate"):
        require_piecewise_linear(lens, x, up_to="output")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("network", "shape"),
    [(mlp(4, 8, 8, 3), (4,)), (pooled(), (1, 6, 6)), (Everything(), (2, 6, 6))],
    ids=["mlp", "pooled", "everything"],
)
def test_networks_of_affine_pieces_pass_at_any_scale(network, shape, dtype):
    network = network.to(dtype).eval()
    for scale in (1e-3, 1.0, 1e3):
        require_piecewise_linear(view(network), scale * torch.randn(3, *shape, dtype=dtype))


def test_a_smooth_function_of_weights_only_passes():
    class Squashed(nn.Linear):
        def forward(self, x):
            return F.linear(x, torch.tanh(self.weight), self.bias)

    require_piecewise_linear(view(nn.Sequential(Squashed(4, 5), nn.ReLU(), Squashed(5, 2)).eval()), _rows())


def test_a_dead_network_passes():
    network = mlp(4, 6, 2, dtype=torch.float32)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    require_piecewise_linear(view(network), _rows())
