"""The intersection of two sets."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from gatewise.domains.balls import L1Ball, L2Ball
from gatewise.domains.base import Domain
from gatewise.domains.box import Box
from gatewise.domains.carved_ball import CarvedBall
from gatewise.domains.cut_ball import CutBall
from gatewise.domains.cut_polyhedron import CutPolyhedron
from gatewise.domains.cut_simplex import CutSimplex
from gatewise.domains.intervals import Intervals
from gatewise.domains.overlap import Overlap
from gatewise.domains.pair import Pair, stacked
from gatewise.domains.polyhedron import Polyhedron
from gatewise.domains.simplex import Simplex
from gatewise.geometry import HalfSpaces
from gatewise.streams import RowStreams


@dataclass(frozen=True, eq=False)
class Intersection(Domain):
    """The points that lie in both sets, whichever comes first.

    =============================  ===========================================  ===========================
    the two                        projection and support function              norm and size
    =============================  ===========================================  ===========================
    linf ball and box              exact, by clamping (`Overlap`)               the ball's
    l2 ball and box                exact, by one equation a row (`CutBall`)     the ball's
    l1 ball and box                exact, likewise                              the ball's, tempered by the box
    simplex and box                exact, likewise (`CutSimplex`)               the simplex's
    polyhedron and box             exact, by programs a row (`CutPolyhedron`)   the polyhedron's
    two boxes, two polyhedra       again a box, a polyhedron                    its own
    l2 ball and any other          exact, by projections on the other           the ball's
                                   (`CarvedBall`); no support function
    any others                     alternating projections (`Pair`), to 1e-7    the ball's, else the first's
                                   or better; no support function
    =============================  ===========================================  ===========================

    A linf ball serves as a box everywhere; with a polyhedron it lends its norm. Intersections nest.

    Raises:
        InvalidInput: the two have no point in common, or their shapes do not go together. Where the shape of points
            must be known for that, it is raised at first use.
    """

    first: Domain
    second: Domain
    _whole: Domain = field(init=False, repr=False)

    def __post_init__(self):
        members = [
            member._whole if isinstance(member, Intersection) else member for member in (self.first, self.second)
        ]
        object.__setattr__(self, "_whole", _join(*members) or _join(*reversed(members)) or Pair(*members))

    def project(self, x: Tensor) -> Tensor:
        """The nearest point that lies in both sets."""
        return self._whole.project(x)

    def violation(self, x: Tensor) -> Tensor:
        """The larger of the two sets' violations, (batch,) float64."""
        return torch.maximum(self.first.violation(x), self.second.violation(x))

    def steepest(self, gradient: Tensor) -> Tensor:
        """The step of length 1 in the norm of the table above; for l1 ball and box, see `CutBall.steepest`."""
        return self._whole.steepest(gradient)

    def support(self, direction: Tensor) -> Tensor:
        """The maximum of `<direction, x>`, (batch,).

        Raises:
            UnsupportedProblem: a pair that is not in the table above.
        """
        return self._whole.support(direction)

    def sample(self, streams: RowStreams, like: Tensor) -> Tensor:
        """A random point: uniform for linf ball and box, nearly so for polyhedra, else projected from the ball's."""
        return self._whole.sample(streams, like)

    def size(self, like: Tensor) -> Tensor:
        """The size in the norm of the table above, (batch,)."""
        return self._whole.size(like)

    def of_rows(self, rows: Tensor, like: Tensor) -> Intersection:
        """The intersection of both sets' parts."""
        return Intersection(self.first.of_rows(rows, like), self.second.of_rows(rows, like))

    def halfspaces(self, like: Tensor) -> HalfSpaces:
        """The rows of both sets; two boxes give the rows of their common one.

        Raises:
            UnsupportedProblem: one of them is no polyhedron with few faces.
        """
        if isinstance(self._whole, Intervals):
            return self._whole.halfspaces(like)
        return stacked(self.first.halfspaces(like), self.second.halfspaces(like))

    def bounds(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """Those of the common box of two boxes; raises UnsupportedProblem for other pairs."""
        return self._whole.bounds(like) if isinstance(self._whole, Intervals) else super().bounds(like)


def _join(first: Domain, second: Domain) -> Domain | None:
    """One set that is the intersection of two, if there is one for them in this order."""
    match first, second:
        case Box(), Box():
            return Box(*Overlap(first, second).nonempty_edges(torch.float64))
        case Intervals(), Intervals():
            return Overlap(first, second)
        case ((L1Ball() | L2Ball()), Intervals()):
            return CutBall(first, second)
        case Simplex(), Intervals():
            return CutSimplex(first, second)
        case Polyhedron(), Intervals():
            return CutPolyhedron(first, second)
        case ((CutBall() | CutSimplex() | CutPolyhedron()), Intervals()):
            return replace(first, box=_join(first.box, second))
        case Polyhedron(), Polyhedron():
            return first.with_faces(second._matrix, second._offset)
        case CutBall(ball=L2Ball() as ball), _:
            return CarvedBall(ball, Intersection(first.box, second))
        case CarvedBall(), _:
            return CarvedBall(first.ball, Intersection(first.other, second))
        case L2Ball(), _:
            return CarvedBall(first, second)
    return None
