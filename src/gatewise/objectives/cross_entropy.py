"""Cross-entropy of the softmax of the logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from gatewise.objectives.base import Objective
from gatewise.objectives.logits import require_logits


@dataclass(frozen=True, eq=False)
class CrossEntropy(Objective):
    """`-log softmax(y)[label]`, for `labels` (batch,) int64.

    Minimised at a target class, or as `-CrossEntropy(labels)` to leave the true one. Where a class wins by more than
    about 17 nats in float32 the value and its gradient are exactly 0: a status of the result says when that happened.
    """

    labels: Tensor

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(batch,) in nats; raises InvalidInput unless `y` is (batch, classes >= 2)."""
        return F.cross_entropy(require_logits(y, self.labels), self.labels, reduction="none")
