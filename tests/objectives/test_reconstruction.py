"""Squared errors through a measurement and a smooth end, total variation, sums, and how they bend."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.measurements import RandomProjection
from gatewise.objectives import (
    CrossEntropy,
    LeastSquares,
    Linear,
    Penalised,
    SquaredError,
    Sum,
    ToPixels,
    TotalVariation,
    curvature,
)

DRAW = torch.Generator().manual_seed(0)
X = torch.randn(3, 4, generator=DRAW, dtype=torch.float64)
Y = torch.randn(3, 36, generator=DRAW, dtype=torch.float64)
IMAGES = torch.rand(3, 1, 6, 6, generator=DRAW, dtype=torch.float64)
PIXELS = ToPixels((1, 6, 6), "tanh", -1.0, 1.0)
MEASURE = RandomProjection(7)


def test_a_squared_error_is_a_mean_over_what_is_measured():
    plain = SquaredError(IMAGES.flatten(1))
    torch.testing.assert_close(plain(X, Y), (Y - IMAGES.flatten(1)).square().mean(1))
    seen = SquaredError(MEASURE(IMAGES), weight=2.0, measurement=MEASURE, output_map=PIXELS)
    apart = MEASURE((Y.tanh().reshape(3, 1, 6, 6) + 1) / 2) - MEASURE(IMAGES)
    torch.testing.assert_close(seen(X, Y), 2 * apart.square().mean(1))
    torch.testing.assert_close(seen.measured(Y), apart + seen.target)


def test_a_weight_may_be_the_rows_own():
    weights = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    one = SquaredError(IMAGES.flatten(1))(X, Y)
    torch.testing.assert_close(SquaredError(IMAGES.flatten(1), weight=weights)(X, Y), weights * one)


@pytest.mark.parametrize(("end", "low", "high"), [("none", 0.0, 2.0), ("tanh", -1.0, 1.0), ("sigmoid", 0.0, 1.0)])
def test_pixels_are_the_output_between_black_and_white(end, low, high):
    ends = {"none": Y, "tanh": Y.tanh(), "sigmoid": Y.sigmoid()}
    expected = ((ends[end] - low) / (high - low)).reshape(3, 1, 6, 6)
    torch.testing.assert_close(ToPixels((1, 6, 6), end, low, high)(Y), expected)


def test_images_of_another_size_are_refused():
    with pytest.raises(InvalidInput, match=r"\(1, 5, 5\)"):
        ToPixels((1, 5, 5))(Y)


def test_total_variation_of_an_edge_is_its_height_and_of_a_flat_image_0():
    flat = torch.full((2, 1, 5, 4), 0.7, dtype=torch.float64)
    edge = torch.cat([flat[..., :2], flat[..., :2] - 0.5], 3)
    assert TotalVariation(3.0)(flat, Y[:2]).tolist() == pytest.approx([0.0, 0.0])
    assert TotalVariation(3.0)(edge, Y[:2]).tolist() == pytest.approx([3 * 5 * 0.499 / 20] * 2, rel=1e-3)
    x = flat.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(TotalVariation(1.0)(x, Y[:2]).sum(), x)
    assert (gradient == 0).all()


def test_total_variation_is_that_of_images():
    with pytest.raises(InvalidInput, match=r"\(3, 4\)"):
        TotalVariation(1.0)(X, Y)


def test_a_sum_adds():
    terms = (Linear(torch.ones(36, dtype=torch.float64)), lambda x, y: x[:, 0])
    torch.testing.assert_close(Sum(terms)(X, Y), Y.sum(1) + X[:, 0])


class _Both(LeastSquares):
    """A residual of input and output."""

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cat([x.sin(), y[:, :4] * x], 1)


def _dense(objective, residual, row: int) -> Tensor:
    """2 R'^T R' of one row by autograd's own Jacobian, in (x, y)."""
    point = torch.cat([X[row], Y[row]])
    jacobian = torch.autograd.functional.jacobian(lambda p: residual(p[None, :4], p[None, 4:])[0], point)
    return 2 * jacobian.T @ jacobian


