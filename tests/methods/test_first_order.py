"""Each first-order method against the same method in a few lines of plain tensors."""

import math

import pytest
import torch
from torch import nn

from gatewise.domains import Box, L2Ball, LinfBall
from gatewise.methods import Adagrad, Adam, GradientDescent, PerturbedGradientDescent, ProjectedGradient
from gatewise.network import view
from gatewise.objectives import CrossEntropy, Linear, Margin
from gatewise.problem import Problem
from gatewise.result import Status
from gatewise.solve import minimize
from gatewise.streams import RowStreams

from .trajectories import SEED, assert_same, gradient, network, points, trajectory

STEPS = 30
NET = network(6, 12, 9, 3)
START = points(4, 6)
LABELS = torch.tensor([0, 1, 2, 0])
OBJECTIVES = {"cross-entropy": -CrossEntropy(LABELS), "margin": Margin(LABELS)}
FREE = Box(-1e6, 1e6)

each_objective = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
each_schedule = pytest.mark.parametrize("schedule", ["constant", "cosine"])


def _decay(schedule, step):
    return 0.5 * (1 + math.cos(math.pi * step / STEPS)) if schedule == "cosine" else 1.0


def _walk(step):
    """START and the points that `step(x, gradient, t)` leads to."""

    def run(objective):
        xs = [START]
        for t in range(STEPS):
            xs.append(step(xs[-1], gradient(NET, objective, xs[-1]), t))
        return xs

    return run


def _until_every_row_came_back(xs):
    """A walk with a constant step ends where every row is at a point that it has been at before."""
    for end, last in enumerate(xs):
        if all(any((x[i] - row).abs().max() < 1e-9 for x in xs[:end]) for i, row in enumerate(last)):
            return xs[: end + 1]
    return xs


def _unit(g):
    return g / g.norm(dim=1, keepdim=True)


def _into_l2_ball(x, radius):
    offset = x - START
    return START + offset * (radius / offset.norm(dim=1, keepdim=True)).clamp(max=1)


@each_objective
@each_schedule
@pytest.mark.parametrize("normalise", [True, False])
def test_gradient_descent(objective, schedule, normalise):
    method = GradientDescent(step_size=0.07, normalise=normalise, schedule=schedule)
    found = trajectory(method, NET, Box(0.0, 1.0), objective, START, STEPS)

    def step(x, g, t):
        return (x - _decay(schedule, t) * 0.07 * (_unit(g) if normalise else g)).clamp(0, 1)

    assert_same(found, _walk(step)(objective))


@each_objective
@each_schedule
def test_projected_gradient_in_a_linf_ball_takes_signs(objective, schedule):
    method = ProjectedGradient(step_size=0.4, schedule=schedule)
    found = trajectory(method, NET, LinfBall(START, 0.3), objective, START, STEPS)

    def step(x, g, t):
        return START + (x - _decay(schedule, t) * 0.4 * 0.3 * g.sign() - START).clamp(-0.3, 0.3)

    expected = _walk(step)(objective)
    assert_same(found, expected if schedule == "cosine" else _until_every_row_came_back(expected))


class Valley(nn.Module):
    """`|x|` in one dimension, by two gates."""

    def forward(self, x):
        return torch.relu(x) + torch.relu(-x)


def _in_the_valley(method, starts, budget):
    """The result, and the points: short binary fractions, so that a walk across the kink comes back to the last bit."""
    start = torch.tensor(starts, dtype=torch.float64)[:, None]
    valley, domain, height = Valley().eval(), LinfBall(torch.zeros_like(start), 4.0), Linear(torch.ones(1).double())
    result = minimize(Problem(view(valley), domain, height), method, start, budget=budget)
    return result, trajectory(method, valley, domain, height, start, budget)


