"""Reading logits: the checks and the one comparison that every classification objective shares."""

from __future__ import annotations

import torch
from torch import Tensor

from gatewise.errors import InvalidInput


def require_logits(y: Tensor, labels: Tensor) -> Tensor:
    """`y` itself, if it is (batch, classes >= 2) with one int64 label a row; raises InvalidInput otherwise."""
    if y.ndim != 2 or y.shape[1] < 2:
        raise InvalidInput(
            f"A classification objective needs logits of shape (batch, classes >= 2), got {tuple(y.shape)}; "
            "flatten the network's output, or give a single score as two logits (0, score)."
        )
    if labels.shape != y.shape[:1]:
        raise InvalidInput(
            f"There are {tuple(labels.shape)} labels for {y.shape[0]} rows of logits; give one label a row."
        )
    if labels.dtype != torch.int64:
        raise InvalidInput(f"Labels must be int64, got {labels.dtype}; convert them as by `labels.long()`.")
    if bool((labels < 0).any()) or bool((labels >= y.shape[1]).any()):
        raise InvalidInput(
            f"Labels and targets must lie between 0 and {y.shape[1] - 1}, the network's last class; "
            f"got {int(labels.min())} to {int(labels.max())}."
        )
    return y


def logit_of(y: Tensor, labels: Tensor) -> Tensor:
    """The logit of each row's own label, (batch,)."""
    return y.gather(1, labels[:, None]).squeeze(1)


def largest_other(y: Tensor, labels: Tensor) -> Tensor:
    """The largest logit of each row among the classes other than its label, (batch,)."""
    return y.scatter(1, labels[:, None], -torch.inf).amax(1)
