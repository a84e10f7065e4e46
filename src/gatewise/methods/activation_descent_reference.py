"""ADR-GD as its authors released it: `adr-gd-reference`, beside `adr-gd`, which is Algorithm 1 as printed.

Source: the code published with Yu & Gao (ICML 2024), which has two forms of one loop: for random networks and for
MNIST. Where the two differ there is a field; its presets hold the shipped settings of both.

Legend: as in `activation_descent`; eta here is 1 - sigma of the released code.

How it departs from the printed algorithm: (1) the penalty of a gate layer takes the largest neuron of each half, not
the sum. (2) eta starts at 1/2 +- 0.01, lives in [0.3, 0.7], and the surrogate's threshold is shifted by 1e-6. (3)
Gradients are divided by their norm only where it exceeds 1. (4) A kick comes at `t - last >= patience`, last = 0,
counted from t = 0, and stillness is tested on the clipped gradient (the same below 1). (5) beta stays in [0.2, 10].
(6) Random networks: the surrogate's output is divided by its own hyperplane norm (`output_scale="hyperplane"`), norms
have no floor. (7) MNIST: logits are divided by their detached norm (`output_scale="logits"`); the own gate is
multiplied into P (`own_gate_in_norm`) and the norm floored at 1 (`norm_floor`); eta is set back to the true pattern
every 16 steps (`reset`); beta's gradient is never cleared (`penalty_gradient_accumulates`).

How this differs from the released code: (a) x is projected onto the problem's domain: the released MNIST code keeps
only the perturbation in its box, and its image leaves [0, 1]; give the bare `LinfBall` to have that. (b) The driver
keeps the best point of all, where the MNIST code looks only when a kick fires. (c) Rows are independent and solved
together. (d) 0/0 at an unreachable neuron counts as the undivided pre-activation. (e) Norms come from forward passes
instead of products of dense matrices; `exact_norms=False` takes the running estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from gatewise.geometry import per_row, row_norm
from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.network.consistency import choose_switches, disagreement, per_gate
from gatewise.network.hyperplanes import RunningNorms, exact_norms, reachable
from gatewise.network.rules import Fixed, PerGate, Surrogate
from gatewise.network.view import Trace
from gatewise.problem import Iterate, Problem

_THRESHOLD_SHIFT = 1e-6
_ETA_START, _ETA_LOW, _ETA_HIGH = 0.01, 0.3, 0.7
_BETA_LOW, _BETA_HIGH = 0.2, 10.0


@dataclass(frozen=True, kw_only=True)
class ActivationDescentReference(Method):
    """ADR-GD as its authors released it."""

    name: ClassVar[str] = "adr-gd-reference"

    step_size: float = 1.0
    """Factor of the clipped gradient in x, in input units."""
    gate_step_size: float = 0.25
    """Factor of each gate's clipped gradient in eta."""
    penalty: float = 0.5
    """beta at the start."""
    penalty_step: float = 1e-4
    """How fast beta grows with the disagreement."""
    penalty_decay: float = 1e-3
    """What beta loses at a step where its gradient is at most `agreement`."""
    agreement: float = 1e-2
    """Size of beta's gradient at which it falls."""
    kick_size: float = 1e-3
    """Scale of the noise in eta when its gradient is still."""
    stillness: float = 1e-5
    """Norm of a gate's gradient in eta up to which it counts as still."""
    patience: int = 5
    """Steps between two kicks of a gate."""
    slope: float = 2000.0
    """Steepness of the surrogate gate."""
    gates: str = "all"
    """Gates that carry eta: all, last, or positions among the elementwise gates such as 0,2."""
    output_scale: Literal["none", "hyperplane", "logits"] = "logits"
    """What the surrogate's output is divided by before the objective sees it."""
    own_gate_in_norm: bool = True
    """Multiply a neuron's own gate into its hyperplane norm."""
    norm_floor: float = 1.0
    """Smallest hyperplane norm to divide by."""
    reset: int = 16
    """Steps between two resets of eta to the true pattern; 0 for never."""
    penalty_gradient_accumulates: bool = True
    """beta's gradient is the running sum of the disagreement, as in the MNIST code."""
    exact_norms: bool = False
    """Compute ||P|| by one forward pass per input coordinate at every step, as the released code does with matrices."""
    steps: int | None = None
    """The paper's T; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(
            step_size=self.step_size, gate_step_size=self.gate_step_size, slope=self.slope, steps=self.steps
        )
        super().__post_init__()

    @property
    def backwards_per_step(self) -> int:
        """One through the true network, one through the surrogate."""
        return 2

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """The released loop."""
        network, x = problem.network, start.points
        eta: list[Tensor] = []
        chosen: tuple[int, ...] = ()
        last_kick: list[Tensor] = []
        beta = torch.full_like(x.flatten(1)[:, 0], self.penalty)
        beta_gradient = torch.zeros_like(beta)
        running = RunningNorms(network, start.streams)
        for t in range(start.steps(self.steps, cost=self.backwards_per_step)):
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                true = network.trace(x)
                value = problem.measure(x, true.output)
            yield Iterate(x.detach(), value.detach(), true.output.detach())

            if not chosen:
                chosen = choose_switches(true, self.gates)
                last_kick = [torch.zeros_like(beta) for _ in chosen]
            if not eta or (self.reset and (t + 1) % self.reset == 0):
                eta = [0.5 + _ETA_START * true.preactivations[i].detach().sign() for i in chosen]
            eta = [e.detach().requires_grad_() for e in eta]
            with torch.enable_grad():
                shifted = per_gate(true, chosen, [e - _THRESHOLD_SHIFT for e in eta])
                surrogate = network.trace(x, Surrogate(shifted, self.slope))
                norms = self._norms(running, surrogate, shifted)
                apart = torch.zeros_like(beta)
                for i, e in zip(chosen, eta, strict=True):
                    apart = apart + disagreement(true.preactivations[i], norms[i], e).largest_halves()
                lagrangian = problem.measure(x, self._scaled(surrogate.output, norms[-1])) + beta * apart
                total = lagrangian.sum()
            gradient, *gate_gradients = torch.autograd.grad(total, [x, *eta], materialize_grads=True)

            x = problem.domain.project(x.detach() - self.step_size * _clipped(gradient))
            apart = apart.detach()
            beta_gradient = beta_gradient + apart if self.penalty_gradient_accumulates else apart
            change = torch.where(
                beta_gradient <= self.agreement, -self.penalty_decay, self.penalty_step * beta_gradient
            )
            beta = (beta + change).clamp(_BETA_LOW, _BETA_HIGH)
            for i, (e, g) in enumerate(zip(eta, map(_clipped, gate_gradients), strict=True)):
                still = (t - last_kick[i] >= self.patience) & (row_norm(g) <= self.stillness)
                noise = self.kick_size * start.streams.normal(g, only=still)
                last_kick[i] = last_kick[i].masked_fill(still, t)
                eta[i] = (e.detach() - self.gate_step_size * (g + noise)).clamp(_ETA_LOW, _ETA_HIGH)
        yield problem.at(x)

    def _norms(self, running: RunningNorms, surrogate: Trace, shifted: PerGate) -> list[Tensor]:
        """||P|| by gate and last of the output, as the chosen form divides by it."""
        detached = tuple(e if e is None else e.detach() for e in shifted)

        def hold() -> Surrogate:
            return Surrogate(detached, self.slope, rest=Fixed(surrogate.pattern()))

        if not self.exact_norms:
            running.look(surrogate, hold)
        *norms, output = exact_norms(running.view, surrogate, hold()) if self.exact_norms else running.norms()
        output = reachable(output)
        if self.own_gate_in_norm:
            gates = [None if e is None else torch.sigmoid(self.slope * (e - 0.5)) for e in detached]
            norms = [norm if gate is None else gate * norm for norm, gate in zip(norms, gates, strict=True)]
        return [*(reachable(norm.clamp_min(self.norm_floor)) for norm in norms), output]

    def _scaled(self, output: Tensor, norm: Tensor) -> Tensor:
        if self.output_scale == "logits":
            return output / per_row(row_norm(output.detach()).clamp_min(1e-30), output)
        return output / norm if self.output_scale == "hyperplane" else output


def _clipped(gradient: Tensor) -> Tensor:
    """Each row divided by its norm where that exceeds 1."""
    return gradient / per_row(row_norm(gradient).clamp_min(1.0), gradient)


_RANDOM_NETWORKS: dict[str, object] = {
    "output_scale": "hyperplane", "own_gate_in_norm": False, "norm_floor": 0.0, "reset": 0, "exact_norms": True,
    "penalty_gradient_accumulates": False, "step_size": 0.5, "penalty": 1.0, "penalty_decay": 1e-2, "patience": 25,
}  # fmt: skip
# The shipped settings: small and large random networks (B after Table 2), and the two MNIST configurations.
ActivationDescentReference.presets = {
    "random-a": _RANDOM_NETWORKS | {"gate_step_size": 1.0, "penalty_step": 1e-2, "kick_size": 0.1, "stillness": 1e-4},
    "random-b": _RANDOM_NETWORKS | {"gate_step_size": 1.0, "penalty_step": 5e-3, "kick_size": 0.2, "stillness": 1e-3},
    "random-c": _RANDOM_NETWORKS | {"gate_step_size": 1.25, "penalty_step": 1e-4, "kick_size": 0.35, "stillness": 1e-2},
    "mnist-clean": {"step_size": 0.5, "kick_size": 1e-4},
    "mnist-robust": {"step_size": 1.0, "kick_size": 1e-3},
}
