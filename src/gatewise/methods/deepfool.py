"""DeepFool: the shortest step across the nearest of the linearised boundaries, until a boundary is crossed.

Source: Moosavi-Dezfooli, Fawzi & Frossard, "DeepFool: a simple and accurate method to fool deep neural networks" (CVPR
2016, arXiv:1511.04599), Algorithm 2 and, for goals that are no `Margin`, Algorithm 1; equations (11) and (12) for other
norms than 2.

Legend: gap = the paper's |f'_k|, by how much the label's logit is above another; length = its |f'_k| / ||w'_k||_q.

Deviations: (1) Each step goes past the boundary by the overshoot, as in the authors' code, not their sum at the end.
(2) Steps are cut by the set, where the paper has none. (3) Only the classes that are likeliest at the start are
linearised, as in all implementations. (4) The norm is that of a `Distance`, else the set's own. (5) `nudge`, as in the
authors' code.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.geometry import per_row
from gatewise.methods.base import Method, Start, Steps, boundary_of, origin_of, require_positive, steepest_of
from gatewise.objectives.margin import Margin
from gatewise.objectives.targeted import rivals
from gatewise.problem import Iterate, Problem, input_gradient

_FARTHEST = 1e9  # Where a gap is all but flat its zeros lie outside any set, and the step to them outside the numbers.


@dataclass(frozen=True, kw_only=True)
class DeepFool(Method):
    """Steps across the nearest linearised boundary until one is crossed.

    For a `Distance` as objective: a near point that meets the goal, in a few steps. It ends where every row has
    crossed. A step costs a backward pass for each class but the label's, one where the goal is no `Margin`.
    """

    name: ClassVar[str] = "deepfool"

    step_size: float = 1.02
    """Length of a step, in distances to the linearised boundary: a little past it (1 + the paper's overshoot)."""
    nudge: float = 1e-4
    """What is added to the distance of a boundary, in units of its norm: steps that the set cuts would else come ever
    closer to the boundary and never cross it."""
    candidates: int = 10
    """How many classes are looked at, the label's and the likeliest others at the start."""
    steps: int | None = None
    """Steps to take; None: as many as the budget pays for."""

    def __post_init__(self):
        require_positive(step_size=self.step_size, steps=self.steps)
        if self.candidates < 2:
            raise InvalidInput(f"candidates must be at least 2, the label's class and another, got {self.candidates}.")
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Algorithm 2."""
        boundary, x = boundary_of(problem), start.points
        steepest = steepest_of(problem, origin_of(problem, start), self.name)
        crossed = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        classes: Tensor | None = None
        for step in itertools.count():
            leaf = x.detach().requires_grad_()
            with torch.enable_grad():
                output = problem.network(leaf)
                value = boundary.measure(leaf, output)
                gaps: Sequence[Tensor] = [value]
                if isinstance(boundary.objective, Margin):
                    if classes is None:
                        classes = rivals(boundary.objective, output.detach())[:, : self.candidates - 1]
                    own = output.gather(1, boundary.objective.labels[:, None])
                    gaps = (own - output.gather(1, classes)).unbind(1)
            crossed = crossed | (value.detach() <= 0)
            last = step == start.steps(self.steps, cost=len(gaps)) or bool(crossed.all())
            told = problem.measure(x, output.detach())
            yield Iterate(x, told, output.detach(), ahead=0 if last else len(gaps) * len(x))
            if last:
                return
            ahead = problem.domain.project(x + self.step_size * _shortest_way(gaps, leaf, steepest, self.nudge))
            x = torch.where(per_row(crossed, x), x, ahead)


def _shortest_way(gaps: Sequence[Tensor], x: Tensor, steepest: Callable[[Tensor], Tensor], nudge: float) -> Tensor:
    """To the nearest of the linearised zeros of the gaps, and as much as `nudge` past it: (batch, …)."""
    way, shortest = torch.zeros_like(x), torch.full_like(gaps[0], torch.inf)
    for gap in gaps:
        gradient = input_gradient(gap, x, keep=gap is not gaps[-1])
        direction = steepest(gradient)
        length = gap.detach() / (gradient * direction).flatten(1).sum(1) + nudge
        nearer = length.abs() < shortest
        shortest = shortest.where(~nearer, length.abs())
        way = way.where(~per_row(nearer, x), -per_row(length.clamp(-_FARTHEST, _FARTHEST), x) * direction)
    return way.detach()
