"""Passes are counted where they happen, in rows."""

import pytest
import torch

from gatewise.network import Surrogate, view

from .networks import mlp


@pytest.fixture
def lens():
    return view(mlp(4, 6, 2, dtype=torch.float32))


def _counts(lens):
    return lens.meter.forwards, lens.meter.backwards


def test_a_pass_is_one_row_through_the_network(lens):
    lens(torch.randn(5, 4))
    assert _counts(lens) == (5, 0)
    lens.trace(torch.randn(2, 4))
    lens.pattern(torch.randn(1, 4))
    assert _counts(lens) == (8, 0)


def test_a_plain_run_is_not_counted(lens):
    lens.plain(torch.randn(5, 4))
    assert _counts(lens) == (0, 0)


def test_backward_passes_are_counted_when_the_gradient_comes_not_when_the_graph_is_built(lens):
    x = torch.randn(5, 4, requires_grad=True)
    output = lens(x)
    assert _counts(lens) == (5, 0)
    torch.autograd.grad(output.sum(), x, retain_graph=True)
    assert _counts(lens) == (5, 5)
    torch.autograd.grad(output.sum(), x)
    assert _counts(lens) == (5, 10)


def test_a_gradient_through_two_runs_counts_both(lens):
    x = torch.randn(5, 4, requires_grad=True)
    eta = torch.rand(5, 6)
    total = lens.trace(x).output.sum() + lens.trace(x, Surrogate([eta], 10.0)).output.sum()
    torch.autograd.grad(total, x)
    assert _counts(lens) == (10, 10)


def test_no_gradient_no_backward_pass(lens):
    x = torch.randn(5, 4, requires_grad=True)
    with torch.no_grad():
        lens(x)
    lens(x.detach())
    assert _counts(lens) == (10, 0)


def test_two_views_of_one_module_count_apart(lens):
    other = view(lens.module)
    other(torch.randn(3, 4))
    assert _counts(lens) == (0, 0)
    assert _counts(other) == (3, 0)


def test_the_meter_says_which_rows_had_any_gradient(lens):
    x = torch.randn(3, 4, requires_grad=True)
    assert lens.meter.moved is None
    torch.autograd.grad((lens(x).sum(1) * torch.tensor([1.0, 0.0, 1.0])).sum(), x)
    assert lens.meter.moved.tolist() == [True, False, True]
    torch.autograd.grad((lens(x).sum(1) * torch.tensor([0.0, 0.0, 1.0])).sum(), x)
    assert lens.meter.moved.tolist() == [True, False, True], "a zero gradient does not undo an earlier one"
    lens.meter.tell(torch.tensor([False, True, False]))
    assert lens.meter.moved.tolist() == [False, True, False], "a method that differentiates copies of rows says itself"
    lens.meter.forget_gradients()
    assert lens.meter.moved is None


def test_the_gradient_through_the_meter_is_the_modules(lens):
    x = torch.randn(3, 4, requires_grad=True)
    (counted,) = torch.autograd.grad(lens(x).square().sum(), x)
    (plain,) = torch.autograd.grad(lens.module(x).square().sum(), x)
    assert torch.equal(counted, plain)
