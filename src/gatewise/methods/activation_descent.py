"""ADR-GD: gradient descent regularised by activation descent, as Algorithm 1 is printed.

Source: Yu & Gao, "Activation-descent regularization for input optimization of ReLU networks" (ICML 2024), Definition
5.3, equations 8 to 11, Algorithm 1, Appendix C.

Legend: eta = relaxed gates; beta = weight of the penalty; h = true pre-activations; P = hyperplane normals under the
gates eta; kick = the paper's perturbation; step_size, gate_step_size, penalty_step, kick_size, stillness, agreement,
patience and penalty_decay are its alpha_x, alpha_eta, alpha_beta, r, delta, delta_beta, T_p and gamma.

Deviations: (1) x is projected onto the domain and eta onto [0, 1], which the printed lines leave out. (2) Rows are
independent: each has its own beta, kick clock and normalised gradients. (3) ||P|| is estimated by forward passes
(`exact_norms` gives the printed form) and refreshed every `refresh` steps. (4) A zero gradient takes no step instead
of dividing by zero. (5) beta stays >= 0. (6) gamma is in no table of the paper; the default is the authors' MNIST
value. (7) The driver returns the best x, not the last. (8) Leaky gates become (slope + (1 - slope) s) z; max-pools
carry no eta. (9) A gradient in eta below
`stillness` is normalised like any other before the kick is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatewise.geometry import unit_rows
from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.network.consistency import choose_switches
from gatewise.network.hyperplanes import RunningNorms, exact_norms, reachable
from gatewise.network.paired_runs import Roots
from gatewise.network.relaxed import FreeGates, RelaxedGates
from gatewise.problem import Iterate, Problem


@dataclass(frozen=True, kw_only=True)
class ActivationDescent(Method):
    """Descend in x and in relaxed gates; gates that disagree pay."""

    name: ClassVar[str] = "adr-gd"

    step_size: float = 1.0
    """Length of a step in x, in input units (gradients are normalised by row)."""
    gate_step_size: float = 0.25
    """Length of a step in each gate's eta."""
    penalty: float = 2.0
    """beta at the start."""
    penalty_step: float = 1e-3
    """How fast beta grows with the disagreement."""
    penalty_decay: float = 1e-3
    """What beta loses at a step where the disagreement is below `agreement`."""
    agreement: float = 0.1
    """Disagreement below which beta falls."""
    kick_size: float = 0.1
    """Scale of the noise in eta when its gradient is still."""
    stillness: float = 1e-4
    """Norm of a gate's raw gradient in eta below which it counts as still."""
    patience: int = 5
    """Steps between two kicks of a gate."""
    slope: float = 2000.0
    """Steepness of the surrogate gate."""
    gates: str = "all"
    """Gates that carry eta: all, last, or positions among the elementwise gates such as 0,2."""
    refresh: int = 10
    """Steps between two looks at ||P||."""
    exact_norms: bool = False
    """Compute ||P|| by one forward pass per input coordinate at every step."""
    objective_moves_gates: bool = True
    """False is ablation M1: the objective's gradient does not reach eta."""
    penalty_moves_input: bool = True
    """False is ablation M2: the penalty's gradient does not reach x."""
    normalise_distances: bool = True
    """False is ablation M3: no division by ||P||."""
    kicks: bool = True
    """False is ablation M4: eta is never perturbed."""
    steps: int | None = None
    """The paper's T; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(
            step_size=self.step_size,
            gate_step_size=self.gate_step_size,
            slope=self.slope,
            refresh=self.refresh,
            steps=self.steps,
        )
        super().__post_init__()

    @property
    def backwards_per_step(self) -> int:
        """One through the true network, one through the surrogate."""
        return 2

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Algorithm 1."""
        network, x = problem.network, start.points
        with torch.no_grad():
            first = network.trace(x)
        gates = RelaxedGates(first, choose_switches(first, self.gates), self.slope)
        del first
        beta = torch.full_like(x.flatten(1)[:, 0], self.penalty)
        last_kick = beta.new_ones(len(gates.chosen), len(beta))
        running = RunningNorms(network, start.streams, refresh=self.refresh)
        for t in range(1, 1 + start.steps(self.steps, cost=self.backwards_per_step)):
            x, look = x.detach().requires_grad_(), self._estimates_norms and running.is_due
            compared = gates.compared()
            with torch.enable_grad():
                true = network.trace(x, compared, keep=look, remember=gates.chosen[0])
                value = problem.measure(x, true.output)
            free = gates.free(compared, true)
            told = {"agreement": gates.agreement(free)}
            yield Iterate(x.detach(), value.detach(), true.output.detach(), diagnostics=told)

            charge, by_height, by_eta = free.charge(self._norms(running, gates, x, free))
            weight, apart = beta.index_select(0, free.row), gates.by_row(free, charge)
            roots = compared.roots(weight * by_height) if self.penalty_moves_input else Roots()
            gradient = roots.gradient(x) if gates.one_graph_at_a_time else torch.zeros_like(x)
            with torch.enable_grad():
                rule = gates.surrogate(watched=self.objective_moves_gates)
                surrogate = network.trace(x, rule, keep=look, after=true)
                roots.add(problem.measure(x, surrogate.output))
            gradient = gradient + roots.gradient(x, rule.beside)
            gate_gradient = gates.gradient(free, weight * by_eta, rule)
            if self._estimates_norms:
                running.look(surrogate, lambda run=surrogate: gates.held(run), gates.chosen)
            del compared, true, value, surrogate, rule

            x = problem.domain.project(x.detach() - self.step_size * unit_rows(gradient))
            direction, norm = gates.directions(free, gate_gradient)
            still = (t - last_kick > self.patience) & (norm < self.stillness) & self.kicks
            last_kick = last_kick.masked_fill(still, t)
            kicks = [
                (gate, row, self.kick_size * start.streams.normal_row(row, gates.row_size(gate), x))
                for gate, row in still.nonzero().tolist()
            ]
            gates.step(free, direction, kicks, length=-self.gate_step_size)
            change = torch.where(apart < self.agreement, -self.penalty_decay, self.penalty_step * apart)
            beta = (beta + change).clamp_min(0)
        yield problem.at(x)

    @property
    def _estimates_norms(self) -> bool:
        return self.normalise_distances and not self.exact_norms

    def _norms(self, running: RunningNorms, gates: RelaxedGates, x: Tensor, free: FreeGates) -> Tensor | None:
        """||P|| under the gates eta, for the neurons that can be charged; None for M3."""
        if self._estimates_norms:
            return running.at(free.charged)
        if not self.normalise_distances:
            return None
        with torch.no_grad():
            base = running.view.trace(x, gates.surrogate(watched=False))
            exact = exact_norms(running.view, base, gates.held(base))
        return reachable(torch.cat([exact[i].flatten() for i in gates.chosen])[free.charged])


