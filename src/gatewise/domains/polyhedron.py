"""The polyhedron."""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from gatewise.domains import _programs
from gatewise.domains._points import as_data, check_points
from gatewise.domains.base import Domain
from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.geometry import HalfSpaces, row_norm, rows_of, unit_rows
from gatewise.streams import RowStreams

# A set whose largest ball is below this share of its faces' distances from the origin is taken for flat.
FLAT = 1e-10
WALK_STEPS = 200


@dataclass(frozen=True, eq=False)
class Polyhedron(Domain):
    """`matrix @ x.flatten() <= offset`, with an interior. Its norm is the 2-norm.

    Programs are solved row by row on the CPU in float64, by the exact active-set method of daqp (Arnström, Bemporad &
    Axehill, IEEE TAC 2022), in coordinates where the interior point is 0 and the ball around it has radius 1.

    Args:
        matrix: (m, n), for points of n entries a row; float32 or float64, finite, no row of zeros.
        offset: (m,), or (batch, m) for offsets of each row's own; `inf` switches a constraint off.
        interior: (n,) or (batch, n), a point strictly inside, toward which rounded results are drawn; by default the
            centre of the largest ball inside (the Chebyshev centre), which costs a linear program a row.

    Raises:
        InvalidInput: an empty or flat polyhedron, an interior point that is not inside, NaN, or a wrong shape.
    """

    matrix: Tensor
    offset: Tensor
    _: KW_ONLY
    interior: Tensor | None = None
    _matrix: Tensor = field(init=False, repr=False)
    _offset: Tensor = field(init=False, repr=False)
    _center: Tensor = field(init=False, repr=False)
    _radius: Tensor = field(init=False, repr=False)
    # False where balls of any radius fit inside, so that there is no largest.
    sized: bool = field(init=False, repr=False, default=True)

    def __post_init__(self):
        matrix, offset = as_data("matrix", self.matrix).double().cpu(), as_data("offset", self.offset).double().cpu()
        if matrix.ndim != 2 or offset.ndim not in (1, 2) or offset.shape[-1] != len(matrix) or not matrix.numel():
            raise InvalidInput(
                f"matrix has shape {tuple(matrix.shape)} and offset {tuple(offset.shape)}; give (m, n), and (m,) or "
                "(batch, m)."
            )
        if not matrix.isfinite().all() or (matrix == 0).all(1).any() or (offset == -torch.inf).any():
            raise InvalidInput("matrix has a row of zeros or an infinite entry, or offset holds -inf; drop that row.")
        object.__setattr__(self, "_matrix", matrix)
        object.__setattr__(self, "_offset", torch.atleast_2d(offset))
        object.__setattr__(self, "_center", self._interior_points())
        object.__setattr__(self, "_radius", -self._excess(self._center))
        levels = self._offset / row_norm(matrix)
        if not (self._radius > FLAT * levels.where(levels.isfinite(), 0).abs().amax(1)).all():
            raise InvalidInput(
                "The polyhedron is empty or flat, or its interior point is not inside: the largest ball has radius "
                f"{self._radius.min():.2g}; relax the offset, or use Simplex for entries of a fixed sum."
            )

    def _interior_points(self) -> Tensor:
        if self.interior is not None:
            points = torch.atleast_2d(as_data("interior", self.interior).double().cpu())
            rows, n = max(len(points), len(self._offset)), self._matrix.shape[1]
            if points.ndim != 2 or points.shape[1] != n or {len(points), len(self._offset)} - {1, rows}:
                raise InvalidInput(
                    f"interior has shape {tuple(self.interior.shape)}; give ({n},), or one such point a row of offset."
                )
            return points.expand(rows, n)
        found = [_programs.inscribed_center(self._normals, level / row_norm(self._matrix)) for level in self._offset]
        object.__setattr__(self, "sized", all(sized for _, sized in found))
        return torch.stack([center for center, _ in found])

    def violation(self, x: Tensor) -> Tensor:
        """The largest distance beyond a face, `(A x - b) / ||row of A||`, (batch,) float64."""
        return self._excess(self._points(x)).clamp(min=0).to(x.device)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point, by a quadratic program a row, rounded and drawn inward by the rounding error."""
        points = self._points(x)
        result = x.clone()
        excess = self._excess(points)
        # Rows that are not finite have nothing near them, and stay.
        for row in ((excess > 0) & excess.isfinite()).nonzero().flatten().tolist():
            center, radius, offset = self._local(row)
            found = _programs.nearest((points[row] - center) / radius, self._normals, offset)
            result[row] = self._drawn_in(row, center + radius * found, x[row])
        return result

    def steepest(self, gradient: Tensor) -> Tensor:
        """The gradient divided by its 2-norm."""
        self._points(gradient)
        return unit_rows(gradient)

    def support(self, direction: Tensor) -> Tensor:
        """The maximum of `<direction, x>`, (batch,), by a linear program a row.

        Raises:
            UnsupportedProblem: the maximum is infinite.
        """
        slopes = self._points(direction)
        best = torch.zeros_like(slopes[:, 0])
        for row, unit in enumerate(unit_rows(slopes)):
            center, radius, offset = self._local(row)
            found = _programs.maximiser(unit, self._normals, offset)
            if found is None:
                raise UnsupportedProblem(
                    "The polyhedron is unbounded in that direction, so its support function is infinite; add rows that "
                    "bound it, or intersect it with a box."
                )
            best[row] = slopes[row] @ (center + radius * found)
        return best.to(direction)

    def sample(self, streams: RowStreams, like: Tensor) -> Tensor:
        """Nearly uniform draws: 200 steps of hit-and-run from the interior point (Smith, Oper. Res. 1984)."""
        points = self._points(like)
        if not self._bounded:
            raise UnsupportedProblem(
                "The polyhedron is unbounded, so it has no uniform draws; add rows that bound it, or intersect it with "
                "a box."
            )
        x = self._center.expand_as(points)
        for _ in range(WALK_STEPS):
            direction = unit_rows(streams.normal(points))
            share = streams.uniform(points[:, 0])
            slack, rate = (self._offset - self._products(x)).clamp(min=0), self._products(direction)
            forth = (slack / rate).where(rate > 0, torch.inf).amin(1)
            back = (slack / rate).where(rate < 0, -torch.inf).amax(1)
            x = x + (back + share * (forth - back))[:, None] * direction
        return torch.stack([self._drawn_in(row, point, like[row]) for row, point in enumerate(x)])

    def size(self, like: Tensor) -> Tensor:
        """The radius of the largest ball inside, (batch,); with `interior` given, of the largest ball around it."""
        self._points(like)
        if not self.sized:
            raise UnsupportedProblem(
                "The polyhedron holds balls of any radius, so it has no size to measure steps by; add rows that bound "
                "it, or intersect it with a box or a ball."
            )
        return self._radius.expand(len(like)).to(like)

    def halfspaces(self, like: Tensor) -> HalfSpaces:
        """The rows as they were given, rounded to `like`'s dtype."""
        self._points(like)
        matrix = self._matrix.to(like)
        return HalfSpaces(
            lambda x: x.flatten(1) @ matrix.T,
            lambda multipliers: (multipliers @ matrix).reshape(-1, *like.shape[1:]),
            self._offset.to(like),
        )

    def of_rows(self, rows: Tensor, like: Tensor) -> Polyhedron:
        """The polyhedra of these rows."""
        center = rows_of(self._center, rows, 2) if self.sized else None
        return Polyhedron(self._matrix, rows_of(self._offset, rows, 2), interior=center)

    def with_faces(self, matrix: Tensor, offset: Tensor) -> Polyhedron:
        """The polyhedron with rows `matrix` (k, n) and `offset` (k,) or (batch, k) added."""
        offset = torch.atleast_2d(offset)
        rows = max(len(self._offset), len(offset))
        if {len(self._offset), len(offset)} - {1, rows} or self._matrix.shape[1] != matrix.shape[1]:
            raise InvalidInput(
                f"The sets are for {len(self._offset)} and {len(offset)} rows of {self._matrix.shape[1]} and "
                f"{matrix.shape[1]} entries, which do not go together; build both for the same points."
            )
        offsets = [self._offset.expand(rows, -1), offset.expand(rows, -1)]
        return Polyhedron(torch.cat([self._matrix, matrix]), torch.cat(offsets, dim=1))

    @cached_property
    def _normals(self) -> Tensor:
        return self._matrix / row_norm(self._matrix)[:, None]

    @cached_property
    def _bounded(self) -> bool:
        """Whether no direction y but 0 has `A y <= 0`: a ray of such points would stay inside."""
        if torch.linalg.matrix_rank(self._normals) < self._matrix.shape[1]:
            return False
        descent = -self._normals.mean(0)
        zeros = torch.zeros_like(self._offset[0])
        ray = _programs.maximiser(
            descent, torch.cat([self._normals, descent[None]]), torch.cat([zeros, torch.ones_like(zeros[:1])])
        )
        return ray is not None and bool(descent @ ray < 0.5)

    def _points(self, x: Tensor) -> Tensor:
        """The points `x` (batch, …) as (batch, n) in float64 on the CPU."""
        check_points(x)
        n, rows = self._matrix.shape[1], len(self._center)
        if x.shape[1:].numel() != n or rows not in (1, len(x)):
            raise InvalidInput(
                f"The polyhedron has {rows} rows of {n} entries, which does not fit points of shape {tuple(x.shape)}; "
                "give it a column for each entry, and one offset for all rows or one a row."
            )
        return x.detach().double().cpu().flatten(1)

    def _products(self, points: Tensor) -> Tensor:
        # One product a row, so that the last bits of a row do not depend on its batch mates.
        return torch.stack([self._matrix @ point for point in points])

    def _excess(self, points: Tensor) -> Tensor:
        """The signed distance beyond the farthest face, (batch,): negative inside."""
        return ((self._products(points) - self._offset) / row_norm(self._matrix)).amax(1)

    def _local(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        """Centre and radius of a row's ball, and the offset of the set seen from there; errors of rounding vanish."""
        center, radius = (data[row if len(data) > 1 else 0] for data in (self._center, self._radius))
        offset = self._offset[row if len(self._offset) > 1 else 0]
        return center, radius, (offset - self._matrix @ center) / (row_norm(self._matrix) * radius)

    def _drawn_in(self, row: int, point: Tensor, like: Tensor) -> Tensor:
        """`point` (n,) in dtype and shape of `like` (…), drawn toward the centre until rounding leaves it inside."""
        center, radius, _ = self._local(row)
        offset = self._offset[row if len(self._offset) > 1 else 0]
        share = 0.0
        while share <= 1:
            candidate = (point + share * (center - point)).to(like.dtype)
            excess = float(((self._matrix @ candidate.double() - offset) / row_norm(self._matrix)).max())
            if excess <= 0:
                return candidate.reshape(like.shape).to(like.device)
            share = max(2 * share, excess / float(radius))
        raise InvalidInput(
            f"The polyhedron is too thin for {like.dtype} points; use float64 points, or relax its offset."
        )
