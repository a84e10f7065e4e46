"""Classifiers on images: what can be asked of them, what success means, and their plain logits."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.network import NetworkView
from gatewise.network.plain import plain_outputs
from gatewise.objectives import Margin, Objective, TargetedMargin

Norm = Literal["linf", "l2", "l1"]
_EXPONENTS = {"linf": math.inf, "l2": 2.0, "l1": 1.0}


def norm_exponent(norm: str) -> float:
    """The p of the norm called `norm`; raises InvalidInput for another word than linf, l2 and l1."""
    if norm not in _EXPONENTS:
        raise InvalidInput(f"There is no norm {norm!r}; choose linf, l2 or l1.")
    return _EXPONENTS[norm]


def attack_goal(labels: Tensor, targets: Tensor | None) -> Objective:
    """What success means, said once: at most 0 where a row is not its label any more, or is its target."""
    return Margin(labels) if targets is None else TargetedMargin(targets)


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
    logits = plain_outputs(network, images, batch, kind="images")
    if logits.ndim != 2:
        raise InvalidInput(
            f"The model returned {tuple(logits.shape)} for {len(images)} images; it must return logits, a row each."
        )
    return logits
