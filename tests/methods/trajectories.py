"""A small network, and the points that a method visits on it."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from gatewise.domains.base import Domain
from gatewise.methods import Method, Start
from gatewise.network import view
from gatewise.problem import Problem
from gatewise.streams import RowStreams

SEED = 5


def network(*sizes: int, slope: float = 0.0, seed: int = 0) -> nn.Sequential:
    """A float64 perceptron with leaky gates of that slope (0: ReLU)."""
    generator = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        linear = nn.Linear(inputs, outputs).double()
        with torch.no_grad():
            linear.weight.copy_(torch.randn(outputs, inputs, generator=generator, dtype=torch.float64) / inputs**0.5)
            linear.bias.copy_(torch.randn(outputs, generator=generator, dtype=torch.float64) / 3)
        parts += [linear, nn.LeakyReLU(slope) if slope else nn.ReLU()]
    return nn.Sequential(*parts[:-1]).eval()


def points(rows: int, n: int, seed: int = 1) -> Tensor:
    return torch.rand(rows, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trajectory(
    method: Method, module: nn.Module, domain: Domain, objective, start: Tensor, budget: int | None, seed: int = SEED
) -> list[Tensor]:
    """Every point that the method visits, without the driver."""
    problem = Problem(view(module), domain, objective)
    streams = RowStreams(seed, range(len(start)))
    return [iterate.x for iterate in method.iterate(problem, Start(start, budget, streams))]


def gradient(module: nn.Module, objective, x: Tensor) -> Tensor:
    """The objective's gradient at x, by PyTorch alone."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        value = objective(x, module(x))
    return torch.autograd.grad(value.sum(), x)[0]


def assert_same(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-6) -> None:
    assert len(found) == len(expected)
    for step, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        off = (mine - theirs).abs().max().item()
        assert off <= tolerance, f"step {step} is off by {off}"
    assert not torch.equal(found[0], found[-1]), "the method does not move at all"
