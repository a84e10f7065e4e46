"""The question: four fields, and never a fifth."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gatewise.domains.base import Domain
from gatewise.errors import InvalidInput
from gatewise.geometry import per_row
from gatewise.network.view import NetworkView
from gatewise.objectives.base import ObjectiveFunction, part_of


@dataclass(frozen=True, eq=False)
class Iterate:
    """A point that a method visited, detached: `x` (batch, …), the objective's `value` there (batch,), the true
    network's `output` (batch, …). A method that did not run the true network there leaves `value` and `output` None:
    the driver runs it. `by` names who found it, where a method is made of others. `ahead` announces a step that is
    dearer than the method's others: the backward passes, of all rows together, that it may take before the next yield.
    `diagnostics` are figures of the method's own, (batch,) each, that the result keeps by step.
    """

    x: Tensor
    value: Tensor | None = None
    output: Tensor | None = None
    by: str = ""
    ahead: int = 0
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Evaluation(Iterate):
    """An iterate whose gradient is still to be had: asking for it is what costs a backward pass."""

    gradient: Callable[[], Tensor] = lambda: torch.empty(0)
    """The objective's gradient in x, (batch, …)."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Minimise `objective` over inputs of `network` in `domain`; with a `goal`, among points where the goal is at
    most 0 as soon as one is known.

    Objectives are called as `(x, y) -> (batch,)`. A fixed-radius attack has a margin as goal and a loss as objective;
    a nearest point has a distance as objective and the margin as goal.
    """

    network: NetworkView
    domain: Domain
    objective: ObjectiveFunction
    goal: ObjectiveFunction | None = None

    def at(self, x: Tensor) -> Evaluation:
        """Run the network at `x` (batch, …): one forward pass a row; one backward pass when the gradient is asked
        for.
        """
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            output = self.network(leaf)
            value = self.measure(leaf, output)
        return Evaluation(leaf.detach(), value.detach(), output.detach(), gradient=lambda: input_gradient(value, leaf))

    def of_rows(self, rows: Tensor, x: Tensor, y: Tensor) -> Problem:
        """The problem for the rows `rows` (k,) int64 of inputs shaped as `x` (batch, …) with outputs as `y`.

        Raises:
            UnsupportedProblem: the set, the objective or the goal cannot be taken apart by rows.
        """
        goal = None if self.goal is None else part_of(self.goal, rows, x, y)
        return Problem(self.network, self.domain.of_rows(rows, x), part_of(self.objective, rows, x, y), goal)

    def measure(self, x: Tensor, output: Tensor) -> Tensor:
        """The objective's values, checked to be one number a row."""
        value = self.objective(x, output)
        if not isinstance(value, Tensor) or value.shape != x.shape[:1]:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise InvalidInput(
                f"The objective returned {shape} for {len(x)} rows; it must return one value a row, shape ({len(x)},)."
            )
        return value


@dataclass(eq=False)
class Best:
    """The best point of each row so far: points that meet the goal go before points that do not; then the smaller value
    wins. `x` (batch, …), `value` (batch,), `goal_met` (batch,) bool.
    """

    x: Tensor
    value: Tensor
    goal_met: Tensor

    @classmethod
    def none_yet(cls, x: Tensor) -> Best:
        """Before any iterate: any beats it."""
        return cls(x, x.new_full(x.shape[:1], torch.inf), torch.zeros(len(x), dtype=torch.bool, device=x.device))

    def take(self, problem: Problem, iterate: Iterate, closed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Take over the rows in which `iterate` is better, but for those that are `closed` (batch,) bool. Returns the
        objective's values at the iterate and which rows were taken over, (batch,) each.
        """
        value, output = iterate.value, iterate.output
        with torch.no_grad():
            if output is None or value is None:
                output = problem.network(iterate.x)
                value = problem.measure(iterate.x, output)
            met = torch.zeros_like(self.goal_met) if problem.goal is None else problem.goal(iterate.x, output) <= 0
            better = (met & ~self.goal_met) | ((met == self.goal_met) & (value < self.value))
            better = better & ~value.isnan()
            if closed is not None:
                better = better & ~closed
            self.x = torch.where(per_row(better, iterate.x), iterate.x, self.x)
            self.value = torch.where(better, value, self.value)
            self.goal_met = torch.where(better, met, self.goal_met)
        return value, better


def input_gradient(value: Tensor, x: Tensor, *, keep: bool = False) -> Tensor:
    """The gradient of `value` (batch,) in `x` (batch, …), zero where it does not depend on it. Frees the graph, unless
    it is to `keep` it for another value of the same run.
    """
    if not value.requires_grad:
        return torch.zeros_like(x)
    (gradient,) = torch.autograd.grad(value, x, torch.ones_like(value), retain_graph=keep, allow_unused=True)
    return torch.zeros_like(x) if gradient is None else gradient
