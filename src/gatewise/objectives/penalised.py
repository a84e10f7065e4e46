"""An objective that also holds the input near a point."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.objectives.base import Objective, ObjectiveFunction


@dataclass(frozen=True, eq=False)
class Penalised(Objective):
    """`objective(x, y) + weight / 2 * ||x - origin||_2^2`; `origin` has the shape of one input or of the batch.

    Raises:
        InvalidInput: a weight that is not a finite number, at least 0.
    """

    objective: ObjectiveFunction
    origin: Tensor
    weight: float

    def __post_init__(self):
        if not 0 <= self.weight < math.inf:
            raise InvalidInput(f"The weight of a penalty must be a finite number, at least 0, got {self.weight}.")

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(batch,)."""
        return self.objective(x, y) + self.weight / 2 * (x - self.origin).flatten(1).square().sum(1)


def penalty_of(objective: ObjectiveFunction, like: Tensor) -> tuple[ObjectiveFunction, float, Tensor]:
    """The objective without its quadratic penalty, the penalty's weight (0 where there is none), and its origin shaped
    as `like` (batch, …).
    """
    if not isinstance(objective, Penalised):
        return objective, 0.0, torch.zeros_like(like)
    return objective.objective, objective.weight, objective.origin.to(like).expand_as(like)
