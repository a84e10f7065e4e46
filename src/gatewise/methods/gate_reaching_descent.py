"""Gate-reaching descent: let the objective's gradient through the gates whose hyperplanes a step can reach.

A relative of ADR-GD (Yu & Gao, ICML 2024). Their surrogate's derivative in eta vanishes at saturated gates, so the
objective cannot choose one; their steepest activation-descent direction (Definition 5.2) does not vanish, but followed
blindly it switches too many gates at once. Here each gate's relaxed state is tied to x, `nu = Phi(distance / reach)`
with `distance = h / ||P||` the signed distance to its hyperplane, and the gradient is that of `nu * z`: far gates
count as they stand, near ones are free to change. The forward pass is the true network's (a straight-through
estimator, Bengio et al. 2013, arXiv:1308.3432), and the reach falls to 0: a homotopy from all gates free to none
(slope annealing).

Legend: h = pre-activations; P = hyperplane normals with gates held at x; reach = distance in units of the set's size.

Deviations: (1) No penalty, no eta of its own, one backward pass a step. (2) ||P|| is the running estimate by forward
passes, refreshed every `refresh` steps. (3) Steps are the set's own steepest steps, as in pgd.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from gatewise.errors import InvalidInput
from gatewise.geometry import per_row
from gatewise.methods.base import Method, Start, Steps, cosine_decay, require_positive
from gatewise.network.hyperplanes import RunningNorms
from gatewise.network.rules import Fixed, Reaching
from gatewise.problem import Iterate, Problem, input_gradient


@dataclass(frozen=True, kw_only=True)
class GateReachingDescent(Method):
    """Steepest steps whose gradient opens and closes near gates."""

    name: ClassVar[str] = "gate-reach"

    step_size: float = 1.0
    """First step, in units of the set's size; it decays by half a cosine."""
    reach: float = 1.0
    """How far gates may be to take part at first, in units of the set's size; it falls to 0 linearly."""
    settle: float = 0.15
    """Share of the steps, at the end, that are taken with reach 0."""
    refresh: int = 3
    """Steps between two looks at ||P||."""
    steps: int | None = None
    """Steps to take; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(step_size=self.step_size, reach=self.reach, refresh=self.refresh, steps=self.steps)
        if self.settle >= 1:
            raise InvalidInput(f"settle must be below 1, got {self.settle}.")
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Look at the hyperplanes, yield x, step along the reaching gradient."""
        network, domain, steps = problem.network, problem.domain, start.steps(self.steps)
        x, size = start.points, domain.size(start.points)
        running = RunningNorms(network, start.streams, refresh=self.refresh, fresh=0.3, first=1)
        with torch.no_grad():
            here = network.trace(x).require_rows()
        for step in range(steps):
            running.look(here, lambda at=here: Fixed(at.pattern()))
            reach = self.reach * size * max(0.0, 1 - step / ((1 - self.settle) * steps))
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                here = network.trace(x, Reaching([per_row(reach, norm) * norm for norm in running.norms()[:-1]]))
                value = problem.measure(x, here.output)
            yield Iterate(x.detach(), value.detach(), here.output.detach())
            step_size = per_row(cosine_decay(step, steps) * self.step_size * size, x)
            x = domain.project(x.detach() - step_size * domain.steepest(input_gradient(value, x)))
        yield problem.at(x)
