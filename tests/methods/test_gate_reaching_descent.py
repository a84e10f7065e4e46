"""Gate-reach against its own few lines in plain tensors: norms from matrices, gradients by the chain rule."""

import math

import pytest
import torch
from torch import Tensor

from gatewise.domains import L2Ball, LinfBall
from gatewise.methods import GateReachingDescent
from gatewise.objectives import Linear
from gatewise.streams import RowStreams

from .trajectories import SEED, assert_same, network, points, trajectory

STEPS, START = 24, points(3, 4)
WEIGHTS = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)


def _by_hand(module, leak: float, x: Tensor, radius: float, ball, streams: RowStreams, m: GateReachingDescent):
    linear = [part for part in module if hasattr(part, "weight")]
    W, b = [part.weight.detach() for part in linear], [part.bias.detach() for part in linear]

    def forward(x):
        h = [W[0] @ x + b[0]]
        for i in range(1, len(W)):
            h.append(W[i] @ torch.where(h[-1] > 0, h[-1], leak * h[-1]) + b[i])
        return h

    center, before, squares, visited = x, x, None, [x]
    for t in range(STEPS):
        if t % m.refresh == 0:
            # Gates held at the point before; (P_j z)^2 with z normal is a sample of ||P_j||^2.
            moved, heights = W[0] @ streams.normal(x[None])[0], forward(before)
            samples = [moved**2]
            for i in range(1, len(W) - 1):
                moved = W[i] @ (torch.where(heights[i - 1] > 0, 1.0, leak) * moved)
                samples.append(moved**2)
            squares = [0.7 * old + 0.3 * new for old, new in zip(squares or samples, samples, strict=True)]
        reach = m.reach * radius * max(0.0, 1 - t / ((1 - m.settle) * STEPS))
        heights, back = forward(x), WEIGHTS
        for i in range(len(W) - 1, 0, -1):
            h, s = heights[i - 1], reach * squares[i - 1].sqrt()
            u = h / s if reach > 0 else h.sign() * 30
            share = 0.5 * (1 + torch.erf(u / math.sqrt(2))) + u * torch.exp(-u * u / 2) / math.sqrt(2 * math.pi)
            back = (leak + (1 - leak) * share) * (W[i].T @ back)
        gradient = W[0].T @ back
        step = 0.5 * (1 + math.cos(math.pi * t / STEPS)) * m.step_size * radius
        before = x
        if ball is LinfBall:
            x = center + (x - step * gradient.sign() - center).clamp(-radius, radius)
        else:
            offset = x - step * gradient / gradient.norm() - center
            x = center + offset * min(1.0, radius / offset.norm().item())
        visited.append(x)
    return visited


@pytest.mark.parametrize("leak", [0.0, 0.2])
@pytest.mark.parametrize("ball", [LinfBall, L2Ball])
@pytest.mark.parametrize(
    "method",
    [GateReachingDescent(), GateReachingDescent(reach=3.0, settle=0.5, refresh=2, step_size=0.5)],
    ids=["defaults", "changed"],
)
def test_the_trajectory_is_that_of_its_formulas(leak, ball, method):
    module, radius = network(4, 12, 12, 10, 3, slope=leak), 0.5
    found = trajectory(method, module, ball(START, radius), Linear(WEIGHTS), START, STEPS)
    rows = [
        _by_hand(module, leak, START[row], radius, ball, RowStreams(SEED, [row]), method) for row in range(len(START))
    ]
    assert_same(found, [torch.stack(at_step) for at_step in zip(*rows, strict=True)])
