"""FAB against Algorithm 1 of Croce & Hein (ICML 2020) in plain tensors, closed forms, linear programs and a grid."""

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import nn

from gatewise.domains import Box, Intersection, L1Ball, L2Ball, LinfBall
from gatewise.errors import InvalidInput
from gatewise.geometry import row_norm
from gatewise.methods import FastAdaptiveBoundary, Start
from gatewise.network import view
from gatewise.objectives import Distance, Margin
from gatewise.problem import Problem
from gatewise.solve import minimize
from gatewise.streams import RowStreams

from .trajectories import SEED, assert_same, gradient, network, points, trajectory

ROWS, N, WIDE = 4, 6, 1e3
BALLS = {"linf": (LinfBall, torch.inf, 1), "l2": (L2Ball, 2, 2), "l1": (L1Ball, 1, torch.inf)}
START = points(ROWS, N)

each_ball = pytest.mark.parametrize(("ball", "p", "dual"), BALLS.values(), ids=BALLS)


def _linear():
    torch.manual_seed(0)
    module = nn.Linear(N, 2).double().eval().requires_grad_(False)
    return module, module.weight[0] - module.weight[1]


@each_ball
@pytest.mark.parametrize("bias", [0.0, 0.1, 1.0])
def test_on_a_linear_classifier_one_step_ends_on_the_boundary_at_the_closed_forms_distance(ball, p, dual, bias):
    module, slope = _linear()
    labels = module(START).argmax(1)
    margin = Margin(labels)
    method = FastAdaptiveBoundary(step_size=1.0, bias=bias, steps=1)
    first, second = trajectory(method, module, ball(START, WIDE), margin, START, None)
    assert torch.equal(first, START)
    torch.testing.assert_close(margin(second, module(second)), torch.zeros(ROWS).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(row_norm(second - START, p), margin(START, module(START)) / slope.norm(dual))


@each_ball
def test_from_past_the_boundary_it_comes_back_to_it(ball, p, dual):
    module, _ = _linear()
    margin = Margin(1 - module(START).argmax(1))
    assert (margin(START, module(START)) < 0).all()
    method = FastAdaptiveBoundary(step_size=1.0, steps=1)
    _, second = trajectory(method, module, ball(START, WIDE), margin, START, None)
    torch.testing.assert_close(margin(second, module(second)), torch.zeros(ROWS).double(), rtol=0, atol=1e-12)


def _nearest_in_the_box(center, slope, gap):
    """The least t with `gap + <slope, z - center> = 0`, `|z - center| <= t` and z in [0, 1]: a linear program."""
    eye, one = np.eye(N), np.ones((N, 1))
    found = linprog(
        np.r_[np.zeros(N), 1.0],
        A_ub=np.r_[np.c_[eye, -one], np.c_[-eye, -one]],
        b_ub=np.r_[center, -center],
        A_eq=np.r_[slope, 0.0][None],
        b_eq=[slope @ center - gap],
        bounds=[(0, 1)] * N + [(0, None)],
    )
    assert found.status == 0
    return found.fun


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_step_that_the_box_cuts_is_the_exact_projection_onto_hyperplane_and_box(share):
    """The boundary lies at that share of how far the margin falls on the way to the box's best corner."""
    module, slope = _linear()
    labels = module(START).argmax(1)
    slopes = torch.where(labels[:, None] == 0, slope, -slope)
    fall = share * (torch.where(slopes > 0, START, START - 1) * slopes).sum(1)
    before = Margin(labels)(START, module(START))

    def gap(x, y):
        return Margin(labels)(x, y) - before + fall

    domain = Intersection(LinfBall(START, 1.0), Box(0.0, 1.0))
    _, second = trajectory(FastAdaptiveBoundary(step_size=1.0, steps=1), module, domain, gap, START, None)
    cut = ((second == 0) | (second == 1)).any(1)
    assert cut.any(), "the box cuts no step: the test says nothing"
    assert ((gap(second, module(second)) / fall).abs() < 0.01).all()
    for row in range(ROWS):
        exact = _nearest_in_the_box(START[row].numpy(), slopes[row].numpy(), fall[row].item())
        assert (second - START)[row].abs().max().item() == pytest.approx(exact, rel=0.02)


def test_where_the_boundary_is_out_of_reach_it_goes_to_the_sets_point_nearest_to_it():
    module, slope = _linear()
    labels = module(START).argmax(1)
    margin, radius = Margin(labels), 0.02
    assert (margin(START, module(START)) > 0.05).all()
    for ball, dual in ((LinfBall, 1), (L2Ball, 2)):
        last = trajectory(FastAdaptiveBoundary(), module, ball(START, radius), margin, START, 5)[-1]
        torch.testing.assert_close(margin(last, module(last)), margin(START, module(START)) - radius * slope.norm(dual))


def _by_hand(module, margin, start, p, steps, alpha_max=0.1, beta=0.9, eta=1.05):
    """One row of Algorithm 1 without a box: the hyperplane's nearest points have closed forms."""

    def onto_hyperplane(z, w, b):
        """The shortest delta with `<w, z + delta> + b = 0`."""
        off = (w * z).sum() + b
        return -off * w / (w**2).sum() if p == 2 else -off * w.sign() / w.abs().sum()

    x, visited, retreats = start, [start], 0
    for _ in range(steps):
        if margin(x, module(x)).item() <= 0:
            x, retreats = (1 - beta) * start + beta * x, retreats + 1
        w = gradient(module, margin, x)
        b = margin(x, module(x)).detach() - (w * x).sum()
        delta, delta_orig = onto_hyperplane(x, w, b), onto_hyperplane(start, w, b)
        size, size_orig = delta.norm(p=p).item(), delta_orig.norm(p=p).item()
        alpha = min(size / (size + size_orig), alpha_max)
        x = (1 - alpha) * (x + eta * delta) + alpha * (start + eta * delta_orig)
        visited.append(x)
    return visited, retreats


@pytest.mark.parametrize(("ball", "p"), [(LinfBall, torch.inf), (L2Ball, 2)])
@pytest.mark.parametrize("settings", [{}, {"bias": 0.4, "backward": 0.7, "step_size": 1.2}], ids=["paper", "others"])
def test_the_trajectory_is_that_of_algorithm_1(ball, p, settings):
    module = network(N, 14, 14, 4)
    labels = module(START).argmax(1)
    method = FastAdaptiveBoundary(**settings, final_search=0)
    found = trajectory(method, module, ball(START, WIDE), Margin(labels), START, 20)
    rows, retreats = [], 0
    for row in range(ROWS):
        margin, x = Margin(labels[row : row + 1]), START[row : row + 1]
        visited, times = _by_hand(module, margin, x, p, 20, method.bias, method.backward, method.step_size)
        rows.append(visited)
        retreats += times
    assert_same(found, [torch.cat(at_step) for at_step in zip(*rows, strict=True)])
    assert retreats > ROWS, "it hardly ever steps back: the test says nothing"


PLANE = network(2, 16, 16, 3)
PLACES = 2 * points(8, 2, seed=4) - 1


@pytest.fixture(scope="module")
def nearest():
    """From each place to the nearest point of a fine grid of another class, by norm: (8,)."""
    axis = torch.linspace(-3, 3, 1201, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        classes, labels = PLANE(grid).argmax(1), PLANE(PLACES).argmax(1)
    return {
        p: torch.stack([row_norm(grid[classes != labels[row]] - PLACES[row], p).min() for row in range(8)])
        for p in (2, torch.inf)
    }


@pytest.mark.parametrize(("ball", "p"), [(LinfBall, torch.inf), (L2Ball, 2)])
def test_with_a_distance_as_objective_it_finds_points_near_the_nearest(ball, p, nearest):
    labels = PLANE(PLACES).argmax(1)
    problem = Problem(view(PLANE), ball(PLACES, 2.0), Distance(PLACES, p), goal=Margin(labels))
    result = minimize(problem, FastAdaptiveBoundary(), PLACES, budget=60)
    found = result.goal_met
    assert found.sum() >= 7  # a search from one point may miss
    assert (PLANE(result.x).argmax(1) != labels)[found].all()
    torch.testing.assert_close(result.value[found], row_norm(result.x - PLACES, p)[found])
    assert (result.value > nearest[p] - 0.005)[found].all()
    farther = (result.value / nearest[p])[found]
    assert farther.max() < 1.08  # another piece of the boundary
    assert farther.median() < 1.02  # the same one, overshot


@pytest.mark.parametrize(("ball", "p"), [(LinfBall, torch.inf), (L2Ball, 2)])
def test_it_ends_no_farther_than_where_it_first_crossed_the_boundary(ball, p):
    module, start = network(N, 14, 14, 4), points(12, N)
    labels = module(start).argmax(1)
    problem = Problem(view(module), ball(start, WIDE), Distance(start, p), goal=Margin(labels))
    walk = FastAdaptiveBoundary().iterate(problem, Start(start, 40, RowStreams(SEED, range(12))))
    visited = [(iterate.value, Margin(labels)(iterate.x, iterate.output) <= 0) for iterate in walk]
    distances, crossed = (torch.stack(entries) for entries in zip(*visited, strict=True))
    first = crossed.double().argmax(0)
    result = minimize(problem, FastAdaptiveBoundary(), start, budget=40)
    rows = result.goal_met
    assert rows.sum() >= 8
    at_first = distances.gather(0, first[None])[0]
    assert (result.value <= at_first)[rows].all()
    assert (result.value < 0.97 * at_first)[rows].any(), "the first crossing is the best everywhere"


@pytest.mark.parametrize(("ball", "p"), [(LinfBall, torch.inf), (L2Ball, 2)])
def test_in_a_ball_it_finds_the_boundary_where_the_ball_reaches_it_and_none_where_not(ball, p, nearest):
    labels = PLANE(PLACES).argmax(1)
    for share, least, most in ((1.1, 6, 8), (0.98, 0, 0)):
        problem = Problem(view(PLANE), ball(PLACES, share * nearest[p]), Margin(labels), goal=Margin(labels))
        assert least <= minimize(problem, FastAdaptiveBoundary(), PLACES, budget=60).goal_met.sum() <= most


def test_a_flat_gap_leaves_a_row_where_it_is_and_a_nearly_flat_one_stays_within_the_numbers():
    def gap(x, y):
        return 1 + torch.tensor([0.0, 1e-44, 1.0]) * x.sum(1)

    start = torch.full((3, 2), 0.5)
    for domain in (LinfBall(start, 0.5), L2Ball(start, 0.5), Box(-torch.inf, torch.inf)):
        walk = trajectory(FastAdaptiveBoundary(), nn.Identity().eval(), domain, gap, start, 5)
        assert all(torch.equal(x[0], start[0]) for x in walk)
        assert all(x.isfinite().all() for x in walk)


def test_one_gradient_a_step_is_all_it_takes():
    module = network(N, 14, 14, 4)
    margin = Margin(module(START).argmax(1))
    problem = Problem(view(module), L2Ball(START, WIDE), Distance(START, 2), goal=margin)
    result = minimize(problem, FastAdaptiveBoundary(), START, budget=30)
    assert result.backwards_per_row == 30
    assert result.steps == 31


@pytest.mark.parametrize("name", ["bias", "backward"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_gives_a_sentence(name, value):
    with pytest.raises(InvalidInput, match=f"{name} must lie between 0 and 1, got {value}"):
        FastAdaptiveBoundary(**{name: value})
