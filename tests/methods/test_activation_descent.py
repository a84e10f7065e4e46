"""ADR-GD against Algorithm 1 of Yu & Gao (ICML 2024), written again by hand."""

import pytest
import torch
from torch import Tensor

from gatewise.domains import Box, Intersection, LinfBall
from gatewise.errors import InvalidInput
from gatewise.methods import ActivationDescent, Start
from gatewise.network import NetworkView, view
from gatewise.network.relaxed import RelaxedGates
from gatewise.objectives import CrossEntropy, Margin
from gatewise.problem import Problem
from gatewise.streams import RowStreams

from .activation_descent_by_hand import ByHand
from .trajectories import SEED, assert_same, network, points, trajectory

SIZES, STEPS, LABEL = (4, 12, 12, 10, 3), 40, 1
START = points(3, 4)
OBJECTIVE = -CrossEntropy(torch.full((3,), LABEL))
DOMAIN = Intersection(LinfBall(START, 0.4), Box(0.0, 1.0))


@pytest.fixture(params=["as lists", "all at once"], autouse=True)
def _free_gates(request, monkeypatch):
    """Every test here with both ways to hold the free gates."""
    few = 0 if request.param == "as lists" else 10**9
    monkeypatch.setitem(RelaxedGates.__init__.__kwdefaults__, "few", few)


def _out_gradient(y: Tensor) -> Tensor:
    """Of minus the cross-entropy: e_label - softmax."""
    out = -torch.softmax(y, 0)
    out[LABEL] += 1
    return out


def _compare(method: ActivationDescent, slope: float = 0.0) -> int:
    """Both trajectories agree; the number of kicks that were made."""
    module = network(*SIZES, slope=slope)
    found = trajectory(method, module, DOMAIN, OBJECTIVE, START, 2 * STEPS)
    rows, kicks = [], 0
    for row, x in enumerate(START):
        low, high = (START[row] - 0.4).clamp(min=0), (START[row] + 0.4).clamp(max=1)
        by_hand = ByHand(vars(method), module, _out_gradient, lambda x: x.clamp(low, high), leak=slope)  # noqa: B023
        visited, made = by_hand.run(x, STEPS, RowStreams(SEED, [row]))
        rows.append(visited)
        kicks += made
    assert_same(found, [torch.stack(at_step) for at_step in zip(*rows, strict=True)])
    return kicks


# A steep gate as printed, and a gentle one through which the objective reaches eta. Steps of eta are such that they
# never add up to exactly 1/2, where the penalty has a kink and rounding would decide.
SETTINGS = {
    "table 2, random nets": ActivationDescent.preset("random-a", gate_step_size=0.83, patience=4, exact_norms=True),
    "table 2, mnist": ActivationDescent.preset("mnist", step_size=0.1, gate_step_size=0.23, exact_norms=True),
    "gentle": ActivationDescent(
        step_size=0.05, gate_step_size=0.2, slope=20.0, penalty=0.5, penalty_step=0.1, kick_size=0.3, stillness=0.5,
        patience=3, agreement=0.05, penalty_decay=0.05, exact_norms=True,
    ),
}  # fmt: skip
ABLATIONS = {
    "whole": {},
    "M1": {"objective_moves_gates": False},
    "M2": {"penalty_moves_input": False},
    "M3": {"normalise_distances": False},
    "M4": {"kicks": False},
}


def _with(method: ActivationDescent, **changes) -> ActivationDescent:
    return ActivationDescent(**(vars(method) | changes))


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_trajectory_is_that_of_algorithm_1_written_by_hand(setting, ablation):
    kicks = _compare(_with(SETTINGS[setting], **ABLATIONS[ablation]))
    assert (kicks > 0) == (ablation != "M4"), "kicks are part of what is compared"


@pytest.mark.parametrize("leak", [0.2, -0.5])
@pytest.mark.parametrize("ablation", ABLATIONS)
def test_with_leaky_gates_the_surrogate_is_leaky(leak, ablation):
    """At slope 20, since 1 - s of a steep sigmoid is all rounding."""
    _compare(_with(SETTINGS["gentle"], **ABLATIONS[ablation]), slope=leak)


@pytest.mark.parametrize("ablation", ["M1", "M2", "M3", "M4"])
def test_each_ablation_changes_the_walk(ablation):
    module, method = network(*SIZES), SETTINGS["gentle"]
    whole = trajectory(method, module, DOMAIN, OBJECTIVE, START, 2 * STEPS)
    without = trajectory(_with(method, **ABLATIONS[ablation]), module, DOMAIN, OBJECTIVE, START, 2 * STEPS)
    assert not torch.allclose(whole[-1], without[-1])


def test_norms_cost_one_forward_every_few_steps_and_eight_at_the_start():
    module = network(*SIZES)
    for refresh, extra in ((1, 8 + 11), (3, 8 + 3), (100, 8)):
        lens = view(module)
        start = Start(START, 24, RowStreams(SEED, range(3)))
        list(ActivationDescent(refresh=refresh).iterate(Problem(lens, DOMAIN, OBJECTIVE), start))
        assert lens.meter.backwards == 3 * 24
        assert lens.meter.forwards == 3 * (1 + 2 * 12 + 1 + extra)  # eta's start, the steps, the last point


