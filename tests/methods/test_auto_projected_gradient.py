"""APGD against Algorithm 1 of Croce & Hein (ICML 2020) in plain Python, one row at a time."""

import math
from fractions import Fraction

import pytest
import torch

from gatewise.domains import L2Ball, LinfBall
from gatewise.methods import AutoProjectedGradient
from gatewise.methods.auto_projected_gradient import _checkpoints
from gatewise.objectives import CrossEntropy, DifferenceOfLogitsRatio, Margin

from .trajectories import assert_same, gradient, network, points, trajectory

NET = network(6, 14, 14, 4)
START = points(5, 6)
LABELS = torch.tensor([0, 1, 2, 3, 0])
RADIUS = 0.5


def _published_checkpoints(steps):
    """w_j = ceil(p_j N), p_0 = 0, p_1 = 0.22, p_{j+1} = p_j + max(p_j - p_{j-1} - 0.03, 0.06)."""
    p = [Fraction(0), Fraction(22, 100)]
    while p[-1] <= 1:
        p.append(p[-1] + max(p[-1] - p[-2] - Fraction(3, 100), Fraction(6, 100)))
    return [math.ceil(share * steps) for share in p[1:-1]]


def _apgd(objective_of, start, steps, project, direction):
    """One row: the points visited, and how often the step was halved. The loss goes down here, so signs turn.

    A checkpoint is looked at as soon as the point's own value is known, as in the authors' code: a step that would be
    thrown away is not taken.
    """
    step_size, alpha, rho = 2 * RADIUS, 0.75, 0.75
    checkpoints, halvings = _published_checkpoints(steps), 0
    xs, x, before = [], start, start
    values, best_value, best_x, best_gradient = [], math.inf, None, None
    window_start, value_then, halved_then = 0, None, True  # nothing to compare with at the first checkpoint
    for k in range(steps):
        xs.append(x)
        value, g = objective_of(x)
        values.append(value)
        if value < best_value:
            best_value, best_x, best_gradient = value, x, g
        if k in checkpoints:
            falls = sum(values[i + 1] < values[i] for i in range(window_start, k))
            first = falls < rho * (k - window_start)
            second = not halved_then and best_value == value_then
            halved_then = first or second
            if halved_then:
                step_size, halvings = step_size / 2, halvings + 1
                x, g = best_x, best_gradient
                values[-1] = best_value
            window_start, value_then = k, best_value
        z = project(x - step_size * direction(g))
        after = z if k == 0 else project(x + alpha * (z - x) + (1 - alpha) * (x - before))
        before, x = x, after
    return [*xs, x], halvings


def _linf(row):
    return lambda x: torch.clamp(x, START[row : row + 1] - RADIUS, START[row : row + 1] + RADIUS), torch.sign


def _l2(row):
    def project(x):
        offset = x - START[row : row + 1]
        return START[row : row + 1] + offset * min(1.0, RADIUS / max(offset.norm().item(), 1e-300))

    return project, lambda g: g / g.norm()


@pytest.mark.parametrize("steps", [10, 50, 100])
@pytest.mark.parametrize(("ball", "geometry"), [(LinfBall, _linf), (L2Ball, _l2)], ids=["linf", "l2"])
@pytest.mark.parametrize("objective", [Margin, DifferenceOfLogitsRatio, lambda labels: -CrossEntropy(labels)])
def test_the_trajectory_is_that_of_algorithm_1(steps, ball, geometry, objective):
    found = trajectory(AutoProjectedGradient(), NET, ball(START, RADIUS), objective(LABELS), START, steps)
    rows, halvings = [], []
    for row in range(5):
        own = objective(LABELS[row : row + 1])

        def objective_of(x, own=own):
            return own(x, NET(x)).item(), gradient(NET, own, x)

        visited, halved = _apgd(objective_of, START[row : row + 1], steps, *geometry(row))
        rows.append(visited)
        halvings.append(halved)
    assert_same(found, [torch.cat(at_step) for at_step in zip(*rows, strict=True)])
    assert min(halvings) >= 1, "no step was ever halved: the test says nothing"


@pytest.mark.parametrize("steps", [1, 2, 5, 20, 100, 1000])
def test_checkpoints_are_the_papers(steps):
    assert _checkpoints(steps) == frozenset(_published_checkpoints(steps))


def test_at_100_steps_the_first_checkpoints_are_those_of_the_paper():
    assert sorted(_checkpoints(100))[:6] == [22, 41, 57, 70, 80, 87]


def test_it_spends_exactly_the_budget():
    assert len(trajectory(AutoProjectedGradient(), NET, LinfBall(START, 0.1), Margin(LABELS), START, 37)) == 38
