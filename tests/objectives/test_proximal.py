"""Proximal steps against a general minimiser, and the refusals."""

import pytest
import torch
from scipy.optimize import minimize

from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.objectives import (
    CrossEntropy,
    DifferenceOfLogitsRatio,
    Linear,
    Margin,
    MarginTo,
    Penalised,
    SquaredOutputDistance,
    TargetedMargin,
    proximal_step,
)

LABELS = torch.tensor([0, 2, 1])
OTHERS = torch.tensor([3, 0, 0])
CLASSES = 4
WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
OBJECTIVES = {
    "linear": Linear(WEIGHTS),
    "minus linear": -Linear(WEIGHTS),
    "squared": SquaredOutputDistance(WEIGHTS),
    "margin": Margin(LABELS),
    "minus margin": -Margin(LABELS),
    "targeted margin": TargetedMargin(LABELS),
    "minus targeted margin": -TargetedMargin(LABELS),
    "margin to": MarginTo(LABELS, OTHERS),
    "minus margin to": -MarginTo(LABELS, OTHERS),
    "cross-entropy": CrossEntropy(LABELS),
    "minus cross-entropy": -CrossEntropy(LABELS),
}


def _centre(scale=1.0):
    return scale * torch.randn(3, CLASSES, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _augmented(objective, y, centre, rho):
    return objective(torch.empty(3), y) + rho / 2 * (y - centre).square().sum(1)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("size", [1.0, 20.0])
@pytest.mark.parametrize("rho", [1e-5, 0.1, 10.0])
def test_no_point_that_a_general_minimiser_finds_is_better(name, size, rho):
    objective, centre, weight = OBJECTIVES[name], _centre(size), torch.full((3,), rho, dtype=torch.float64)
    found = proximal_step(objective, centre, weight)
    best = _augmented(objective, found, centre, weight)
    for row in range(3):

        def value(y, row=row):
            every = found.clone()
            every[row] = torch.from_numpy(y)
            return _augmented(objective, every, centre, weight)[row].item()

        other = minimize(value, centre[row].numpy(), method="Powell", options={"maxfev": 600})
        assert best[row].item() <= other.fun + 1e-7 * (1 + abs(other.fun))


def test_rho_is_each_rows_own_and_rows_are_apart():
    rho, centre = torch.tensor([1e-4, 0.1, 3.0], dtype=torch.float64), _centre(5.0)
    for objective in OBJECTIVES.values():
        together = proximal_step(objective, centre, rho)
        for row in range(3):
            same = proximal_step(objective, centre, rho[row].expand(3))
            torch.testing.assert_close(same[row], together[row], rtol=1e-9, atol=1e-9)


def test_cross_entropy_is_stationary_to_rounding_even_where_rho_is_tiny_and_the_class_far_behind():
    centre, rho = torch.tensor([[0.0, 60.0, 59.0, -5.0]], dtype=torch.float64), torch.tensor([1e-6]).double()
    y = proximal_step(CrossEntropy(torch.tensor([0])), centre, rho)
    gradient = y.softmax(1) - torch.tensor([1.0, 0, 0, 0]) + rho * (y - centre)
    assert gradient.abs().max() < 1e-12


def test_float32_stays_float32():
    for objective in (CrossEntropy(LABELS), -CrossEntropy(LABELS), Margin(LABELS)):
        assert proximal_step(objective, _centre().float(), torch.ones(3)).dtype is torch.float32


def test_an_objective_may_bring_its_own():
    class Absolute:
        def __call__(self, x, y):
            return y.abs().sum(1)

        def proximal_step(self, centre, rho):
            return centre.sign() * (centre.abs() - 1 / rho[:, None]).clamp_min(0)

    found = proximal_step(Absolute(), torch.tensor([[3.0, -0.2]]), torch.tensor([1.0]))
    assert found.tolist() == [[2.0, 0.0]]


@pytest.mark.parametrize(("objective", "name"), [
    (DifferenceOfLogitsRatio(LABELS), "DifferenceOfLogitsRatio"),
    (-SquaredOutputDistance(WEIGHTS), "minus SquaredOutputDistance"),
    (lambda x, y: y[:, 0], "function"),
])  # fmt: skip
def test_what_has_none_is_refused_by_name(objective, name):
    with pytest.raises(UnsupportedProblem, match=f"No proximal step is known for {name}; use Linear, Margin"):
        proximal_step(objective, _centre(), torch.ones(3))


def test_a_penalty_adds_half_its_weight_times_the_squared_distance():
    x, origin, y = torch.tensor([[3.0, 4.0]]), torch.zeros(2), torch.tensor([[1.0, 2.0]])
    assert Penalised(Linear(torch.ones(2)), origin, 0.2)(x, y).item() == pytest.approx(3.0 + 0.1 * 25)
    with pytest.raises(InvalidInput, match="weight of a penalty must be a finite number, at least 0, got -1"):
        Penalised(Linear(torch.ones(2)), origin, -1.0)