_COLUMNS = (
    "penalty", "step_size", "gate_step_size", "penalty_step", "kick_size", "stillness", "agreement", "patience",
    "penalty_decay",
)  # fmt: skip
_TABLE_2 = {
    "mnist": (2.0, 1.0, 0.25, 1e-3, 0.1, 1e-4, 0.1, 5, 1e-3),
    "cifar10": (0.5, 0.1, 0.5, 1e-3, 0.2, 1e-3, 0.1, 5, 1e-3),
    "imagenet": (0.5, 0.1, 0.5, 1e-3, 0.1, 1e-2, 0.05, 5, 1e-3),
    "mnist-targeted": (2.0, 0.5, 0.1, 1e-3, 0.01, 1e-4, 0.1, 5, 1e-3),
    "cifar10-targeted": (1.0, 0.1, 0.5, 1e-3, 0.1, 1e-3, 0.05, 5, 1e-3),
    "imagenet-targeted": (0.5, 0.1, 0.5, 1e-4, 0.01, 1e-2, 0.05, 5, 1e-3),
    "action-refinement": (0.5, 0.2, 0.1, 0.01, 0.05, 1e-3, 0.1, 10, 1e-3),
    "policy-attack": (0.5, 0.4, 0.25, 1e-3, 0.01, 1e-4, 0.1, 10, 1e-3),
    "random-a": (1.0, 0.5, 1.0, 0.01, 0.1, 1e-4, 1e-3, 25, 0.01),
    "random-b": (1.0, 0.5, 1.0, 0.005, 0.2, 1e-3, 0.01, 25, 0.01),
    "random-c": (1.0, 0.5, 1.25, 1e-4, 0.35, 1e-2, 0.01, 25, 0.01),
}
# All of Table 2 but T; the last column is the authors' code's. ImageNet gates the last layer only (Section 6.1).
ActivationDescent.presets = {
    name: dict(zip(_COLUMNS, row, strict=True)) | ({"gates": "last"} if name.startswith("imagenet") else {})
    for name, row in _TABLE_2.items()
}
