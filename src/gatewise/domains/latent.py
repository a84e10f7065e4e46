"""The latents of a generator: a box with a normal prior in it."""

from __future__ import annotations

import torch
from torch import Tensor

from gatewise.domains._points import check_points
from gatewise.domains.box import Box
from gatewise.streams import RowStreams


class Latents(Box):
    """`-radius <= z <= radius`, entry by entry, where points are drawn as generators are trained: standard normal.

    Its unit of steps is one standard deviation of that draw, whatever the radius, which may be infinite.

    Args:
        radius: above 0; may be `inf`.
    """

    def __init__(self, radius: float = torch.inf):
        super().__init__(-radius, radius)

    def sample(self, streams: RowStreams, like: Tensor) -> Tensor:
        """Standard normal draws, those outside moved to the edge; shaped as `like`."""
        return self.project(streams.normal(like))

    def size(self, like: Tensor) -> Tensor:
        """1, (batch,)."""
        check_points(like)
        return torch.ones_like(like.flatten(1)[:, 0])
