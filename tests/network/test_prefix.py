"""A run that goes on after another computes what a run of its own would, and counts as one."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn

from gatewise.network import Surrogate, view


class InPlaceResidual(nn.Module):
    """Overwrites tensors that the first run remembers: the sum and the gate work in place."""

    def __init__(self):
        super().__init__()
        self.first, self.conv = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.relu, self.head = nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Linear(4, 5)

    def forward(self, x):
        h = self.relu(self.first(x))
        for _ in range(2):
            skip = h
            h = self.norm(self.conv(h))
            h += skip
            h = self.relu(h)
        return self.head(h.mean((2, 3)))


class ChangesItsWay(nn.Module):
    """Makes other calls at its second run."""

    def __init__(self):
        super().__init__()
        self.linear, self.runs = nn.Linear(4, 4), 0

    def forward(self, x):
        self.runs += 1
        h = self.linear(x) if self.runs % 2 else self.linear(x.clone())
        return torch.relu(torch.relu(h) - 0.1)


def surrogate(trace, first: int) -> tuple[Surrogate, list[torch.Tensor]]:
    eta = [torch.rand_like(h, requires_grad=True) if i >= first else None for i, h in enumerate(trace.preactivations)]
    return Surrogate(eta, steepness=20.0), [e for e in eta if e is not None]


@pytest.mark.parametrize(("network", "first"), [(InPlaceResidual, 1), (InPlaceResidual, 2), (ChangesItsWay, 1)])
def test_going_on_equals_running_anew(network, first):
    lens = view(network().eval())
    shape = (3, 1, 6, 6) if network is InPlaceResidual else (3, 4)
    x = torch.randn(shape, requires_grad=True)
    rule, eta = surrogate(lens.trace(x), first)
    anew, true = lens.trace(x, rule), lens.trace(x)
    wanted = torch.autograd.grad((anew.output.square() + true.output).sum(), [x, *eta])
    remembered = lens.trace(x, remember=first)
    onward = lens.trace(x, rule, after=remembered)
    found = torch.autograd.grad((onward.output.square() + remembered.output).sum(), [x, *eta])
    torch.testing.assert_close(onward.output, anew.output)
    assert len(onward.gates) == len(anew.gates)
    for mine, theirs in zip([*onward.preactivations, *found], [*anew.preactivations, *wanted], strict=True):
        torch.testing.assert_close(mine, theirs)


def test_nothing_before_the_gate_is_computed_twice():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    lens, x = view(network), torch.randn(3, 4)
    remembered = lens.trace(x, remember=1)
    onward = lens.trace(x, after=remembered)
    assert onward.preactivations[0] is remembered.preactivations[0]
    torch.testing.assert_close(onward.output, remembered.output)


def test_it_counts_as_a_pass_of_its_own():
    lens = view(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval())
    x = torch.randn(3, 4, requires_grad=True)
    remembered = lens.trace(x, remember=1)
    onward = lens.trace(x, after=remembered)
    (remembered.output.sum() + onward.output.sum()).backward()
    assert lens.meter.forwards == 6
    assert lens.meter.backwards == 6


class Wide(nn.Module):
    """Tells of the first tensor that it makes, which nothing uses after the second."""

    def __init__(self):
        super().__init__()
        self.linears, self.made = nn.ModuleList(nn.Linear(4, 4) for _ in range(3)), []

    def forward(self, x):
        h = self.linears[0](x)
        self.made.append(weakref.ref(h))
        for linear in self.linears[1:]:
            h = torch.relu(linear(h) * 2)
        return h


def test_what_nothing_uses_after_the_gate_is_not_kept():
    network = Wide().eval()
    lens, x = view(network), torch.randn(3, 4)
    with torch.no_grad():
        remembered = lens.trace(x, keep=False, remember=1)
        assert network.made[-1]() is None
        onward = lens.trace(x, keep=False, after=remembered)
    assert remembered.preactivations == onward.preactivations == ()
    torch.testing.assert_close(onward.output, remembered.output, rtol=0, atol=0)