def test_partial_gating_gives_eta_to_the_chosen_gates_alone():
    """With no gate of its own chosen, a gate follows the network; all gates by number are all gates."""
    module, method = network(*SIZES), SETTINGS["gentle"]
    by_number = trajectory(_with(method, gates="0,1,2"), module, DOMAIN, OBJECTIVE, START, 2 * STEPS)
    everything = trajectory(method, module, DOMAIN, OBJECTIVE, START, 2 * STEPS)
    last = trajectory(_with(method, gates="last"), module, DOMAIN, OBJECTIVE, START, 2 * STEPS)
    minus_one = trajectory(_with(method, gates="-1"), module, DOMAIN, OBJECTIVE, START, 2 * STEPS)
    assert_same(by_number, everything)
    assert_same(minus_one, last)
    assert not torch.allclose(last[-1], everything[-1])


@pytest.mark.parametrize("leak", [0.0, 0.2])
def test_without_its_pull_on_the_input_the_penalty_changes_nothing_before_the_gates_have_moved(leak):
    """M2 with partial gating, whose runs share what lies before the gate."""
    module = network(*SIZES, slope=leak)
    walks = [
        trajectory(
            _with(SETTINGS["gentle"], gates="last", penalty_moves_input=moves),
            module,
            DOMAIN,
            OBJECTIVE,
            START,
            2 * STEPS,
        )
        for moves in (True, False)
    ]
    assert_same(*(walk[:2] for walk in walks))
    assert not torch.allclose(walks[0][-1], walks[1][-1])


def test_a_network_in_single_precision_under_another_default(monkeypatch):
    module, start = network(*SIZES).float(), START.float()
    objective = -CrossEntropy(torch.full((3,), LABEL))
    domain = Intersection(LinfBall(start, 0.4), Box(0.0, 1.0))
    torch.set_default_dtype(torch.float64)
    try:
        assert trajectory(SETTINGS["gentle"], module, domain, objective, start, 8)[-1].dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_network_that_takes_one_batch_size_walks_the_same_way():
    module, method = network(*SIZES), SETTINGS["gentle"]
    start = Start(START, 2 * STEPS, RowStreams(SEED, range(3)))
    pieces = [at.x for at in method.iterate(Problem(NetworkView(module, rows_per_run=2), DOMAIN, OBJECTIVE), start)]
    assert_same(pieces, trajectory(method, module, DOMAIN, OBJECTIVE, START, 2 * STEPS))


@pytest.mark.parametrize("gates", ["3", "first", "-4"])
def test_gates_that_are_not_there_give_a_sentence(gates):
    with pytest.raises(InvalidInput, match=rf"gates='{gates}' does not name gates .* between -3 and 2"):
        trajectory(ActivationDescent(gates=gates), network(*SIZES), DOMAIN, OBJECTIVE, START, 4)


def test_a_network_without_gates_gives_a_sentence():
    with pytest.raises(InvalidInput, match=r"no elementwise gate .* use pgd or apgd"):
        trajectory(ActivationDescent(), network(4, 3), DOMAIN, OBJECTIVE, START, 4)


# Table 2 of the paper, column by column: beta0, a_x, a_eta, a_beta, r, delta, delta_beta, T_p.
TABLE_2 = {
    "mnist": (2, 1, 0.25, 1e-3, 0.1, 1e-4, 0.1, 5),
    "cifar10": (0.5, 0.1, 0.5, 1e-3, 0.2, 1e-3, 0.1, 5),
    "imagenet": (0.5, 0.1, 0.5, 1e-3, 0.1, 1e-2, 0.05, 5),
    "mnist-targeted": (2, 0.5, 0.1, 1e-3, 0.01, 1e-4, 0.1, 5),
    "cifar10-targeted": (1, 0.1, 0.5, 1e-3, 0.1, 1e-3, 0.05, 5),
    "imagenet-targeted": (0.5, 0.1, 0.5, 1e-4, 0.01, 1e-2, 0.05, 5),
    "action-refinement": (0.5, 0.2, 0.1, 0.01, 0.05, 1e-3, 0.1, 10),
    "policy-attack": (0.5, 0.4, 0.25, 1e-3, 0.01, 1e-4, 0.1, 10),
    "random-a": (1, 0.5, 1, 0.01, 0.1, 1e-4, 1e-3, 25),
    "random-b": (1, 0.5, 1, 0.005, 0.2, 1e-3, 0.01, 25),
    "random-c": (1, 0.5, 1.25, 1e-4, 0.35, 1e-2, 0.01, 25),
}


def test_the_presets_are_table_2():
    def row(method):
        return (
            method.penalty, method.step_size, method.gate_step_size, method.penalty_step, method.kick_size,
            method.stillness, method.agreement, method.patience,
        )  # fmt: skip

    assert set(ActivationDescent.presets) == set(TABLE_2)
    for name, published in TABLE_2.items():
        method = ActivationDescent.preset(name)
        assert row(method) == published, name
        assert method.slope == 2000
        assert method.gates == ("last" if name.startswith("imagenet") else "all")
        assert method.penalty_decay == (0.01 if name.startswith("random") else 1e-3)


def test_the_defaults_are_the_mnist_column():
    assert ActivationDescent() == ActivationDescent.preset("mnist")


def test_the_papers_t_is_a_setting_and_never_outruns_the_budget():
    module, objective = network(*SIZES), Margin(torch.full((3,), LABEL))
    assert len(trajectory(ActivationDescent(steps=5), module, DOMAIN, objective, START, 100)) == 6
    assert len(trajectory(ActivationDescent(steps=50), module, DOMAIN, objective, START, 20)) == 11
    assert len(trajectory(ActivationDescent(steps=7), module, DOMAIN, objective, START, None)) == 8
