"""Searches from region to region, against rays in every direction of a plane, and against one another."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from gatewise.combinators import FaceWalk, LinearRegionSearch, region_programs
from gatewise.domains import Box, L2Ball
from gatewise.errors import UnsupportedProblem
from gatewise.methods import GradientDescent
from gatewise.network import view
from gatewise.objectives import Distance, Linear, Margin, MarginTo, TargetedMargin
from gatewise.problem import Problem
from gatewise.solve import minimize

SEARCHES = {"rlr-qp": LinearRegionSearch(exploring=3), "face-walk": FaceWalk(steps=60)}
EXCESS = {"rlr-qp": 1e-6, "face-walk": 0.1}  # a walk ends in the valleys that its warm start finds
ORIGIN = torch.tensor([[0.1, -0.2], [0.3, 0.25], [-0.4, 0.1]], dtype=torch.float64)


class Pooled(nn.Module):
    """A linear layer, a max-pool over pairs, a gate, and logits."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(2, 16), nn.Linear(8, 8), nn.Linear(8, 3)
        self.pool = nn.MaxPool1d(2)

    def forward(self, x):
        pooled = self.pool(self.first(x)[:, None]).squeeze(1)
        return self.last(torch.relu(self.second(pooled)))


def _network(kind: str) -> nn.Module:
    torch.manual_seed(4)
    layers = [nn.Linear(2, 24), nn.LeakyReLU(0.1), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 3)]
    module = Pooled() if kind == "pooled" else nn.Sequential(*layers)
    module = module.double().eval().requires_grad_(False)
    grid = torch.cartesian_prod(*[torch.linspace(-1, 1, 41, dtype=torch.float64)] * 2)
    last = module.last if isinstance(module, Pooled) else module[4]
    last.bias -= module(grid).mean(0)  # so that no class wins everywhere
    return module


def _by_rays(module: nn.Module, goal, origin: torch.Tensor, p: float) -> float:
    """The nearest point of the square that meets the goal, along 720 directions by 400 steps and a bisection."""
    angles = torch.linspace(0, 2 * math.pi, 721, dtype=torch.float64)[:-1]
    ways = torch.stack([angles.cos(), angles.sin()], 1)
    ways = ways / torch.linalg.vector_norm(ways, p, dim=1, keepdim=True)
    lengths = torch.linspace(0, 3, 401, dtype=torch.float64)
    points = origin + lengths[:, None, None] * ways
    inside = (points.abs() <= 1).all(2)
    met = (goal(None, module(points.flatten(0, 1))) <= 0).view(inside.shape) & inside
    first = torch.where(met.any(0), met.int().argmax(0), len(lengths) - 1)
    high, low = lengths[first], lengths[(first - 1).clamp(min=0)]
    for _ in range(40):
        middle = (low + high) / 2
        reached = goal(None, module(origin + middle[:, None] * ways)) <= 0
        low, high = middle.where(~reached, low), middle.where(reached, high)
    return float(high[met.any(0)].min())


def _solved(module, goal, method, p=2.0, origin=ORIGIN, domain=None, **options):
    problem = Problem(view(module), domain or Box(-1.0, 1.0), Distance(origin, p), goal)
    return minimize(problem, method, origin, progress=False, **options)


class One(nn.Module):
    """A goal for one row, whatever the number of points."""

    def __init__(self, kind, *classes):
        super().__init__()
        self.kind, self.classes = kind, classes

    def forward(self, x, y):
        return self.kind(*[torch.full((len(y),), c) for c in self.classes])(x, y)


@pytest.mark.parametrize("p", [2.0, math.inf, 1.0])
@pytest.mark.parametrize("kind", ["plain", "pooled"])
@pytest.mark.parametrize("method", SEARCHES)
def test_it_finds_what_rays_in_every_direction_find(method, kind, p):
    module = _network(kind)
    labels = module(ORIGIN).argmax(1)
    result = _solved(module, Margin(labels), SEARCHES[method], p)
    assert bool(result.goal_met.all())
    assert bool((module(result.x).argmax(1) != labels).any()) or bool(
        (Margin(labels)(None, module(result.x)) <= 0).all()
    )
    assert not result.violation.any()
    for row, label in enumerate(labels.tolist()):
        nearest = _by_rays(module, One(Margin, label), ORIGIN[row], p)
        assert result.value[row] <= nearest * (1 + EXCESS[method])
        assert result.value[row] >= nearest * (1 - 1e-2)  # the rays leave gaps


