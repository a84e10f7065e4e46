"""Attack a classifier: the field's habit `(model, images, labels)`, with an answer that can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gatewise.catalogue import method_named
from gatewise.domains import Box, Domain, Intersection, L1Ball, L2Ball, LinfBall
from gatewise.errors import InvalidInput
from gatewise.methods.base import Method
from gatewise.network import NetworkView
from gatewise.objectives import (
    CrossEntropy,
    DifferenceOfLogitsRatio,
    Margin,
    Objective,
    TargetedDifferenceOfLogitsRatio,
    TargetedMargin,
)
from gatewise.problem import Problem
from gatewise.result import Result
from gatewise.solve import goal_met, minimize, never

Norm = Literal["linf", "l2", "l1"]
Loss = Literal["margin", "ce", "dlr"]
DEFAULT_BUDGET = 100
_BALLS = {"linf": LinfBall, "l2": L2Ball, "l1": L1Ball}


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
    if norm not in _BALLS:
        raise InvalidInput(f"There is no norm {norm!r}; choose linf, l2 or l1.")
    ball = _BALLS[norm](images, radius)
    return ball if bounds is None else Intersection(ball, Box(*bounds))


def attack_goal(labels: Tensor, targets: Tensor | None) -> Objective:
    """What success means, said once: at most 0 where a row is not its label any more, or is its target."""
    return Margin(labels) if targets is None else TargetedMargin(targets)


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


def check_images(images: Tensor, labels: Tensor, bounds: tuple[float, float] | None) -> None:
    """Raise InvalidInput, naming the problem and the remedy, for images or labels that cannot be attacked."""
    if len(images) == 0:
        raise InvalidInput("There are no images; check --count and --indices.")
    if labels.shape != images.shape[:1] or labels.dtype != torch.int64:
        raise InvalidInput(
            f"Labels must be int64 of shape ({len(images)},), one an image; "
            f"got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    if not bool(torch.isfinite(images).all()):
        raise InvalidInput("The images hold NaN or infinite pixels; repair them first.")
    if bounds is not None and (images.min() < bounds[0] or images.max() > bounds[1]):
        raise InvalidInput(
            f"Pixels lie between {images.min():.4g} and {images.max():.4g}, outside the bounds "
            f"{bounds[0]:g},{bounds[1]:g}; scale the images (normalise inside the model: --mean, --std), "
            "or give their true range by --bounds LO,HI or none."
        )


def check_labels(labels: Tensor, classes: int) -> None:
    """Raise InvalidInput unless `labels` (batch,) lie between 0 and `classes` - 1."""
    if int(labels.max()) >= classes or int(labels.min()) < 0:
        raise InvalidInput(
            f"Label {int(labels.max())} does not exist in a model of {classes} classes; check --data and --model."
        )


def plain_logits(network: NetworkView, images: Tensor, batch: int) -> Tensor:
    """The plain module's logits (images, classes), `batch` images at a time, uncounted and without a graph.

    Raises:
        InvalidInput: images that the module cannot take, or an output that is not finite logits, a row each.
    """
    try:
        with torch.no_grad():
            logits = torch.cat([network.plain(piece) for piece in images.split(batch)])
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(
            f"The model cannot take images of shape {tuple(images.shape[1:])}, {images.dtype}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    if logits.shape[0] != len(images) or logits.ndim != 2:
        raise InvalidInput(
            f"The model returned {tuple(logits.shape)} for {len(images)} images; it must return logits, a row each."
        )
    if not bool(torch.isfinite(logits).all()):
        raise InvalidInput("The model returns NaN or infinite logits on the clean images; check its weights.")
    return logits
