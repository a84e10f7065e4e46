"""Gate annealing against its loop written again by hand, and where its width ends."""

from __future__ import annotations

import math

import pytest
import torch

from gatewise.domains import Box, Intersection, LinfBall
from gatewise.errors import InvalidInput
from gatewise.methods import GateAnnealing, ProjectedGradient, Start
from gatewise.network import view
from gatewise.objectives import Margin
from gatewise.problem import Problem
from gatewise.streams import RowStreams

from .trajectories import SEED, assert_same, network, points, trajectory

SIZES, STEPS, RADIUS = (4, 12, 10, 3), 20, 0.3
START = points(3, 4)
LABELS = torch.zeros(3, dtype=torch.int64)
DOMAIN = Intersection(LinfBall(START, RADIUS), Box(0.0, 1.0))


def _width_with(linear, x, z, share: float) -> float:
    """The width that has this share of the neurons within one deviation."""
    distances = []
    for layer in linear[:-1]:
        x, z = layer.weight @ x + layer.bias, layer.weight @ z
        distances += (x / z).abs().tolist()
        z, x = z * (x > 0), x.relu()
    return sorted(distances)[round(share * len(distances)) - 1]


def _by_hand(module, method: GateAnnealing, row: int) -> list[torch.Tensor]:
    """The loop for one row: weights as matrices, the smoothed gate by the normal distribution's own functions."""
    linear = [part for part in module if hasattr(part, "weight")]
    normal, streams = torch.distributions.Normal(0.0, 1.0), RowStreams(SEED, [row])
    x, visited, widest = START[row], [], method.width * RADIUS
    for step in range(STEPS):
        left = max(0.0, 1 - (step + 1) / ((1 - method.settle) * STEPS))
        visited.append(x)
        z = streams.normal(START[:1])[0] if left > 0 else None
        if step == 0 and method.within is not None:
            widest = _width_with(linear, x, z, method.within)
        width = left * widest
        leaf = x.clone().requires_grad_()
        h, direction, plain = leaf, z, x
        for layer in linear[:-1]:
            h, plain = layer.weight @ h + layer.bias, layer.weight @ plain + layer.bias
            if direction is None or z is None:
                h = h.relu()
                continue
            direction = layer.weight @ direction
            s = width * direction.abs().detach()
            u = h / s
            h = h * normal.cdf(u) + s * normal.log_prob(u).exp()
            direction = direction * (plain > 0)  # gates held as they are at x
            plain = plain.relu()
        y = linear[-1].weight @ h + linear[-1].bias
        (y[0] - y[1:].max()).backward()
        length = RADIUS * method.step_size * (1 + math.cos(math.pi * step / STEPS)) / 2
        low, high = (START[row] - RADIUS).clamp(min=0), (START[row] + RADIUS).clamp(max=1)
        x = (x - length * leaf.grad.sign()).clamp(low, high)
    return [*visited, x]


@pytest.mark.parametrize(
    "method", [GateAnnealing(), GateAnnealing(width=1.0, settle=0.5, step_size=0.4), GateAnnealing(within=0.3)]
)
def test_the_trajectory_is_that_of_the_loop_written_by_hand(method):
    module = network(*SIZES)
    found = trajectory(method, module, DOMAIN, Margin(LABELS), START, STEPS)
    rows = [_by_hand(module, method, row) for row in range(3)]
    assert_same(found, [torch.stack(at_step) for at_step in zip(*rows, strict=True)])


def test_without_width_it_is_sign_descent():
    module = network(*SIZES)
    plain = trajectory(ProjectedGradient(), module, DOMAIN, Margin(LABELS), START, STEPS)
    assert_same(trajectory(GateAnnealing(width=0.0), module, DOMAIN, Margin(LABELS), START, STEPS), plain)


def test_a_draw_every_few_steps_shows_as_few_points_and_costs_as_many_gradients():
    lens = view(network(*SIZES))
    start = Start(START, STEPS, RowStreams(SEED, range(3)))
    visited = list(GateAnnealing(refresh=4, settle=0.0).iterate(Problem(lens, DOMAIN, Margin(LABELS)), start))
    assert lens.meter.backwards == 3 * STEPS
    assert len(visited) == STEPS // 4 + 2  # the last step has no width: it is the network itself, and so is the end
    assert lens.meter.forwards == 3 * (STEPS + 2 * (STEPS // 4) + 1)


@pytest.mark.parametrize(
    ("settings", "says"), [({"settle": 1.0}, "settle"), ({"step_size": 0.0}, "step_size"), ({"within": 1.5}, "within")]
)
def test_settings_that_mean_nothing_give_a_sentence(settings, says):
    with pytest.raises(InvalidInput, match=says):
        GateAnnealing(**settings)