@pytest.mark.parametrize("method", SEARCHES)
def test_aimed_at_a_class_it_ends_in_that_class(method):
    module = _network("plain")
    logits = module(ORIGIN)
    targets = logits.argsort(dim=1)[:, 0]  # the least likely
    result = _solved(module, TargetedMargin(targets), SEARCHES[method])
    for row in result.goal_met.nonzero().flatten().tolist():
        nearest = _by_rays(module, One(TargetedMargin, int(targets[row])), ORIGIN[row], 2)
        assert float(result.value[row]) == pytest.approx(nearest, rel=1e-2)
    assert bool(result.goal_met.any())
    pair = _solved(module, MarginTo(logits.argmax(1), targets), SEARCHES[method])
    assert bool((pair.value <= result.value.where(result.goal_met, torch.inf) + 1e-9).all())


@pytest.mark.parametrize("goal", [Margin, TargetedMargin])
@pytest.mark.parametrize("kind", ["plain", "pooled"])
def test_faces_gathered_when_wanted_give_what_listed_ones_give(kind, goal, monkeypatch):
    module = _network(kind)
    labels = module(ORIGIN).argmax(1) if goal is Margin else module(ORIGIN).argsort(dim=1)[:, 1]
    method = FaceWalk(rivals=2, steps=10)
    listed = _solved(module, goal(labels), method)
    monkeypatch.setattr(region_programs, "_LISTED", -1)
    gathered = _solved(module, goal(labels), method)
    torch.testing.assert_close(gathered.value, listed.value, rtol=1e-6, atol=1e-9)
    monkeypatch.setattr(region_programs, "_WRITTEN", 0)
    torch.testing.assert_close(_solved(module, goal(labels), method).value, listed.value, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", SEARCHES)
def test_a_row_is_solved_alone_as_in_a_batch(method, monkeypatch):
    module = _network("plain")
    labels = module(ORIGIN).argmax(1)
    monkeypatch.setattr(region_programs, "_LISTED", -1)
    together = _solved(module, Margin(labels), SEARCHES[method])
    alone = _solved(module, Margin(labels[1:2]), SEARCHES[method], origin=ORIGIN[1:2], rows=[1])
    torch.testing.assert_close(alone.value, together.value[1:2], rtol=1e-7, atol=0)


@pytest.mark.parametrize("method", SEARCHES)
def test_in_float32_the_points_meet_the_goal_in_float32(method):
    module = _network("plain").float()
    origin = ORIGIN.float()
    labels = module(origin).argmax(1)
    result = _solved(module, Margin(labels), SEARCHES[method], origin=origin)
    exact = _solved(_network("plain"), Margin(labels), SEARCHES[method])
    assert result.x.dtype == torch.float32
    assert bool(result.goal_met.all())
    torch.testing.assert_close(result.value.double(), exact.value, rtol=1e-3, atol=0)


def test_without_bounds_the_whole_space_is_searched():
    module = _network("plain")
    labels = module(ORIGIN).argmax(1)
    free = _solved(module, Margin(labels), FaceWalk(), domain=Box(-math.inf, math.inf))
    boxed = _solved(module, Margin(labels), FaceWalk())
    assert bool((free.value <= boxed.value + 1e-9).all())


def test_another_warm_start_can_be_named():
    module = _network("plain")
    labels = module(ORIGIN).argmax(1)
    nothing = GradientDescent(steps=1, step_size=1e-9)  # finds no point: the region of the image itself comes first
    result = _solved(module, Margin(labels), LinearRegionSearch(first=nothing, exploring=3))
    usual = _solved(module, Margin(labels), SEARCHES["rlr-qp"])
    torch.testing.assert_close(result.value, usual.value, rtol=1e-2, atol=0)


@pytest.mark.parametrize("method", SEARCHES)
def test_what_cannot_be_searched_is_said(method):
    module, labels = _network("plain"), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(UnsupportedProblem, match="Margin"):
        _solved(module, Linear(torch.ones(3, dtype=torch.float64)), SEARCHES[method])
    with pytest.raises(UnsupportedProblem, match="Box"):
        _solved(module, Margin(labels), SEARCHES[method], domain=L2Ball(ORIGIN, 1.0))
