"""A planted adversarial example inside the radius is found by every attack (the idea of Zimmermann, Brendel, Tramèr &
Carlini, "Increasing confidence in adversarial robustness evaluations", NeurIPS 2022).
"""

import pytest
import torch
from torch import nn

from gatewise.domains import Box, Intersection, L1Ball, L2Ball, LinfBall
from gatewise.network import view
from gatewise.objectives import CrossEntropy, DifferenceOfLogitsRatio, Margin
from gatewise.problem import Problem
from gatewise.result import Status
from gatewise.solve import minimize
from gatewise.streams import RowStreams

from .attackers import NEED_BOX, NEED_PROXIMAL, attackers

N, SEEDS, LABEL = 12, range(3), torch.zeros(1, dtype=torch.int64)
SETS = {"linf": (LinfBall, 0.1), "l2": (L2Ball, 0.3), "l1": (L1Ball, 0.6)}
LOSSES = {"margin": Margin(LABEL), "cross-entropy": -CrossEntropy(LABEL), "dlr": DifferenceOfLogitsRatio(LABEL)}
SCALE = 3.0  # of the logits: the cross-entropy is not yet flat, so that ADR-GD's penalty does not drown it
# Steps that are scaled coordinate by coordinate are no steps of an l1 ball: docs/how-to-choose.md sends nobody there.
NOT_IN_L1 = ("adam", "adagrad")
# The spot is hidden from chance, and in the l1 ball from draws around a mean.
BY_CHANCE, NOT_BY_DRAWS_IN_L1 = ("random-search",), ("cem",)
LEFT_OUT = {
    "linf": BY_CHANCE,
    "l2": (*NEED_BOX, *BY_CHANCE),
    "l1": (*NEED_BOX, *NOT_IN_L1, *BY_CHANCE, *NOT_BY_DRAWS_IN_L1),
}
ATTACKS = [(kind, method) for kind in SETS for method in attackers(1.0) if method not in LEFT_OUT[kind]]


class Planted(nn.Module):
    """Class 1 wins only near `spot`, where `<slope, relu(features)>` is higher than at any of many other points of the
    ball: a readout fitted to random features of a frozen network, as in the paper's binarization test.
    """

    def __init__(self, ball, center, spot, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.features = nn.Sequential(nn.Linear(N, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU()).double()
        with torch.no_grad():
            for part in (self.features[0], self.features[2]):
                part.weight.normal_(0, (2 / part.in_features) ** 0.5)
                part.bias.normal_(0, 0.1)
        inner = torch.cat([ball.sample(RowStreams(draw, [0]), center) for draw in range(300)])
        inner = center + 0.9 * (inner - center)
        with torch.no_grad():
            low, high = self.features(inner), self.features(spot)
            mean = low.mean(0)
            spread = (low - mean).T @ (low - mean) / len(low) + 1e-3 * torch.eye(200, dtype=torch.float64)
            slope = torch.linalg.solve(spread, (high - mean)[0])
            slope = slope / ((high - mean)[0] @ slope)  # score 0 in the middle, 1 on the spot
            self.margin = ((low - mean) @ slope).max()
        self.register_buffer("slope", slope)
        self.register_buffer("mean", mean)
        self.threshold = 0.5 * (1 + self.margin.item())
        self.eval().requires_grad_(False)

    def forward(self, x):
        score = SCALE * ((self.features(x) - self.mean) @ self.slope - self.threshold)
        return torch.stack([torch.zeros_like(score), score], dim=1)


def _plant(kind, seed):
    """A network, the set, its centre, the spot on the set's edge, and the radius."""
    make, radius = SETS[kind]
    center = 0.2 + 0.6 * torch.rand(1, N, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    domain = Intersection(make(center, radius), Box(0.0, 1.0))
    far = center + 10 * torch.randn(1, N, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 50))
    spot = domain.project(far)
    return Planted(domain, center, spot, seed), domain, center, spot, radius


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", SETS)
def test_the_spot_is_adversarial_and_hidden_from_chance(kind, seed):
    network, domain, center, spot, _ = _plant(kind, seed)
    assert not domain.violation(spot).any()
    assert network(spot).argmax(1).item() == 1
    random = torch.cat([domain.sample(RowStreams(draw, [1]), center) for draw in range(1000)])
    assert (network(random).argmax(1) == 1).double().mean() < 0.01


@pytest.mark.parametrize(("kind", "method"), ATTACKS)
@pytest.mark.parametrize(("loss", "seed"), list(zip(LOSSES, SEEDS, strict=True)))
def test_every_attack_finds_it(kind, method, loss, seed):
    if loss == "dlr" and method in NEED_PROXIMAL:
        loss = "margin"  # what it takes in its place
    network, domain, center, _, radius = _plant(kind, seed)
    problem = Problem(view(network), domain, LOSSES[loss], goal=Margin(LABEL))
    result = minimize(problem, attackers(radius)[method], center, budget=200)
    assert result.status == (Status.GOAL_MET,)
    assert network(result.x).argmax(1).item() == 1
    assert not domain.violation(result.x).any()
