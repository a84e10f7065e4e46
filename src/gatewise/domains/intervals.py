"""Sets that hold each entry of a point between two numbers of its own."""

from __future__ import annotations

import abc

import torch
from torch import Tensor

from gatewise.domains._points import check_points
from gatewise.domains.base import Domain
from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.geometry import HalfSpaces
from gatewise.streams import RowStreams


class Intervals(Domain):
    """Base of the sets `lower <= x <= upper`: a box, a linf ball, and what two of them share.

    A subclass says where its edges lie in a dtype (`_edges`), and keeps a dict `_cache`.
    """

    _cache: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]]

    @abc.abstractmethod
    def _edges(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The smallest and the largest number of `dtype` that `violation` accepts, for each entry."""

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The set's smallest and largest numbers of `like`'s dtype; both broadcast against `like` (batch, …).

        Raises:
            InvalidInput: `like` does not fit the set, or no number of its dtype lies between the bounds.
        """
        key = (like.dtype, like.device)
        if key not in self._cache:
            check_points(like)
            lower, upper = self.nonempty_edges(like.dtype)
            self._cache[key] = lower.to(like.device), upper.to(like.device)
        lower, upper = self._cache[key]
        check_points(like, lower.shape, upper.shape)
        return lower, upper

    def nonempty_edges(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The smallest and largest numbers of `dtype` in the set, on the set's own device.

        Raises:
            InvalidInput: the set is empty in that dtype.
        """
        lower, upper = self._edges(dtype)
        if (lower > upper).any():
            raise InvalidInput(
                f"No {dtype} number lies between the lower and the upper bound of some entry, so the set is empty; "
                "move the bounds apart (or the ball's center into the box), or use float64 points."
            )
        return lower, upper

    def project(self, x: Tensor) -> Tensor:
        """Each entry of `x` clamped between the set's bounds in its dtype."""
        lower, upper = self.bounds(x)
        return x.clamp(lower, upper)

    def support(self, direction: Tensor) -> Tensor:
        """The maximum of `<direction, x>`, (batch,), reached in the corner that `direction` points to."""
        check_points(direction)
        lower, upper = self._finite_bounds(direction.double(), "its support function")
        slope = direction.double()
        return (slope.clamp(min=0) * upper + slope.clamp(max=0) * lower).flatten(1).sum(1).to(direction.dtype)

    def sample(self, streams: RowStreams, like: Tensor) -> Tensor:
        """Uniform draws, shaped as `like`."""
        lower, upper = self._finite_bounds(like, "a random point")
        share = streams.uniform(like).double()
        return self.project((lower.double() + share * (upper.double() - lower.double())).to(like.dtype))

    def halfspaces(self, like: Tensor) -> HalfSpaces:
        """`x <= upper` and `-x <= -lower`, 2n rows; an infinite bound is an infinite offset."""
        lower, upper = (bound.expand_as(like[:1] if _shared(bound, like) else like) for bound in self.bounds(like))
        offsets = [upper.flatten(1), -lower.flatten(1)]
        rows = max(len(offset) for offset in offsets)

        def product(x: Tensor) -> Tensor:
            flat = x.flatten(1)
            return torch.cat([flat, -flat], dim=1)

        def transpose_product(multipliers: Tensor) -> Tensor:
            above, below = multipliers.chunk(2, dim=1)
            return (above - below).reshape(-1, *like.shape[1:])

        return HalfSpaces(product, transpose_product, torch.cat([o.expand(rows, -1) for o in offsets], dim=1))

    def _finite_bounds(self, like: Tensor, wanted: str) -> tuple[Tensor, Tensor]:
        lower, upper = self.bounds(like)
        if not (lower.isfinite().all() and upper.isfinite().all()):
            raise UnsupportedProblem(
                f"A box with an infinite bound is unbounded, so {wanted} cannot be given; give finite bounds, or "
                "intersect it with a ball."
            )
        return lower, upper


def _shared(bound: Tensor, like: Tensor) -> bool:
    return bound.ndim < like.ndim or bound.shape[0] == 1
