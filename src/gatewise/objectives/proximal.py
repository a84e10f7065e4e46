"""Proximal steps: the output that makes an objective small and stays near a given one.

`argmin over y of objective(y) + rho/2 ||y - centre||^2`, (batch, …), with rho > 0 for each row. Closed forms but for
cross-entropy: towards a class by Newton steps whose systems are diagonal plus rank one (Sherman & Morrison 1950),
away from it, where it is concave, by linearising it again and again (the concave-convex procedure, Yuille &
Rangarajan 2003).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gatewise.errors import UnsupportedProblem
from gatewise.geometry import per_row
from gatewise.objectives.base import Negative, ObjectiveFunction
from gatewise.objectives.cross_entropy import CrossEntropy
from gatewise.objectives.distance import SquaredOutputDistance
from gatewise.objectives.linear import Linear
from gatewise.objectives.logits import require_logits
from gatewise.objectives.margin import Margin, MarginTo, TargetedMargin

_STEPS = 100


@runtime_checkable
class Proximal(Protocol):
    """An objective of the output alone that brings its own proximal step."""

    def proximal_step(self, centre: Tensor, rho: Tensor) -> Tensor:
        """`argmin over y of objective(y) + rho/2 ||y - centre||^2`, for `centre` (batch, …) and `rho` (batch,)."""
        ...


def proximal_step(objective: ObjectiveFunction, centre: Tensor, rho: Tensor) -> Tensor:
    """The outputs (batch, …) that minimise `objective + rho/2 ||y - centre||^2`, for `centre` (batch, …) and `rho`
    (batch,) above 0.

    Raises:
        UnsupportedProblem: the objective is no function of the output whose proximal step is known.
        InvalidInput: `centre` is no batch of logits where the objective is about classes.
    """
    match objective:
        case Proximal():
            return objective.proximal_step(centre, rho)
        case Linear(weights):
            return centre - weights / per_row(rho, centre)
        case Negative(Linear(weights)):
            return centre + weights / per_row(rho, centre)
        case SquaredOutputDistance(target):
            rho = per_row(rho, centre)
            return (2 * target + rho * centre) / (2 + rho)
        case MarginTo(labels, others):
            return _exchange(centre, rho, labels, others)
        case Negative(MarginTo(labels, others)):
            return _exchange(centre, rho, others, labels)
        case Margin(labels) | Negative(TargetedMargin(labels)):
            # Minus the largest of the others is the least of minus each: one rival takes the whole step.
            rival = _without(require_logits(centre, labels), labels).argmax(1)
            return _exchange(centre, rho, labels, rival)
        case TargetedMargin(targets) | Negative(Margin(targets)):
            return _lower_the_others(require_logits(centre, targets), rho, targets)
        case CrossEntropy(labels):
            return _toward(require_logits(centre, labels), rho, labels)
        case Negative(CrossEntropy(labels)):
            return _away(require_logits(centre, labels), rho, labels)
        case _:
            kind = type(objective.objective if isinstance(objective, Negative) else objective).__name__
            raise UnsupportedProblem(
                f"No proximal step is known for {'minus ' * isinstance(objective, Negative)}{kind}; use Linear, "
                "Margin, MarginTo, TargetedMargin, CrossEntropy or SquaredOutputDistance (Penalised around it for a "
                "penalty on the input), give it a method proximal_step(centre, rho), or use adam or pgd."
            )


def _exchange(centre: Tensor, rho: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """One logit a row goes down and one up, by 1/rho."""
    step = (1 / rho)[:, None]
    return require_logits(centre, down).scatter_add(1, down[:, None], -step).scatter_add(1, up[:, None], step)


def _without(y: Tensor, labels: Tensor) -> Tensor:
    return y.scatter(1, labels[:, None], -torch.inf)


def _lower_the_others(centre: Tensor, rho: Tensor, targets: Tensor) -> Tensor:
    """The target goes up by 1/rho, the others come down to one level that takes 1/rho off them in all."""
    step = 1 / rho[:, None]
    others = _without(centre, targets).sort(1, descending=True).values[:, :-1]
    counts = torch.arange(1, others.shape[1] + 1, dtype=centre.dtype, device=centre.device)
    level = ((others.cumsum(1) - step) / counts).amax(1, keepdim=True)
    raised = centre.gather(1, targets[:, None]) + step
    return torch.minimum(centre, level).scatter(1, targets[:, None], raised)


def _toward(centre: Tensor, rho: Tensor, labels: Tensor) -> Tensor:
    """Newton's method for `logsumexp(y) - y_label + rho/2 ||y - centre||^2`, in float64; no logit moves by more than 2
    in a step, within which the Hessian keeps its size.
    """
    w, r = centre.double(), rho.double()[:, None]
    label = torch.nn.functional.one_hot(labels, w.shape[1]).double()
    y = _bridged(w, r, labels)
    for _ in range(_STEPS):
        p = y.softmax(1)
        gradient = p - label + r * (y - w)
        inverse = 1 / (p + r)
        scaled = gradient * inverse
        # 1 - p'D^-1 p = sum rho p / (p + rho), without the cancellation.
        rank_one = p * inverse * ((p * scaled).sum(1) / (r * p * inverse).sum(1))[:, None]
        step = scaled + rank_one
        longest = step.abs().amax(1, keepdim=True)
        y = y - step / (longest / 2).clamp_min(1)
        if not bool((longest > 1e-10 * (1 + y.abs().amax(1, keepdim=True))).any()):
            break
    return y.to(centre.dtype)


def _bridged(w: Tensor, r: Tensor, labels: Tensor) -> Tensor:
    """Where to begin: label and best rival moved together until they are as far apart as one rival alone would be."""
    at = w.gather(1, labels[:, None])
    rival = _without(w, labels).amax(1, keepdim=True)
    apart = -(r * (rival - at).clamp_min(1)).log().clamp_max(0)
    move = ((rival - at + apart) / 2).clamp_min(0).minimum(1 / r)
    return torch.minimum(w, rival - move).scatter(1, labels[:, None], at + move)


def _away(centre: Tensor, rho: Tensor, labels: Tensor) -> Tensor:
    """A stationary point of `y_label - logsumexp(y) + rho/2 ||y - centre||^2`, from where the margin's step leads."""
    w, r = centre.double(), rho.double()
    label = torch.nn.functional.one_hot(labels, w.shape[1]).double()
    y = _exchange(w, r, labels, _without(w, labels).argmax(1))
    for _ in range(_STEPS):
        before, y = y, w + (y.softmax(1) - label) / r[:, None]
        if not bool(((y - before).abs() > 1e-10 * (1 + y.abs())).any()):
            break
    return y.to(centre.dtype)
