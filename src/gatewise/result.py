"""The answer, and what to make of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gatewise.errors import GatewiseError


class Status(enum.Enum):
    """How a row ended: a sentence for people, with the remedy."""

    GOAL_MET = "The goal is met."
    BUDGET_SPENT = "The budget of backward passes is spent; a larger budget may find more."
    TIME_SPENT = "The time is spent; more seconds may find more."
    FINISHED = "The method ended by itself; another method, start or seed may find more."
    STOPPED = "The callback or the stop rule ended the run."
    ZERO_GRADIENT = (
        "The last gradient was exactly zero, so no gradient method moves from here: use a loss that does not saturate "
        "(margin or dlr instead of cross-entropy), another start, or float64."
    )
    NOT_FINITE = "The network returned NaN or infinity at every point visited; check its weights and the input's scale."
    NOT_REPRODUCED = (
        "A goal met during the run was not met by a fresh pass of the untouched module: the point lies on the "
        "decision's edge to rounding, or the module is not deterministic."
    )

    def __str__(self) -> str:
        """The sentence."""
        return self.value


@dataclass(frozen=True, eq=False)
class Result:
    """The best feasible point of each row, as checked by a fresh pass of the user's own module.

    Attributes:
        x: (batch, …), in the domain exactly, in the start's dtype.
        value: the objective there, (batch,).
        goal_met: whether the goal is at most 0 there, (batch,) bool; all False where the problem has no goal.
        violation: how far x is outside the domain, (batch,) float64.
        status: one for each row.
        steps: points visited.
        forwards_per_row: forward passes of the network, mean over rows (the final check not counted).
        backwards_per_row: backward passes, likewise: what the budget counts.
        seconds: wall-clock time.
        history: the best value so far after each step, (steps, batch). It never rises, except at the step where a row
            first meets the goal: points that meet it go before points that do not.
        last_value: the objective at the last point visited, (batch,), best or not; for a row that the stop rule had
            closed, at the point that closed it. Infinite where no point was visited.
        found_by: the method's name for each row, or that of its member which found the point.
        diagnostics: figures of the method's own by name, (steps, batch) each, NaN at steps that told none: the primal
            and dual residuals of `admm`.
    """

    x: Tensor
    value: Tensor
    goal_met: Tensor
    violation: Tensor
    status: tuple[Status, ...]
    steps: int
    forwards_per_row: float
    backwards_per_row: float
    seconds: float
    history: Tensor
    last_value: Tensor
    found_by: tuple[str, ...] = ()
    diagnostics: Mapping[str, Tensor] = field(default_factory=dict)

    def require(self) -> Result:
        """This result, if every row is feasible and meets the goal.

        Raises:
            GatewiseError: naming the first row that does not, and its status.
        """
        for row, (met, violation, status) in enumerate(zip(self.goal_met, self.violation, self.status, strict=True)):
            if not met or violation > 0:
                raise GatewiseError(f"Row {row} does not meet the goal inside the domain. {status}")
        return self

    def best(self) -> int:
        """The row with the smallest value among those that meet the goal, or among all where none does."""
        open_rows = self.value.where(self.goal_met, torch.inf) if self.goal_met.any() else self.value
        return int(open_rows.argmin())