def test_a_constant_step_ends_where_every_row_has_come_back_with_the_budget_unspent():
    method = ProjectedGradient(step_size=1 / 16, schedule="constant")  # steps of 0.25
    result, points = _in_the_valley(method, [0.375, 1.125, -0.375], 50)
    walks = torch.stack(points)[:, :, 0].T.tolist()
    assert walks == [
        [0.375, 0.125, -0.125, 0.125, -0.125, 0.125, -0.125],  # goes to and fro while others are on their way
        [1.125, 0.875, 0.625, 0.375, 0.125, -0.125, 0.125],
        [-0.375, -0.125, 0.125, -0.125, 0.125, -0.125, 0.125],
    ]
    assert result.status == (Status.FINISHED,) * 3
    assert result.backwards_per_row == 6
    assert result.value.tolist() == [0.125] * 3


def test_a_walk_that_ends_at_a_cycle_is_the_walk_that_would_go_round():
    method = ProjectedGradient(step_size=3 / 64, schedule="constant")
    _, points = _in_the_valley(method, [1.25, -0.5625], 40)
    x, expected = torch.tensor([[1.25], [-0.5625]], dtype=torch.float64), []
    for _ in range(41):
        expected.append(x)
        x = x - 4 * 3 / 64 * x.sign()
    assert len(points) < 41
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(points, expected, strict=False))
    seen = [{x[row].item() for x in points} for row in range(2)]
    assert all(x[row].item() in seen[row] for x in expected for row in range(2)), "what was left out is new"


def test_a_row_that_comes_back_does_not_end_the_run_of_another():
    method = ProjectedGradient(step_size=1 / 16, schedule="constant")
    result, points = _in_the_valley(method, [0.125, 3.875], 12)
    assert len(points) == 13
    assert result.backwards_per_row == 12
    assert result.status == (Status.BUDGET_SPENT,) * 2


def test_a_corner_where_a_row_rests_is_a_point_that_it_comes_back_to():
    start = torch.zeros(1, 2, dtype=torch.float64)
    slope = Linear(torch.tensor([1.0, -2.0], dtype=torch.float64))
    problem = Problem(view(nn.Identity().eval()), LinfBall(start, 1.0), slope)
    rested = minimize(problem, ProjectedGradient(step_size=0.5, schedule="constant"), start, budget=30)
    assert rested.x.tolist() == [[-1.0, 1.0]]
    assert rested.backwards_per_row == 3
    assert minimize(problem, ProjectedGradient(), start, budget=30).backwards_per_row == 30, "a cosine never ends early"


@each_objective
@each_schedule
def test_projected_gradient_in_an_l2_ball_takes_unit_steps(objective, schedule):
    method = ProjectedGradient(step_size=0.4, schedule=schedule)
    found = trajectory(method, NET, L2Ball(START, 0.3), objective, START, STEPS)

    def step(x, g, t):
        return _into_l2_ball(x - _decay(schedule, t) * 0.4 * 0.3 * _unit(g), 0.3)

    assert_same(found, _walk(step)(objective))


def test_radii_of_each_row_scale_its_steps():
    radius = torch.tensor([0.05, 0.1, 0.2, 0.4], dtype=torch.float64)
    found = trajectory(ProjectedGradient(), NET, L2Ball(START, radius), OBJECTIVES["margin"], START, STEPS)

    def step(x, g, t):
        return _into_l2_ball(x - _decay("cosine", t) * radius[:, None] * _unit(g), radius[:, None])

    assert_same(found, _walk(step)(OBJECTIVES["margin"]))


def test_fgsm_is_its_one_step_form():
    method = ProjectedGradient.preset("fgsm")
    found = trajectory(method, NET, LinfBall(START, 0.1), OBJECTIVES["cross-entropy"], START, 50)
    assert len(found) == 2
    expected = START - 0.1 * gradient(NET, OBJECTIVES["cross-entropy"], START).sign()
    torch.testing.assert_close(found[1], expected, rtol=0, atol=1e-12)


