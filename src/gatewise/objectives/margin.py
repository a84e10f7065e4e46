"""Margins: who wins, and by how much. The definition of success for classifiers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from gatewise.objectives.base import Objective
from gatewise.objectives.logits import largest_other, logit_of, require_logits


@dataclass(frozen=True, eq=False)
class Margin(Objective):
    """`z_label - max of the other logits`: at most 0 exactly where the row is not classified as `labels` (batch,)
    int64.

    A tie counts as not classified. As an objective it is the loss of Carlini & Wagner (2017) without its floor; as a
    goal it is what "adversarial" means.
    """

    labels: Tensor

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(batch,); raises InvalidInput unless `y` is (batch, classes >= 2)."""
        require_logits(y, self.labels)
        return logit_of(y, self.labels) - largest_other(y, self.labels)


@dataclass(frozen=True, eq=False)
class TargetedMargin(Objective):
    """`max of the other logits - z_target`: at most 0 exactly where no class beats `targets` (batch,) int64."""

    targets: Tensor

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(batch,); raises InvalidInput unless `y` is (batch, classes >= 2)."""
        require_logits(y, self.targets)
        return largest_other(y, self.targets) - logit_of(y, self.targets)


@dataclass(frozen=True, eq=False)
class MarginTo(Objective):
    """`z_label - z_rival`: the margin to one other class, `rivals` (batch,) int64; at most 0 only where a row is not
    classified as `labels`. Easier to reach than `TargetedMargin`, which asks the rival to beat every class.
    """

    labels: Tensor
    rivals: Tensor

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(batch,); raises InvalidInput unless `y` is (batch, classes >= 2)."""
        require_logits(y, self.labels)
        return logit_of(y, self.labels) - logit_of(y, self.rivals)
