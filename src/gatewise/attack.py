"""Attack a classifier: the field's habit `(model, images, labels)`, with an answer that can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from gatewise.catalogue import method_named
from gatewise.classification import Norm, attack_goal, check_images, norm_exponent
from gatewise.domains import Box, Domain, Intersection
from gatewise.domains.balls import BALLS
from gatewise.errors import InvalidInput
from gatewise.methods.base import Method
from gatewise.network import NetworkView
from gatewise.objectives import (
    CrossEntropy,
    DifferenceOfLogitsRatio,
    Objective,
    TargetedDifferenceOfLogitsRatio,
)
from gatewise.problem import Problem
from gatewise.result import Result
from gatewise.solve import goal_met, minimize, never

Loss = Literal["margin", "ce", "dlr"]
DEFAULT_BUDGET = 100


def attack(
    classifier: nn.Module | NetworkView,
    images: Tensor,
    labels: Tensor,
    *,
    radius: float,
    norm: Norm = "linf",
    method: Method | str = "apgd",
    loss: Loss = "margin",
    targets: Tensor | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    budget: int | None = DEFAULT_BUDGET,
    seconds: float | None = None,
    full_budget: bool = False,
    seed: int = 0,
    rows: Sequence[int] | None = None,
    progress: bool = True,
) -> Result:
    """Search a ball around each image for a point that is not classified as its label (or is as its target).

    Args:
        classifier: module from images (batch, …) to logits (batch, classes >= 2), in evaluation mode.
        images: (batch, …) float32 or float64, within `bounds`.
        labels: (batch,) int64.
        radius: of the ball, in units of pixels, in the norm `norm`.
        norm: linf, l2 or l1.
        method: a method, or its name with settings, such as "adr-gd:preset=mnist".
        loss: what to raise: margin (largest other logit minus the label's), ce (cross-entropy), dlr.
        targets: (batch,) int64 for a targeted attack; the loss takes its targeted form.
        bounds: smallest and largest value of a pixel, or None.
        budget: backward passes a row; None leaves it to the method (and to `seconds`).
        seconds: wall-clock limit.
        full_budget: go on after the first success, for the largest loss.
        seed: of every random draw.
        rows: names of the rows for their random streams.
        progress: show a progress bar on a terminal.

    Returns:
        A `Result`: `goal_met` says which rows succeeded; `value` is minus the loss.

    Raises:
        InvalidInput: images or labels that cannot be used.
    """
    network = classifier if isinstance(classifier, NetworkView) else NetworkView(classifier)
    check_images(images, labels, bounds)
    problem = Problem(
        network=network,
        domain=ball_in_box(images, norm, radius, bounds),
        objective=attack_objective(loss, labels, targets),
        goal=attack_goal(labels, targets),
    )
    return minimize(
        problem,
        method_named(method) if isinstance(method, str) else method,
        images,
        budget=budget,
        seconds=seconds,
        stop=never if full_budget else goal_met,
        seed=seed,
        rows=rows,
        progress=progress,
    )


def ball_in_box(images: Tensor, norm: str, radius: float, bounds: tuple[float, float] | None) -> Domain:
    """The ball of `radius` around each image, cut by the pixel `bounds`; raises InvalidInput for another norm."""
    ball = BALLS[norm_exponent(norm)](images, radius)
    return ball if bounds is None else Intersection(ball, Box(*bounds))


def attack_objective(loss: str, labels: Tensor, targets: Tensor | None) -> Objective:
    """Minus the loss that an attack raises, targeted if `targets` are given; raises InvalidInput for other names."""
    match loss:
        case "margin":
            return attack_goal(labels, targets)
        case "ce":
            return -CrossEntropy(labels) if targets is None else CrossEntropy(targets)
        case "dlr":
            ratio = DifferenceOfLogitsRatio(labels)
            return ratio if targets is None else TargetedDifferenceOfLogitsRatio(labels, targets)
    raise InvalidInput(f"There is no loss {loss!r}; choose margin, ce or dlr.")
