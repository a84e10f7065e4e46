"""Modules up to a layer, and up to the smooth function that they end in."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gatewise.errors import InvalidInput
from gatewise.network import view
from gatewise.network.parts import UpToLayer, without_end

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def _ending(*end: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 8), *end).eval()


class _InPlace(nn.Module):
    def forward(self, x):
        return x.tanh_()


@pytest.mark.parametrize(
    ("end", "name"),
    [((nn.Tanh(),), "tanh"), ((nn.Sigmoid(), nn.Unflatten(1, (2, 4))), "sigmoid"), ((_InPlace(),), "tanh")],
)
def test_the_end_is_taken_off(end, name):
    whole = _ending(*end)
    before, found = without_end(whole, X)
    assert found == name
    torch.testing.assert_close(before(X).flatten(1), _ending()(X))
    torch.testing.assert_close(getattr(torch, name)(before(X)), whole(X))
    assert not view(before).trace(X.clone().requires_grad_()).smooth


class _Scaled(nn.Module):
    def forward(self, x):
        return (x.tanh() + 1) / 2


class _Twice(nn.Module):
    def forward(self, x):
        return x.tanh() + x.sigmoid()


@pytest.mark.parametrize("end", [(), (nn.Tanh(), nn.Linear(8, 2)), (_Scaled(),), (_Twice(),), (nn.Softplus(),)])
def test_anything_else_stays(end):
    whole = _ending(*end)
    assert without_end(whole, X) == (whole, "none")


def test_only_the_last_of_several_is_taken_off():
    torch.manual_seed(0)
    whole = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 8), nn.Tanh()).eval()
    before, name = without_end(whole, X)
    assert name == "tanh"
    torch.testing.assert_close(before(X), whole[:3](X))


def test_a_layer_by_its_name_and_nothing_after_it():
    whole = nn.Sequential(nn.Sequential(nn.Linear(4, 6), nn.ReLU()), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    part = UpToLayer(whole, "0.1")
    torch.testing.assert_close(part(X), whole[0](X))
    assert len(view(part).trace(X).gates) == 1
    assert not whole[0][1]._forward_hooks


def test_an_error_inside_leaves_no_hook_behind():
    whole = _ending()
    with pytest.raises(RuntimeError):
        UpToLayer(whole, "2")(torch.zeros(2, 5))
    assert not whole[2]._forward_hooks


def test_a_layer_that_is_not_there_or_not_reached_is_refused():
    with pytest.raises(InvalidInput, match="did you mean '2'"):
        UpToLayer(_ending(), "22")

    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.idle = nn.Linear(4, 2), nn.Linear(4, 2)

        def forward(self, x):
            return self.used(x)

    with pytest.raises(InvalidInput, match="no tensor"):
        UpToLayer(Idle().eval(), "idle")(X)
