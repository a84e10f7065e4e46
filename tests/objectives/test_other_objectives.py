"""Linear functionals, distances, and any callable."""

import pytest
import torch

from gatewise.objectives import Distance, Linear, Margin, ObjectiveFunction, SquaredOutputDistance

X, Y = torch.randn(3, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(12.0).view(3, 4)


def test_a_linear_functional_is_the_same_or_one_a_row():
    weights = torch.tensor([1.0, -1.0, 0.5, 2.0])
    assert torch.equal(Linear(weights)(X, Y), Y @ weights)
    by_row = torch.stack([weights, 2 * weights, 0 * weights])
    assert torch.equal(Linear(by_row)(X, Y), torch.tensor([1.0, 2.0, 0.0]) * (Y @ weights))


def test_a_linear_functional_takes_outputs_of_any_shape():
    output, weights = torch.randn(3, 2, 5), torch.randn(2, 5)
    torch.testing.assert_close(Linear(weights)(X, output), torch.einsum("bij,ij->b", output, weights))


def test_the_squared_output_distance_is_the_same_target_or_one_a_row():
    target = torch.tensor([1.0, 0.0, 2.0, 1.0])
    expected = torch.stack([((row - target) ** 2).sum() for row in Y])
    torch.testing.assert_close(SquaredOutputDistance(target)(X, Y), expected)
    torch.testing.assert_close(SquaredOutputDistance(target.expand(3, 4))(X, Y), expected)


@pytest.mark.parametrize("p", [1, 2, torch.inf])
def test_the_distance_of_the_input_is_the_row_norm(p):
    center = torch.randn(3, 2, 2)
    expected = torch.stack([(X[i] - center[i]).flatten().norm(p) for i in range(3)])
    torch.testing.assert_close(Distance(center, p)(X, Y), expected)


@pytest.mark.parametrize("p", [1, 2, torch.inf])
def test_at_the_centre_the_distance_and_its_gradient_are_zero(p):
    x = X.clone().requires_grad_()
    value = Distance(X.clone(), p)(x, Y)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    assert (value == 0).all()
    assert (gradient == 0).all()


def test_any_callable_is_an_objective_and_so_are_the_shipped_ones():
    assert isinstance(lambda x, y: y[:, 0], ObjectiveFunction)
    assert isinstance(Margin(torch.tensor([0])), ObjectiveFunction)
