"""Algorithm 1 of Yu & Gao (ICML 2024) and what their released code does otherwise, written by hand: weights as
matrices, hyperplane normals as products of matrices, gradients by their formulas, one row at a time.

The departures of the released code bear the numbers of the docstring of `activation_descent_reference`. With none this
is `adr-gd`, with all of one form (random networks: all but 7, MNIST: all but 6) it is `adr-gd-reference`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from gatewise.streams import RowStreams

RANDOM_NETWORKS, MNIST = frozenset({1, 2, 3, 4, 5, 6}), frozenset({1, 2, 3, 4, 5, 7})


class ByHand:
    """The loop for one row.

    Args:
        settings: a method's fields, by name.
        module: linear layers with leaky gates of slope `leak` between them.
        out_gradient: the objective's gradient in the network's output.
        project: onto the domain.
        departs: numbers of the departures that are made.
    """

    def __init__(
        self,
        settings: dict,
        module: nn.Module,
        out_gradient: Callable[[Tensor], Tensor],
        project: Callable[[Tensor], Tensor],
        departs: frozenset[int] = frozenset(),
        leak: float = 0.0,
    ):
        self.m, self.out_gradient, self.project, self.departs, self.leak = (
            settings,
            out_gradient,
            project,
            departs,
            leak,
        )
        linear = [part for part in module if hasattr(part, "weight")]
        self.W, self.b = [part.weight.detach() for part in linear], [part.bias.detach() for part in linear]
        self.layers = len(self.W) - 1

    def forward(self, x: Tensor, gates: list[Tensor] | None = None) -> list[Tensor]:
        """Pre-activations and, last, the output; gates None: the network's own."""
        h = [self.W[0] @ x + self.b[0]]
        for i in range(1, len(self.W)):
            gate = self.own_gates(h[-1]) if gates is None else gates[i - 1]
            h.append(self.W[i] @ (gate * h[-1]) + self.b[i])
        return h

    def own_gates(self, h: Tensor) -> Tensor:
        return torch.where(h > 0, 1.0, self.leak).double()

    def norms(self, gates: list[Tensor], s: list[Tensor]) -> list[Tensor]:
        """||P_i||, P_i = W_i D_{i-1} W_{i-1} … D_1 W_1, by gate and last for the output."""
        P = [self.W[0]]
        for i in range(1, len(self.W)):
            P.append(self.W[i] @ torch.diag(gates[i - 1]) @ P[-1])
        *norms, out = [p.norm(dim=1) for p in P]
        if 7 in self.departs:
            norms = [(gate * norm).clamp(min=1.0) for gate, norm in zip(s, norms, strict=True)]
        return [torch.where(norm > 0, norm, 1.0) for norm in (*norms, out)]

    def pull_back(self, gates: list[Tensor], layer: int, cotangent: Tensor) -> Tensor:
        """The input gradient of <cotangent, h_layer> in the network with these gates."""
        for i in range(layer, 0, -1):
            cotangent = gates[i - 1] * (self.W[i].T @ cotangent)
        return self.W[0].T @ cotangent

    def charge(self, distance: Tensor, eta: Tensor) -> Tensor:
        """Equation 10 by neuron; departure 1: the largest of each half alone."""
        halves = [
            distance.clamp(min=0) * (0.5 - eta).clamp(min=0),
            (-distance).clamp(min=0) * (eta - 0.5).clamp(min=0),
        ]
        if 1 in self.departs:
            halves = [half * (torch.arange(len(half)) == half.argmax()) for half in halves]
        return halves[0] + halves[1]

    def direction(self, g: Tensor) -> Tensor:
        """A gradient's 2-norm becomes 1; departure 3: at most 1."""
        if 3 in self.departs:
            return g / max(g.norm().item(), 1.0)
        g = g / g.abs().max() if g.any() else g  # a gradient of 1e-200 has a direction, too
        return g / g.norm() if g.any() else g

    def run(self, x: Tensor, steps: int, streams: RowStreams) -> tuple[list[Tensor], int]:
        """The points visited, and the number of kicks."""
        m, a, layers, departs = self.m, self.m["slope"], self.layers, self.departs
        shift, (low, high) = (1e-6, (0.3, 0.7)) if 2 in departs else (0.0, (0.0, 1.0))
        first = 0 if 4 in departs else 1
        beta, accumulated, kicks, visited = m["penalty"], 0.0, 0, [x]
        eta: list[Tensor] = []
        last = [first] * layers
        for t in range(first, first + steps):
            true = self.forward(x)
            if not eta or (7 in departs and (t - first + 1) % 16 == 0):
                eta = [0.5 + 0.01 * h.sign() if 2 in departs else (h > 0).double() for h in true[:-1]]
            s = [1 / (1 + torch.exp(-a * (e - shift - 0.5))) for e in eta]
            gates = [self.leak + (1 - self.leak) * gate for gate in s]
            relaxed, true_gates = self.forward(x, gates), [self.own_gates(h) for h in true[:-1]]
            norms = self.norms(gates, s)

            scale = norms[-1] if 6 in departs else relaxed[-1].norm() if 7 in departs else 1.0
            out = self.out_gradient(relaxed[-1] / scale) / scale
            in_x = self.pull_back(gates, layers, out)
            in_eta, back = [torch.empty(0)] * layers, out
            for i in range(layers, 0, -1):
                behind = self.W[i].T @ back
                in_eta[i - 1] = behind * relaxed[i - 1] * (1 - self.leak) * a * s[i - 1] * (1 - s[i - 1])
                back = gates[i - 1] * behind
            if not m.get("objective_moves_gates", True):
                in_eta = [torch.zeros_like(g) for g in in_eta]

            total = 0.0
            for i in range(layers):
                norm = norms[i] if m.get("normalise_distances", True) else torch.ones_like(norms[i])
                distance = true[i] / norm
                charge = self.charge(distance, eta[i])
                total += charge.sum().item()
                push = (charge > 0) * (0.5 - eta[i]) / norm  # equation 11
                if m.get("penalty_moves_input", True):
                    in_x = in_x + beta * self.pull_back(true_gates, i, push)
                in_eta[i] = in_eta[i] - beta * distance * (charge > 0)

            x = self.project(x - m["step_size"] * self.direction(in_x))
            for i in range(layers):
                move = self.direction(in_eta[i])
                if 4 in departs:
                    kick = t - last[i] >= m["patience"] and in_eta[i].norm() <= m["stillness"]
                else:
                    kick = t - last[i] > m["patience"] and in_eta[i].norm() < m["stillness"]
                if kick and m.get("kicks", True):
                    move = move + m["kick_size"] * streams.normal(eta[i][None])[0]
                    last[i], kicks = t, kicks + 1
                eta[i] = (eta[i] - m["gate_step_size"] * move).clamp(low, high)
            accumulated = accumulated + total if 7 in departs else total
            falls = accumulated <= m["agreement"] if 5 in departs else accumulated < m["agreement"]
            beta += -m["penalty_decay"] if falls else m["penalty_step"] * accumulated
            beta = min(max(beta, 0.2), 10.0) if 5 in departs else max(beta, 0.0)
            visited.append(x)
        return visited, kicks
