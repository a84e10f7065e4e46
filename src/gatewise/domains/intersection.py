"""The intersection of two sets."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gatewise.domains.balls import L1Ball, L2Ball
from gatewise.domains.base import Domain
from gatewise.domains.box import Box
from gatewise.domains.cut_ball import CutBall
from gatewise.domains.intervals import Intervals
from gatewise.domains.overlap import Overlap
from gatewise.geometry import HalfSpaces
from gatewise.streams import RowStreams


@dataclass(frozen=True, eq=False)
class Intersection(Domain):
    """The points that lie in both sets."""

    first: Domain
    second: Domain
    _whole: Domain = field(init=False, repr=False)

    def __post_init__(self):
        object.__setattr__(self, "_whole", _join(_whole(self.first), _whole(self.second)))

    def project(self, x: Tensor) -> Tensor:
        """The nearest point that lies in both sets."""
        return self._whole.project(x)

    def violation(self, x: Tensor) -> Tensor:
        """The larger of the two sets' violations, (batch,) float64."""
        return torch.maximum(self.first.violation(x), self.second.violation(x))

    def steepest(self, gradient: Tensor) -> Tensor:
        return self._whole.steepest(gradient)

    def support(self, direction: Tensor) -> Tensor:
        return self._whole.support(direction)

    def sample(self, streams: RowStreams, like: Tensor) -> Tensor:
        return self._whole.sample(streams, like)

    def size(self, like: Tensor) -> Tensor:
        return self._whole.size(like)

    def halfspaces(self, like: Tensor) -> HalfSpaces:
        return self._whole.halfspaces(like)


def _whole(member: Domain) -> Domain:
    return member._whole if isinstance(member, Intersection) else member


def _join(first: Domain, second: Domain) -> Domain:
    if isinstance(first, Intervals) and isinstance(second, Intervals):
        pair = Overlap(first, second)
        both_boxes = isinstance(first, Box) and isinstance(second, Box)
        return Box(*pair.nonempty_edges(torch.float64)) if both_boxes else pair
    for ball, box in ((first, second), (second, first)):
        if isinstance(ball, L1Ball | L2Ball) and isinstance(box, Intervals):
            return CutBall(ball, box)
    raise NotImplementedError
