"""Total variation of the input: what is known of an image before anything is measured."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import pad

from gatewise.errors import InvalidInput
from gatewise.objectives.base import Objective


@dataclass(frozen=True)
class TotalVariation(Objective):
    """`weight * mean over pixels and channels of sqrt(dx^2 + dy^2)`: edges cost their height, noise costs much.

    dx and dy are the differences to the pixel on the right and below, 0 at the last one (Rudin, Osher & Fatemi 1992).
    The root is rounded off below 1e-3, so that flat parts have a gradient.
    """

    weight: float

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """(batch,); raises InvalidInput unless `x` is (batch, channels, height, width)."""
        if x.ndim != 4:
            raise InvalidInput(
                f"Total variation is that of images (batch, channels, height, width), got {tuple(x.shape)}; leave it "
                "out."
            )
        across, down = pad(x.diff(dim=3), (0, 1)), pad(x.diff(dim=2), (0, 0, 0, 1))
        return self.weight * ((across.square() + down.square() + 1e-6).sqrt() - 1e-3).flatten(1).mean(1)