@each_objective
@each_schedule
def test_adam_is_pytorchs_adam_where_nothing_is_projected(objective, schedule):
    lr = 0.03
    found = trajectory(Adam(step_size=lr / 1e6, schedule=schedule), NET, FREE, objective, START, STEPS)
    x = START.clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=lr, eps=0.0)
    expected = [START]
    for t in range(STEPS):
        optimizer.param_groups[0]["lr"] = lr * _decay(schedule, t)
        x.grad = gradient(NET, objective, x)
        optimizer.step()
        expected.append(x.detach().clone())
    assert_same(found, expected)


@each_objective
def test_adagrad_is_pytorchs_adagrad_where_nothing_is_projected(objective):
    lr = 0.05
    found = trajectory(Adagrad(step_size=lr / 1e6), NET, FREE, objective, START, STEPS)
    x = START.clone().requires_grad_()
    optimizer = torch.optim.Adagrad([x], lr=lr, eps=0.0)
    expected = [START]
    for _ in range(STEPS):
        x.grad = gradient(NET, objective, x)
        optimizer.step()
        expected.append(x.detach().clone())
    assert_same(found, expected)


@pytest.mark.parametrize("method", [Adam(step_size=0.5), Adagrad(step_size=0.8)], ids=lambda method: method.name)
def test_adaptive_methods_project_after_each_step_and_keep_their_memory(method):
    ball, objective = LinfBall(START, 0.1), OBJECTIVES["margin"]
    found = trajectory(method, NET, ball, objective, START, STEPS)
    m, v, squares, expected = 0, 0, 0, [START]
    for t in range(STEPS):
        g = gradient(NET, objective, expected[-1])
        if isinstance(method, Adam):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            move = _decay("cosine", t) * 0.5 * (m / (1 - 0.9 ** (t + 1))) / (v / (1 - 0.999 ** (t + 1))).sqrt()
        else:
            squares = squares + g**2
            move = 0.8 * g / squares.sqrt()
        expected.append(START + (expected[-1] - 0.1 * move - START).clamp(-0.1, 0.1))
    assert_same(found, expected)


@each_schedule
def test_perturbed_gradient_descent_kicks_the_rows_that_are_stuck(schedule):
    method = PerturbedGradientDescent(step_size=0.2, kick_size=0.3, patience=3, progress=0.05, schedule=schedule)
    objective = OBJECTIVES["margin"]
    found = trajectory(method, NET, Box(0.0, 1.0), objective, START, STEPS)

    streams = [RowStreams(SEED, [row]) for row in range(4)]
    x, best, since, kicks, expected = START, [math.inf] * 4, [0] * 4, 0, [START]
    for t in range(STEPS):
        g, decay = gradient(NET, objective, x), _decay(schedule, t)
        moved = x - decay * 0.2 * _unit(g)
        for row, value in enumerate(objective(x, NET(x)).tolist()):
            if value < best[row] - (0.05 * abs(best[row]) if math.isfinite(best[row]) else 0):
                best[row], since[row] = value, 0
            else:
                since[row] += 1
            if since[row] >= 3:
                since[row], kicks = 0, kicks + 1
                length = streams[row].uniform(torch.zeros(1, 1, dtype=torch.float64)).item() ** (1 / 6)
                way = streams[row].normal(torch.zeros(1, 6, dtype=torch.float64))[0]
                moved[row] += decay * 0.3 * length * way / way.norm()
        x = moved.clamp(0, 1)
        expected.append(x)
    assert kicks > 4
    assert_same(found, expected)


@pytest.mark.parametrize("kind", [ProjectedGradient], ids=lambda kind: kind.name)
def test_a_random_start_is_a_random_point_of_the_set(kind):
    ball = LinfBall(START, 0.1)
    first = trajectory(kind(random_start=True), NET, ball, OBJECTIVES["margin"], START, 5)[0]
    assert torch.equal(first, ball.sample(RowStreams(SEED, range(4)), START))
    again = trajectory(kind(random_start=True), NET, ball, OBJECTIVES["margin"], START, 5, seed=SEED + 1)[0]
    assert not torch.equal(first, again)
