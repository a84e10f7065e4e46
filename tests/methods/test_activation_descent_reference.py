"""`adr-gd-reference` against the released loop, written again from the numbered departures in its docstring."""

import pytest
import torch
from torch import Tensor

from gatewise.domains import Box
from gatewise.methods import ActivationDescentReference
from gatewise.objectives import CrossEntropy, Linear
from gatewise.streams import RowStreams

from .activation_descent_by_hand import MNIST, RANDOM_NETWORKS, ByHand
from .trajectories import SEED, assert_same, network, points, trajectory

STEPS = 40
SIZES = (4, 12, 12, 10)
START = points(3, 4) - 0.5


def _by_hand(method, module, out_gradient, departs: frozenset[int]) -> tuple[list[Tensor], int]:
    rows, kicks = [], 0
    for row, x in enumerate(START):
        by_hand = ByHand(vars(method), module, out_gradient, lambda x: x.clamp(-1, 1), departs)
        visited, made = by_hand.run(x, STEPS, RowStreams(SEED, [row]))
        rows.append(visited)
        kicks += made
    return [torch.stack(at_step) for at_step in zip(*rows, strict=True)], kicks


def _compare(method, module, objective, out_gradient, departs: frozenset[int]) -> int:
    found = trajectory(method, module, Box(-1.0, 1.0), objective, START, 2 * STEPS)
    wanted, kicks = _by_hand(method, module, out_gradient, departs)
    assert_same(found, wanted)
    return kicks


@pytest.mark.parametrize("preset", ["random-a", "random-b", "random-c"])
@pytest.mark.parametrize("slope", [2000.0, 50.0])
def test_the_random_network_form(preset, slope):
    method = ActivationDescentReference.preset(preset, patience=5, slope=slope, step_size=0.1)
    objective = Linear(-torch.ones(1, dtype=torch.float64))
    module = network(*SIZES, 1)
    kicks = _compare(method, module, objective, lambda y: -torch.ones(1, dtype=torch.float64), RANDOM_NETWORKS)
    assert kicks > 0 or slope == 50.0, "kicks are part of what is compared"


@pytest.mark.parametrize("preset", ["mnist-clean", "mnist-robust"])
@pytest.mark.parametrize("slope", [2000.0, 50.0])
def test_the_mnist_form(preset, slope):
    method = ActivationDescentReference.preset(preset, slope=slope, step_size=0.1, exact_norms=True, stillness=0.1)
    objective = -CrossEntropy(torch.ones(3, dtype=torch.int64))

    def out_gradient(y):
        return torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64) - torch.softmax(y, 0)

    _compare(method, network(*SIZES, 3), objective, out_gradient, MNIST)


@pytest.mark.parametrize(("preset", "departs"), [("random-a", RANDOM_NETWORKS), ("mnist-robust", MNIST)])
def test_each_numbered_departure_is_one(preset, departs):
    """Without it the walk is another: the two forms differ in exactly these (the tests of both share one loop)."""
    busy = {"slope": 50.0, "step_size": 0.3, "exact_norms": True, "stillness": 0.5, "patience": 3, "kick_size": 0.1}
    beta_falls = {"penalty": 0.3, "agreement": 1e9, "penalty_decay": 0.05}
    method = ActivationDescentReference.preset(preset, **busy | beta_falls)

    def out_gradient(y):
        return -torch.ones(1, dtype=torch.float64) - 4 * y

    module = network(*SIZES, 1)
    whole = torch.stack(_by_hand(method, module, out_gradient, departs)[0])
    for number in departs:
        without, _ = _by_hand(method, module, out_gradient, departs - {number})
        assert not torch.allclose(torch.stack(without), whole), number


def test_the_presets_are_the_shipped_configurations():
    shipped = {  # c, lr, lr_eta, lr_c, noise, decay, threshold, every
        "random-a": (1.0, 0.5, 1.0, 1e-2, 0.1, 1e-2, 1e-4, 25),
        "random-b": (1.0, 0.5, 1.0, 5e-3, 0.2, 1e-2, 1e-3, 25),
        "random-c": (1.0, 0.5, 1.25, 1e-4, 0.35, 1e-2, 1e-2, 25),
        "mnist-clean": (0.5, 0.5, 0.25, 1e-4, 1e-4, 1e-3, 1e-5, 5),
        "mnist-robust": (0.5, 1.0, 0.25, 1e-4, 1e-3, 1e-3, 1e-5, 5),
    }
    assert set(ActivationDescentReference.presets) == set(shipped)
    for name, published in shipped.items():
        m = ActivationDescentReference.preset(name)
        random = name.startswith("random")
        assert (
            m.penalty, m.step_size, m.gate_step_size, m.penalty_step, m.kick_size, m.penalty_decay, m.stillness,
            m.patience,
        ) == published, name  # fmt: skip
        assert m.agreement == 1e-2
        assert m.output_scale == ("hyperplane" if random else "logits")
        assert m.own_gate_in_norm is m.penalty_gradient_accumulates is (not random)
        assert m.norm_floor == (0 if random else 1)
        assert m.reset == (0 if random else 16)
