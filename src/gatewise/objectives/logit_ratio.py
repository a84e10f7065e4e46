"""The difference-of-logits ratio of Croce & Hein (ICML 2020): a margin that does not change when the logits are
scaled.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gatewise.objectives.base import Objective
from gatewise.objectives.logits import logit_of, require_logits
from gatewise.objectives.margin import Margin, TargetedMargin

# Keeps the ratio finite where the compared logits tie.
_FLOOR = 1e-12


@dataclass(frozen=True, eq=False)
class DifferenceOfLogitsRatio(Objective):
    """`(z_label - max of the others) / (z_1st - z_3rd)`, sorted downwards; `labels` (batch,) int64.

    The paper's DLR loss with its sign turned, since small is good here. With two classes there is no third logit: the
    plain margin takes its place.
    """

    labels: Tensor

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(batch,); raises InvalidInput unless `y` is (batch, classes >= 2)."""
        margin = Margin(self.labels)(x, y)
        if y.shape[1] < 3:
            return margin
        first, _, third = y.topk(3, dim=1).values.unbind(1)
        return margin / (first - third + _FLOOR)


@dataclass(frozen=True, eq=False)
class TargetedDifferenceOfLogitsRatio(Objective):
    """`(z_label - z_target) / (z_1st - (z_3rd + z_4th) / 2)`; `labels`, `targets` (batch,) int64.

    The paper's targeted DLR loss with its sign turned. With fewer than four classes: the plain targeted margin.
    """

    labels: Tensor
    targets: Tensor

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(batch,); raises InvalidInput unless `y` is (batch, classes >= 2)."""
        require_logits(require_logits(y, self.labels), self.targets)
        if y.shape[1] < 4:
            return TargetedMargin(self.targets)(x, y)
        first, _, third, fourth = y.topk(4, dim=1).values.unbind(1)
        return (logit_of(y, self.labels) - logit_of(y, self.targets)) / (first - (third + fourth) / 2 + _FLOOR)
