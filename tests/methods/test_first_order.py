"""Each first-order method against the same method in a few lines of plain tensors."""

import math

import pytest
import torch

from gatewise.domains import Box, L2Ball, LinfBall
from gatewise.methods import Adagrad, Adam, GradientDescent, PerturbedGradientDescent, ProjectedGradient
from gatewise.objectives import CrossEntropy, Margin
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

    assert_same(found, _walk(step)(objective))


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
