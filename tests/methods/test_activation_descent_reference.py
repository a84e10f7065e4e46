"""`adr-gd-reference` against the released loop, written again from the numbered departures in its docstring."""

import pytest
import torch
from torch import Tensor

from gatewise.domains import Box
from gatewise.methods import ActivationDescentReference
from gatewise.objectives import CrossEntropy, Linear
from gatewise.streams import RowStreams

from .trajectories import SEED, assert_same, network, points, trajectory

STEPS = 40
SIZES = (4, 12, 12, 10)
START = points(3, 4) - 0.5


class ByHand:
    """The released loop for one row; `out_gradient` is the objective's gradient in the scaled output."""

    def __init__(self, method, module, out_gradient):
        self.m, self.out_gradient = method, out_gradient
        linear = [part for part in module if hasattr(part, "weight")]
        self.W, self.b = [part.weight.detach() for part in linear], [part.bias.detach() for part in linear]

    def forward(self, x: Tensor, gates: list[Tensor] | None = None) -> list[Tensor]:
        h = [self.W[0] @ x + self.b[0]]
        for i in range(1, len(self.W)):
            gate = (h[-1] > 0).double() if gates is None else gates[i - 1]
            h.append(self.W[i] @ (gate * h[-1]) + self.b[i])
        return h

    def pull_back(self, gates: list[Tensor], layer: int, cotangent: Tensor) -> Tensor:
        for i in range(layer, 0, -1):
            cotangent = gates[i - 1] * (self.W[i].T @ cotangent)
        return self.W[0].T @ cotangent

    def run(self, x: Tensor, streams: RowStreams) -> tuple[list[Tensor], int]:
        m, a, layers = self.m, self.m.slope, len(self.W) - 1
        beta, accumulated, last, kicks, visited, eta = m.penalty, 0.0, [0] * layers, 0, [x], []
        for t in range(STEPS):
            true = self.forward(x)
            if not eta or (m.reset and (t + 1) % m.reset == 0):
                eta = [0.5 + 0.01 * h.sign() for h in true[:-1]]  # departure 2
            s = [1 / (1 + torch.exp(-a * (e - 1e-6 - 0.5))) for e in eta]
            relaxed = self.forward(x, s)
            true_gates = [(h > 0).double() for h in true[:-1]]
            P = [self.W[0]]
            for i in range(1, layers + 1):
                P.append(self.W[i] @ torch.diag(s[i - 1]) @ P[-1])
            norms = [p.norm(dim=1) for p in P]
            if m.own_gate_in_norm:  # departure 7
                norms = [gate * norm for gate, norm in zip(s, norms, strict=False)] + norms[-1:]
            norms = [norm.clamp(min=m.norm_floor) for norm in norms[:-1]] + norms[-1:]

            scale = norms[-1] if m.output_scale == "hyperplane" else relaxed[-1].norm()  # departures 6 and 7
            out = self.out_gradient(relaxed[-1] / scale) / scale
            in_x = self.pull_back(s, layers, out)
            in_eta, back = [torch.empty(0)] * layers, out
            for i in range(layers, 0, -1):
                behind = self.W[i].T @ back
                in_eta[i - 1] = behind * relaxed[i - 1] * a * s[i - 1] * (1 - s[i - 1])
                back = s[i - 1] * behind

            total = 0.0
            for i in range(layers):  # departure 1: the largest neuron of each half
                distance = true[i] / norms[i]
                on = distance.clamp(min=0) * (0.5 - eta[i]).clamp(min=0)
                off = (-distance).clamp(min=0) * (eta[i] - 0.5).clamp(min=0)
                for half, sign in ((on, 1), (off, -1)):
                    if half.max() > 0:
                        j = half.argmax()
                        total += half[j].item()
                        push = torch.zeros_like(half)
                        push[j] = sign * (0.5 - eta[i][j]).abs() / norms[i][j]
                        in_x = in_x + beta * self.pull_back(true_gates, i, push)
                        in_eta[i][j] -= beta * sign * distance[j].abs()

            x = (x - m.step_size * _clipped(in_x)).clamp(-1, 1)
            accumulated = accumulated + total if m.penalty_gradient_accumulates else total
            change = -m.penalty_decay if accumulated <= m.agreement else m.penalty_step * accumulated
            beta = min(max(beta + change, 0.2), 10.0)  # departure 5
            for i in range(layers):
                move = _clipped(in_eta[i])  # departure 3
                if t - last[i] >= m.patience and move.norm() <= m.stillness:  # departure 4
                    move = move + m.kick_size * streams.normal(eta[i][None])[0]
                    last[i], kicks = t, kicks + 1
                eta[i] = (eta[i] - m.gate_step_size * move).clamp(0.3, 0.7)
            visited.append(x)
        return visited, kicks


def _clipped(g: Tensor) -> Tensor:
    return g / max(g.norm().item(), 1.0)


def _compare(method, module, objective, out_gradient) -> int:
    found = trajectory(method, module, Box(-1.0, 1.0), objective, START, 2 * STEPS)
    rows, kicks = [], 0
    for row, x in enumerate(START):
        visited, made = ByHand(method, module, out_gradient).run(x, RowStreams(SEED, [row]))
        rows.append(visited)
        kicks += made
    assert_same(found, [torch.stack(at_step) for at_step in zip(*rows, strict=True)])
    return kicks


@pytest.mark.parametrize("preset", ["random-a", "random-b", "random-c"])
@pytest.mark.parametrize("slope", [2000.0, 50.0])
def test_the_random_network_form(preset, slope):
    method = ActivationDescentReference.preset(preset, patience=5, slope=slope, step_size=0.1)
    objective = Linear(-torch.ones(1, dtype=torch.float64))
    module = network(*SIZES, 1)
    kicks = _compare(method, module, objective, lambda y: -torch.ones(1, dtype=torch.float64))
    assert kicks > 0 or slope == 50.0, "kicks are part of what is compared"


@pytest.mark.parametrize("preset", ["mnist-clean", "mnist-robust"])
@pytest.mark.parametrize("slope", [2000.0, 50.0])
def test_the_mnist_form(preset, slope):
    method = ActivationDescentReference.preset(preset, slope=slope, step_size=0.1, exact_norms=True, stillness=0.1)
    objective = -CrossEntropy(torch.ones(3, dtype=torch.int64))

    def out_gradient(y):
        return torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64) - torch.softmax(y, 0)

    _compare(method, network(*SIZES, 3), objective, out_gradient)


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
