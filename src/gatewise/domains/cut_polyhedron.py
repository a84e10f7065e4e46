"""A polyhedron cut by a box."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from gatewise.domains.base import Domain
from gatewise.domains.box import Box
from gatewise.domains.intervals import Intervals
from gatewise.domains.polyhedron import Polyhedron
from gatewise.geometry import HalfSpaces
from gatewise.streams import RowStreams


@dataclass(frozen=True, eq=False)
class CutPolyhedron(Domain):
    """The points of `polyhedron` that lie in `box`: the polyhedron of all their faces.

    The norm is the 2-norm where `box` is a `Box`, and the ball's where it is a linf ball.

    Raises:
        InvalidInput: at first use, where the two share no ball; how the box's bounds spread over the entries of a
            point shows only then.
    """

    polyhedron: Polyhedron
    box: Intervals
    _built: dict = field(init=False, repr=False, default_factory=dict)

    def whole(self, like: Tensor) -> Polyhedron:
        """The polyhedron of all faces, for points shaped as `like`."""
        if like.shape not in self._built:
            n = self.polyhedron._points(like).shape[1]
            lower, upper = (bound.cpu().expand(like.shape).flatten(1) for bound in self.box.bounds(like.double()))
            eye = torch.eye(n, dtype=torch.float64)
            offset = torch.cat([upper, -lower], dim=1)
            self._built[like.shape] = self.polyhedron.with_faces(torch.cat([eye, -eye]), offset)
        return self._built[like.shape]

    def project(self, x: Tensor) -> Tensor:
        """The nearest point, by a quadratic program a row."""
        return self.whole(x).project(x)

    def violation(self, x: Tensor) -> Tensor:
        """The larger of the two violations, (batch,) float64."""
        return self.polyhedron.violation(x).maximum(self.box.violation(x))

    def steepest(self, gradient: Tensor) -> Tensor:
        """The linf ball's step, or the gradient divided by its 2-norm."""
        return (self.polyhedron if isinstance(self.box, Box) else self.box).steepest(gradient)

    def support(self, direction: Tensor) -> Tensor:
        """The maximum of `<direction, x>`, (batch,), by a linear program a row."""
        return self.whole(direction).support(direction)

    def sample(self, streams: RowStreams, like: Tensor) -> Tensor:
        """Nearly uniform draws by hit-and-run."""
        return self.whole(like).sample(streams, like)

    def size(self, like: Tensor) -> Tensor:
        """The linf ball's radius, or the radius of the largest 2-norm ball inside, (batch,)."""
        return (self.whole(like) if isinstance(self.box, Box) else self.box).size(like)

    def halfspaces(self, like: Tensor) -> HalfSpaces:
        """The polyhedron's rows, then `x <= upper` and `-x <= -lower`."""
        return self.whole(like).halfspaces(like)
