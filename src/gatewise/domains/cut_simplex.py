"""A simplex cut by a box."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from gatewise.domains._level import pour
from gatewise.domains.base import Domain
from gatewise.domains.intervals import Intervals
from gatewise.domains.simplex import Simplex
from gatewise.errors import InvalidInput
from gatewise.streams import RowStreams


@dataclass(frozen=True, eq=False)
class CutSimplex(Domain):
    """The points of `simplex` that lie in `box`, a `Box` or a linf ball; the norm is the simplex's.

    Raises:
        InvalidInput: at first use, where simplex and box do not meet; how many entries a point has shows only then.
    """

    simplex: Simplex
    box: Intervals
    _met: set = field(init=False, repr=False, default_factory=set)

    def _bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The box's bounds in `like`'s dtype, after making sure (once a shape) that the sets meet."""
        lower, upper = self.box.bounds(like)
        key = (like.dtype, like.shape)
        if key not in self._met:
            least, most = self.simplex.grid(like, lower, upper)
            total = self.simplex.total / self.simplex.unit(like.dtype)
            if ((least > most).any(1) | (least.sum(1) > total) | (most.sum(1) < total)).any():
                raise InvalidInput(
                    f"The simplex of total {self.simplex.total} and the box have no {like.dtype} point in common in "
                    "some row; widen the box or change the total."
                )
            self._met.add(key)
        return lower, upper

    def project(self, x: Tensor) -> Tensor:
        """The nearest point: all entries moved by one number and clipped, on the simplex's grid."""
        return self.simplex.project_between(x, *self._bounds(x))

    def violation(self, x: Tensor) -> Tensor:
        """The larger of the two violations, (batch,) float64."""
        return self.simplex.violation(x).maximum(self.box.violation(x))

    def steepest(self, gradient: Tensor) -> Tensor:
        """The simplex's step."""
        return self.simplex.steepest(gradient)

    def support(self, direction: Tensor) -> Tensor:
        """The maximum of `<direction, x>`, (batch,): what the lower bounds leave goes to the steepest entries."""
        slope = direction.double()
        lower, upper = (bound.expand_as(slope).flatten(1) for bound in self._bounds(slope))
        least, most = lower.clamp(min=0), upper.clamp(max=self.simplex.total)
        slope = slope.flatten(1)
        order = slope.argsort(dim=1, descending=True, stable=True)
        best = least + pour(self.simplex.total - least.sum(1), most - least, order)
        return (slope * best).sum(1).to(direction.dtype)

    def sample(self, streams: RowStreams, like: Tensor) -> Tensor:
        """Uniform draws from the simplex, projected: not uniform where the box cuts."""
        return self.project(self.simplex.sample(streams, like))

    def size(self, like: Tensor) -> Tensor:
        """The simplex's total, (batch,)."""
        return self.simplex.size(like)
