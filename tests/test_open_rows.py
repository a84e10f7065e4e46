"""Rows that the driver has closed are not run any more, and the others do not notice."""

import pytest
import torch
from torch import Tensor, nn

import gatewise as gw
from gatewise.combinators import Restarts, Strongest
from gatewise.combinators.multi_targeted import MultiTargeted
from gatewise.methods import ProjectedGradient
from gatewise.objectives import Distance, Linear, Margin, MarginTo, SquaredOutputDistance

METHODS = [
    Restarts(member=ProjectedGradient(random_start=True), times=4),
    MultiTargeted(member=ProjectedGradient(), classes=2),
    Strongest(),
]


def network(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, outputs)).double().eval()


class Seen(nn.Module):
    """Keeps the sizes of the batches that it is run on."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module, self.sizes = module, []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return self.module(x)


def attack(method, radius: Tensor, rows: list[int]) -> tuple[gw.Result, Seen]:
    seen = Seen(network()).eval()
    x = torch.linspace(-1, 1, 24, dtype=torch.float64).view(6, 4).sin()
    labels = seen(x).argmax(1)
    seen.sizes.clear()
    goal = Margin(labels[rows])
    domain = gw.LinfBall(x[rows], radius[rows])
    result = gw.minimize(gw.Problem(gw.view(seen), domain, goal, goal), method, x[rows], budget=80, rows=rows, seed=3)
    return result, seen


RADIUS = torch.tensor([3.0, 1e-3, 3.0, 1e-3, 3.0, 1e-3], dtype=torch.float64)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_what_is_done_is_not_run_again(method):
    result, seen = attack(method, RADIUS, list(range(6)))
    assert result.goal_met.tolist() == [True, False] * 3
    assert seen.sizes[0] == 6
    assert seen.sizes.count(3) > 20
    assert result.backwards_per_row <= 80


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_rows_that_stand_end_where_they_end_alone(method):
    together, _ = attack(method, RADIUS, list(range(6)))
    for row in (1, 5):
        alone, _ = attack(method, RADIUS, [row])
        assert torch.allclose(together.x[row], alone.x[0], atol=1e-12)


@pytest.mark.parametrize(
    "domain",
    [
        lambda x: gw.Box(-1.0, 1.0),
        lambda x: gw.Box(x - 0.1, (x + 0.2)[-1]),
        lambda x: gw.L2Ball(x, torch.arange(1.0, 6.0, dtype=torch.float64)),
        lambda x: gw.L1Ball(x[:1], 0.5),
        lambda x: gw.Intersection(gw.LinfBall(x, 0.3), gw.Box(-0.5, 0.5)),
        lambda x: gw.Simplex(2.0),
        lambda x: gw.Polyhedron(
            torch.cat([torch.eye(4), -torch.eye(4)]).double(), torch.arange(1.0, 41.0, dtype=torch.float64).view(5, 8)
        ),
    ],
)
def test_sets_of_some_rows(domain):
    x = torch.linspace(-0.4, 0.4, 20, dtype=torch.float64).view(5, 4)
    far, rows = 3 * x.flip(0), torch.tensor([3, 1])
    part, whole = domain(x).of_rows(rows, x), domain(x)
    assert torch.equal(part.project(far[rows]), whole.project(far)[rows])
    assert torch.equal(part.size(x[rows]), whole.size(x)[rows])


def test_objectives_of_some_rows():
    x, y = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64)
    labels, rows = torch.tensor([0, 1, 2, 0, 1]), torch.tensor([4, 2])
    for objective in (
        Margin(labels),
        -MarginTo(labels, (labels + 1) % 3),
        Linear(torch.randn(3, dtype=torch.float64)),
        Linear(torch.randn(5, 3, dtype=torch.float64)),
        SquaredOutputDistance(y.flip(0)),
        Distance(x.flip(0)),
    ):
        assert torch.equal(objective.of_rows(rows, x, y)(x[rows], y[rows]), objective(x, y)[rows])


def test_where_rows_cannot_be_told_apart_all_run():
    seen = Seen(network()).eval()
    x = torch.zeros(6, 4, dtype=torch.float64)
    goal = lambda x, y: torch.arange(-1.0, 5.0, dtype=torch.float64)  # noqa: E731
    problem = gw.Problem(gw.view(seen), gw.LinfBall(x, 1.0), Linear(torch.ones(3, dtype=torch.float64)), goal)
    gw.minimize(problem, METHODS[0], x, budget=8)
    assert set(seen.sizes) == {6}
