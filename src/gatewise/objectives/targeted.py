"""From "not this class" to "that class"."""

from __future__ import annotations

import torch
from torch import Tensor

from gatewise.errors import UnsupportedProblem
from gatewise.objectives.base import Negative, Objective, ObjectiveFunction
from gatewise.objectives.cross_entropy import CrossEntropy
from gatewise.objectives.logit_ratio import DifferenceOfLogitsRatio, TargetedDifferenceOfLogitsRatio
from gatewise.objectives.logits import require_logits
from gatewise.objectives.margin import Margin, TargetedMargin


def toward(objective: ObjectiveFunction, targets: Tensor) -> Objective:
    """The targeted form of an untargeted objective, for `targets` (batch,) int64.

    Raises:
        UnsupportedProblem: the objective has none.
    """
    match objective:
        case Margin():
            return TargetedMargin(targets)
        case Negative(CrossEntropy()):
            return CrossEntropy(targets)
        case DifferenceOfLogitsRatio(labels):
            return TargetedDifferenceOfLogitsRatio(labels, targets)
        case _:
            raise _no_targeted_form(objective)


def rivals(objective: ObjectiveFunction, y: Tensor) -> Tensor:
    """The classes other than the objective's label, by falling logit in `y` (batch, classes): (batch, classes - 1)
    int64.

    Raises:
        UnsupportedProblem: the objective has no targeted form.
    """
    match objective:
        case Margin(labels) | Negative(CrossEntropy(labels)) | DifferenceOfLogitsRatio(labels):
            order = require_logits(y, labels).scatter(1, labels[:, None], -torch.inf)
            return order.argsort(dim=1, descending=True, stable=True)[:, :-1]
        case _:
            raise _no_targeted_form(objective)


def _no_targeted_form(objective: ObjectiveFunction) -> UnsupportedProblem:
    return UnsupportedProblem(
        f"{type(objective).__name__} has no targeted form; use Margin, -CrossEntropy or DifferenceOfLogitsRatio."
    )
