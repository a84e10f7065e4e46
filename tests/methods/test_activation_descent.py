"""ADR-GD against Algorithm 1 of Yu & Gao (ICML 2024), written again by hand: weights as matrices, hyperplane normals
as products of matrices, gradients by their formulas, one row at a time.
"""

import pytest
import torch
from torch import Tensor

from gatewise.domains import Box, Intersection, LinfBall
from gatewise.errors import InvalidInput
from gatewise.methods import ActivationDescent, Start
from gatewise.network import NetworkView, view
from gatewise.objectives import CrossEntropy, Margin
from gatewise.problem import Problem
from gatewise.streams import RowStreams

from .trajectories import SEED, assert_same, network, points, trajectory

SIZES, STEPS, LABEL = (4, 12, 12, 10, 3), 40, 1
START = points(3, 4)
OBJECTIVE = -CrossEntropy(torch.full((3,), LABEL))
DOMAIN = Intersection(LinfBall(START, 0.4), Box(0.0, 1.0))


class ByHand:
    """Algorithm 1 for one row."""

    def __init__(self, method: ActivationDescent, module, slope: float):
        self.m, self.leak = method, slope
        linear = [part for part in module if hasattr(part, "weight")]
        self.W, self.b = [part.weight.detach() for part in linear], [part.bias.detach() for part in linear]

    def forward(self, x: Tensor, gates: list[Tensor] | None = None) -> list[Tensor]:
        """Pre-activations and, last, the output; gates None: the network's own."""
        h = [self.W[0] @ x + self.b[0]]
        for i in range(1, len(self.W)):
            gate = self.own_gates(h[-1]) if gates is None else gates[i - 1]
            h.append(self.W[i] @ (gate * h[-1]) + self.b[i])
        return h

    def own_gates(self, h: Tensor) -> Tensor:
        return torch.where(h > 0, 1.0, self.leak).double()

    def normals(self, gates: list[Tensor]) -> list[Tensor]:
        """P_i = W_i D_{i-1} W_{i-1} … D_1 W_1 for every gate."""
        P = [self.W[0]]
        for i in range(1, len(self.W) - 1):
            P.append(self.W[i] @ torch.diag(gates[i - 1]) @ P[-1])
        return P

    def pull_back(self, gates: list[Tensor], layer: int, cotangent: Tensor) -> Tensor:
        """The input gradient of <cotangent, h_layer> in the network with these gates."""
        for i in range(layer, 0, -1):
            cotangent = gates[i - 1] * (self.W[i].T @ cotangent)
        return self.W[0].T @ cotangent

    def run(self, x: Tensor, low: Tensor, high: Tensor, streams: RowStreams) -> tuple[list[Tensor], int]:
        m, a, leak = self.m, self.m.slope, self.leak
        layers = len(self.W) - 1
        eta = [(h > 0).double() for h in self.forward(x)[:-1]]
        beta, last, kicks, visited = m.penalty, [1] * layers, 0, [x]
        for t in range(1, STEPS + 1):
            s = [1 / (1 + torch.exp(-a * (e - 0.5))) for e in eta]
            surrogate_gates = [leak + (1 - leak) * gate for gate in s]
            true, relaxed = self.forward(x), self.forward(x, surrogate_gates)
            true_gates = [self.own_gates(h) for h in true[:-1]]

            # The objective: minus the cross-entropy, so its gradient in the output is e_label - softmax.
            out = -torch.softmax(relaxed[-1], 0)
            out[LABEL] += 1
            in_x = self.pull_back(surrogate_gates, layers, out)
            in_eta, back = [torch.empty(0)] * layers, out
            for i in range(layers, 0, -1):
                behind = self.W[i].T @ back
                in_eta[i - 1] = behind * relaxed[i - 1] * (1 - leak) * a * s[i - 1] * (1 - s[i - 1])
                back = surrogate_gates[i - 1] * behind
            if not m.objective_moves_gates:
                in_eta = [torch.zeros_like(g) for g in in_eta]

            # The penalty, equations 10 and 11.
            total, P = 0.0, self.normals(surrogate_gates)
            for i in range(layers):
                norm = P[i].norm(dim=1) if m.normalise_distances else torch.ones(len(eta[i]), dtype=torch.float64)
                norm = torch.where(norm > 0, norm, 1.0)
                on, off = (0.5 - eta[i]).clamp(min=0), (eta[i] - 0.5).clamp(min=0)
                distance = true[i] / norm
                total += (distance.clamp(min=0) * on + (-distance).clamp(min=0) * off).sum().item()
                if m.penalty_moves_input:
                    push = ((true[i] > 0) * on - (true[i] < 0) * off) / norm
                    in_x = in_x + beta * self.pull_back(true_gates, i, push)
                in_eta[i] = in_eta[i] - beta * distance * (true[i] * (0.5 - eta[i]) > 0)

            x = torch.minimum(torch.maximum(x - m.step_size * _unit(in_x), low), high)
            for i in range(layers):
                move = _unit(in_eta[i])
                if m.kicks and t - last[i] > m.patience and in_eta[i].norm() < m.stillness:
                    move = move + m.kick_size * streams.normal(eta[i][None])[0]
                    last[i], kicks = t, kicks + 1
                eta[i] = (eta[i] - m.gate_step_size * move).clamp(0, 1)
            beta = max(beta + (-m.penalty_decay if total < m.agreement else m.penalty_step * total), 0.0)
            visited.append(x)
        return visited, kicks


def _unit(g: Tensor) -> Tensor:
    g = g / g.abs().max() if g.any() else g  # a gradient of 1e-200 has a direction, too
    return g / g.norm() if g.any() else g


def _compare(method: ActivationDescent, slope: float = 0.0) -> int:
    """Both trajectories agree; the number of kicks that were made."""
    module = network(*SIZES, slope=slope)
    found = trajectory(method, module, DOMAIN, OBJECTIVE, START, 2 * STEPS)
    rows, kicks = [], 0
    for row, x in enumerate(START):
        low, high = (START[row] - 0.4).clamp(min=0), (START[row] + 0.4).clamp(max=1)
        visited, made = ByHand(method, module, slope).run(x, low, high, RowStreams(SEED, [row]))
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
