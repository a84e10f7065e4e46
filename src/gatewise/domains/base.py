"""The socket for sets."""

from __future__ import annotations

import abc

from torch import Tensor

from gatewise.errors import UnsupportedProblem
from gatewise.geometry import HalfSpaces
from gatewise.streams import RowStreams


class Domain(abc.ABC):
    """A closed set of inputs, one per row of a batch. The norm belongs to the set, never to the method.

    Data of a set may be the same for all rows (a number, a tensor without batch axis broadcast by PyTorch's rules)
    or differ by row (leading batch axis). Points are (batch, …), float32 or float64.

    What comes out of `project` and `sample` is in the set *exactly, in its own dtype*: `violation` of it is 0.
    """

    @abc.abstractmethod
    def project(self, x: Tensor) -> Tensor:
        """The nearest point of the set to each row of `x`, in 2-norm; same shape and dtype, feasible after rounding.

        A row that already lies in the set comes back bit for bit.
        """

    @abc.abstractmethod
    def violation(self, x: Tensor) -> Tensor:
        """How far each row of `x` is outside, in the set's own units: (batch,) float64, exactly 0 inside.

        Computed in float64 from the stored values and from bounds and radius as they were given.
        """

    @abc.abstractmethod
    def steepest(self, gradient: Tensor) -> Tensor:
        """The step of length 1 in the set's own norm with the largest inner product with `gradient` (batch, …).

        A row of zeros gives a step of zeros.
        """

    @abc.abstractmethod
    def support(self, direction: Tensor) -> Tensor:
        """The support function: the maximum of `<direction, x>` over the set, (batch,), in `direction`'s dtype."""

    @abc.abstractmethod
    def sample(self, streams: RowStreams, like: Tensor) -> Tensor:
        """A random point of the set for each row, shaped as `like`; a row's draw depends on its stream alone."""

    @abc.abstractmethod
    def size(self, like: Tensor) -> Tensor:
        """Half the set's width in its own norm (a ball's radius), (batch,), in `like`'s dtype: the unit of steps."""

    def of_rows(self, rows: Tensor, like: Tensor) -> Domain:
        """The set for the rows `rows` (k,) int64 of points shaped as `like` (batch, …).

        Raises:
            UnsupportedProblem: the set does not say which of its data belong to a row.
        """
        raise UnsupportedProblem(f"{type(self).__name__} cannot be taken apart by rows; give it a method `of_rows`.")

    def halfspaces(self, like: Tensor) -> HalfSpaces:
        """The set as `A x <= b` for points shaped as `like`.

        Raises:
            UnsupportedProblem: the set is no polyhedron, or one with too many faces to list.
        """
        raise UnsupportedProblem(
            f"{type(self).__name__} is not a polyhedron with few faces; use Box, LinfBall, Simplex or Polyhedron "
            "where a method needs half-spaces."
        )

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The smallest and largest number of `like`'s dtype for each entry, where the set holds each entry between two
        numbers; both broadcast against `like` (batch, …).

        Raises:
            UnsupportedProblem: the set is no box.
        """
        raise UnsupportedProblem(
            f"{type(self).__name__} does not hold each entry between two numbers of its own; use Box, LinfBall or "
            "their intersection where a method needs bounds."
        )
