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
from gatewise.geometry import HalfSpaces, row_norm, unit_rows
from gatewise.streams import RowStreams

# A set whose largest ball is smaller than this share of the rows' distances from the origin is taken for flat.
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
    _length: Tensor = field(init=False, repr=False)
    _center: Tensor = field(init=False, repr=False)
    _radius: Tensor = field(init=False, repr=False)
    _holds_any_ball: bool = field(init=False, repr=False, default=False)

    def __post_init__(self):
        matrix, offset = as_data("matrix", self.matrix).double().cpu(), as_data("offset", self.offset).double().cpu()
        if matrix.ndim != 2 or offset.ndim not in (1, 2) or offset.shape[-1] != len(matrix) or not matrix.numel():
            raise InvalidInput(
                f"matrix has shape {tuple(matrix.shape)} and offset {tuple(offset.shape)}; give (m, n), and (m,) or "
                "(batch, m)."
            )
        length = row_norm(matrix)
        if not (length.isfinite() & (length > 0)).all() or (offset == -torch.inf).any():
            raise InvalidInput("matrix has a row of zeros or an infinite entry, or offset holds -inf; drop that row.")
        self._keep(_matrix=matrix, _offset=torch.atleast_2d(offset), _length=length)
        center = self._chebyshev_centers() if self.interior is None else self._given_center(self.interior)
        rows = max(len(center), len(offset) if offset.ndim == 2 else 1)
        if len(center) not in (1, rows) or len(self._offset) not in (1, rows):
            raise InvalidInput(f"interior has {len(center)} rows and offset {len(offset)}; give one of each a row.")
        self._keep(_center=center.expand(rows, -1), _offset=self._offset.expand(rows, -1))
        radius = -self._excess(self._center)
        near = self._levels.where(self._levels.isfinite(), 0).abs().amax(1)
        if not (radius > FLAT * near).all():
            raise InvalidInput(
                "The polyhedron is empty or flat in some row, or the interior point is not inside: the largest ball has "
                f"radius {radius.min():.2g}; relax the offset, or use Simplex where entries have a fixed sum."
            )
        self._keep(_radius=radius)

    def violation(self, x: Tensor) -> Tensor:
        """The largest distance beyond a face, `(A x - b) / ||row of A||`, (batch,) float64."""
        return self._excess(self._rows(x)).clamp(min=0).to(x.device)

    def project(self, x: Tensor) -> Tensor:
        """The nearest point, by a quadratic program a row, rounded and drawn inward by the rounding error."""
        points = self._rows(x)
        result = x.clone()
        for row in (self._excess(points) > 0).nonzero().flatten().tolist():
            center, radius = self._of(row)
            local = _programs.nearest(
                ((points[row] - center) / radius).numpy(), self._normals.numpy(), self._local_offset(row).numpy()
            )
            result[row] = self._drawn_in(row, center + radius * torch.from_numpy(local), x[row])
        return result

    def steepest(self, gradient: Tensor) -> Tensor:
        """The gradient divided by its 2-norm."""
        self._rows(gradient)
        return unit_rows(gradient)

    def support(self, direction: Tensor) -> Tensor:
        """The maximum of `<direction, x>`, (batch,), by a linear program a row.

        Raises:
            UnsupportedProblem: the maximum is infinite.
        """
        slopes = self._rows(direction)
        best = torch.zeros(len(slopes), dtype=torch.float64)
        for row, (slope, unit) in enumerate(zip(slopes, unit_rows(slopes), strict=True)):
            center, radius = self._of(row)
            local = _programs.maximise(unit.numpy(), self._normals.numpy(), self._local_offset(row).numpy())
            if local is None:
                raise UnsupportedProblem(
                    "The polyhedron is unbounded in that direction, so its support function is infinite; add rows that "
                    "bound it, or intersect it with a box."
                )
            best[row] = slope @ (center + radius * torch.from_numpy(local))
        return best.to(direction)

    def sample(self, streams: RowStreams, like: Tensor) -> Tensor:
        """Nearly uniform draws: 200 steps of hit-and-run from the interior point (Smith, Oper. Res. 1984)."""
        points = self._rows(like)
        if not self._bounded:
            raise UnsupportedProblem(
                "The polyhedron is unbounded, so it has no uniform draws; add rows that bound it, or intersect it with "
                "a box."
            )
        x = torch.stack([self._of(row)[0] for row in range(len(points))])
        for _ in range(WALK_STEPS):
            direction = unit_rows(streams.normal(points))
            slack = self._slack(x)
            rate = self._product(direction)
            forth = torch.where(rate > 0, slack / rate, torch.inf).amin(1)
            back = torch.where(rate < 0, slack / rate, -torch.inf).amax(1)
            share = streams.uniform(points[:, :1])[:, 0]
            x = x + (back + share * (forth - back)).nan_to_num(0)[:, None] * direction
        return torch.stack([self._drawn_in(row, x[row], like[row]) for row in range(len(x))])

    def size(self, like: Tensor) -> Tensor:
        """The radius of the largest ball inside, (batch,); with `interior` given, of the largest ball around it."""
        self._rows(like)
        if self._holds_any_ball:
            raise UnsupportedProblem(
                "The polyhedron holds balls of any radius, so it has no size to measure steps by; add rows that bound "
                "it, or intersect it with a box or a ball."
            )
        return self._radius.expand(len(like)).to(like)

    def halfspaces(self, like: Tensor) -> HalfSpaces:
        """The rows as they were given, rounded to `like`'s dtype."""
        self._rows(like)
        matrix = self._matrix.to(like)
        return HalfSpaces(
            lambda x: x.flatten(1) @ matrix.T,
            lambda multipliers: (multipliers @ matrix).reshape(-1, *like.shape[1:]),
            self._offset.to(like),
        )
