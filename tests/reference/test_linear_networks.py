"""On a linear network every set has a closed-form optimum, and every method reaches it."""

import pytest
import torch
from torch import nn

from gatewise.domains import Box, Intersection, L1Ball, L2Ball, LinfBall
from gatewise.network import view
from gatewise.objectives import Linear, Margin
from gatewise.problem import Problem
from gatewise.solve import minimize, never

from .attackers import NEED_BOX, NEED_MARGIN, attackers

N, ROWS, RADIUS = 8, 3, 0.3


class AllOn(nn.Sequential):
    """Linear wherever it is asked: its gates are all on, far from their hyperplanes. Two classes."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Linear(N, 12), nn.ReLU(), nn.Linear(12, 2))
        with torch.no_grad():
            self[0].bias.fill_(10.0)
            self[2].weight.copy_(torch.rand(2, 12) - 0.5)
        self.double().eval()

    @property
    def slope(self):
        """Of the margin of class 0."""
        return (self[2].weight[0] - self[2].weight[1]) @ self[0].weight


NETWORK = AllOn().requires_grad_(False)
CENTER = torch.rand(ROWS, N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.zeros(ROWS, dtype=torch.int64)


def _value(x):
    y = NETWORK(x)
    return y[:, 0] - y[:, 1]


def _in_linf_and_box(w):
    low, high = (CENTER - RADIUS).clamp(min=0), (CENTER + RADIUS).clamp(max=1)
    return (torch.where(w > 0, low, high) - CENTER) @ w


def _in_l1_and_box(w):
    """Greedy: the steepest coordinates move first, each as far as the box lets it."""
    gains = []
    for row in CENTER:
        left, gain = RADIUS, 0.0
        for i in w.abs().argsort(descending=True).tolist():
            move = min(left, (row[i] if w[i] > 0 else 1 - row[i]).item())
            left, gain = left - move, gain - move * w[i].abs().item()
        gains.append(gain)
    return torch.tensor(gains, dtype=torch.float64)


def _in_l2_and_box(w):
    """The point is clip(-t w) for the t at which its length is the radius: bisection."""
    gains = []
    for row in CENTER:
        low, high = 0.0, 1e6
        for _ in range(200):
            middle = (low + high) / 2
            step = torch.minimum(torch.maximum(-middle * w, -row), 1 - row)
            low, high = (middle, high) if step.norm() < RADIUS else (low, middle)
        gains.append((step @ w).item())
    return torch.tensor(gains, dtype=torch.float64)


# The set, its least <w, x - centre>, and the share of it that a method may leave.
SETS = {
    "linf": (LinfBall(CENTER, RADIUS), lambda w: (-RADIUS * w.abs().sum()).expand(ROWS), 1e-6),
    "l2": (L2Ball(CENTER, RADIUS), lambda w: (-RADIUS * w.norm()).expand(ROWS), 1e-6),
    "l1": (L1Ball(CENTER, RADIUS), lambda w: (-RADIUS * w.abs().max()).expand(ROWS), 1e-6),
    "linf and box": (Intersection(LinfBall(CENTER, RADIUS), Box(0.0, 1.0)), _in_linf_and_box, 1e-6),
    "l2 and box": (Intersection(L2Ball(CENTER, RADIUS), Box(0.0, 1.0)), _in_l2_and_box, 1e-3),
    "l1 and box": (Intersection(L1Ball(CENTER, RADIUS), Box(0.0, 1.0)), _in_l1_and_box, 1e-3),
}


# Coordinate-scaled steps have another resting point on a round ball than the gradient (the projection is Euclidean).
BY_COORDINATE, THEIR_SHARE = ("adam", "adagrad", "alma"), 0.5
# A random search by whole steps finds corners exactly, and comes near the optimum of a round ball.
BY_WHOLE_STEPS, ITS_SHARE = ("square",), 0.1
# Draws come near it, in every set.
BY_DRAWS = {"random-search": 0.5, "cem": 0.2}


@pytest.mark.parametrize(
    ("name", "method"),
    [
        (name, method)
        for name in SETS
        for method in attackers(RADIUS)
        # Searches for nearest points by regions stop at the boundary.
        if method not in NEED_MARGIN and (name[:4] == "linf" or method not in NEED_BOX)
    ],
)
def test_every_method_reaches_the_closed_form_and_none_beats_it(name, method):
    domain, gain, tolerance = SETS[name]
    if method in BY_COORDINATE and not name.startswith("linf"):
        tolerance = THEIR_SHARE
    if method in BY_WHOLE_STEPS and name.startswith("l2"):
        tolerance = ITS_SHARE
    tolerance = max(tolerance, BY_DRAWS.get(method, 0.0))
    problem = Problem(view(NETWORK), domain, Margin(LABELS))
    result = minimize(problem, attackers(RADIUS)[method], CENTER, budget=240, stop=never)
    start, least = _value(CENTER), gain(NETWORK.slope)
    exact = start + least
    assert (result.value >= exact - 1e-9).all()
    assert (result.value <= exact - tolerance * least).all()


@pytest.mark.parametrize("name", SETS)
def test_the_closed_forms_are_the_sets_own_support_functions(name):
    domain, gain, _ = SETS[name]
    w = NETWORK.slope
    least = -domain.support((-w).expand(ROWS, N)) - CENTER @ w
    torch.testing.assert_close(least, gain(w), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["linf", "l2", "l1", "linf and box"])
def test_a_network_without_gates_is_solved_in_one_steepest_step(name):
    """The one-step form of pgd is FGSM and its l2 and l1 kin: exact on anything linear."""
    flat = nn.Linear(N, 1).double().eval().requires_grad_(False)
    domain, gain, _ = SETS[name]
    problem = Problem(view(flat), domain, Linear(torch.ones(1, dtype=torch.float64)))
    result = minimize(problem, attackers(RADIUS)["pgd"], CENTER, budget=1)
    torch.testing.assert_close(result.value, flat(CENTER)[:, 0] + gain(flat.weight[0]), rtol=0, atol=1e-9)