@pytest.mark.parametrize("case", ["both", "measured"])
def test_the_curvature_of_a_sum_of_squares_is_gauss_and_newtons(case):
    objective = _Both() if case == "both" else SquaredError(MEASURE(IMAGES[:1]), 3.0, MEASURE, PIXELS)
    px, py = torch.randn_like(X), torch.randn_like(Y)
    of_x, of_y = curvature(objective, X, Y)(px, py)
    for row in range(3):
        expected = _dense(objective, objective.residual, row) @ torch.cat([px[row], py[row]])
        torch.testing.assert_close(torch.cat([of_x[row], of_y[row]]), expected)


def test_the_curvature_of_another_objective_is_its_hessian():
    labels = torch.tensor([0, 3, 35])
    objective = CrossEntropy(labels)
    px, py = torch.randn_like(X), torch.randn_like(Y)
    of_x, of_y = curvature(objective, X, Y)(px, py)
    p = Y.softmax(1)
    torch.testing.assert_close(of_y, p * py - p * (p * py).sum(1, keepdim=True))
    assert (of_x == 0).all()


@pytest.mark.parametrize(
    "flat", [Linear(torch.ones(36, dtype=torch.float64)), lambda x, y: x[:, 0], lambda x, y: 0 * x[:, 0].detach()]
)
def test_what_is_linear_does_not_bend(flat):
    of_x, of_y = curvature(flat, X, Y)(torch.ones_like(X), torch.ones_like(Y))
    assert (of_x == 0).all()
    assert (of_y == 0).all()


def test_the_curvature_of_sums_and_penalties_is_the_sum():
    first, second = SquaredError(IMAGES.flatten(1)), CrossEntropy(torch.tensor([1, 2, 3]))
    px, py = torch.randn_like(X), torch.randn_like(Y)
    of_x, of_y = curvature(Penalised(Sum((first, second)), torch.zeros_like(X), 0.5), X, Y)(px, py)
    torch.testing.assert_close(of_x, 0.5 * px)
    torch.testing.assert_close(of_y, curvature(first, X, Y)(px, py)[1] + curvature(second, X, Y)(px, py)[1])


def test_the_proximal_step_without_an_end_is_its_closed_form():
    target, rho = IMAGES.flatten(1), torch.tensor([0.01, 0.3, 5.0], dtype=torch.float64)
    found = SquaredError(target, weight=2.0).proximal_step(Y, rho)
    a, r = 2 * 2.0 / 36, rho[:, None]
    torch.testing.assert_close(found, (a * target + r * Y) / (a + r), rtol=0, atol=1e-4)


@pytest.mark.parametrize("end", ["tanh", "sigmoid"])
def test_no_entry_nearby_is_better_than_the_proximal_step(end):
    low = -1.0 if end == "tanh" else 0.0
    objective = SquaredError(IMAGES.round(), output_map=ToPixels((1, 6, 6), end, low, 1.0))
    rho = torch.tensor([1e-5, 1e-3, 0.1], dtype=torch.float64)

    def value(y: Tensor) -> Tensor:
        return objective(X, y) + rho / 2 * (y - 3 * Y).square().sum(1)

    found = objective.proximal_step(3 * Y, rho)
    for seed in range(200):
        draw = torch.Generator().manual_seed(seed)
        other = found + 10 ** (-seed % 4) * torch.randn(Y.shape, generator=draw, dtype=torch.float64)
        assert (value(found) <= value(other) + 1e-9).all()


def test_the_proximal_step_of_a_measured_image_is_refused():
    with pytest.raises(UnsupportedProblem, match="whole image"):
        SquaredError(MEASURE(IMAGES), measurement=MEASURE).proximal_step(Y, torch.ones(3))
