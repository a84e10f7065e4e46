"""All linear regions of a network of two inputs in a square, as polygons: exact, and a run for each corner.

Gate by gate the polygons are cut where the gate's decisions change (`refinement`). On a polygon that the earlier gates
have left the pre-activations are affine, so their values at its corners are all that is needed, and these are the
network's own: it is continuous, so that a corner belongs to every polygon around it. Each corner is run through the
network once, and no gate is held.

Source: the subdivision by layers is that of Humayun et al., "SplineCam" (CVPR 2023, arXiv:2302.12828); that a run of
the plain network at the corners is enough, ours.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.network.piecewise import require_piecewise_linear
from gatewise.network.refinement import Decisions, decisions_of
from gatewise.network.region import LinearRegion
from gatewise.network.view import NetworkView
from gatewise.polygons import Corners, Polygon, Side, meeting

_HELD = 2**23  # pre-activations that wait for their gates at a time
_RUN = 2**19  # of a run
_ROUNDING = 1e-12  # share of a gate's largest pre-activation that counts as 0
_THINNEST = 1e-12  # share of the square's area below which a region is a sliver
_INWARD = 1e-9  # share of the way to the square's middle

Heights = dict[int, list[np.ndarray]]
"""Pre-activations at corners, by corner and gate, each (entries,)."""


@dataclass(frozen=True, eq=False)
class PlanarRegions:
    """The linear regions of a network in a square of its plane, each a convex polygon.

    `points` (V, 2) float64 and the network's `outputs` (V, …) there; the corners of all regions one after the other,
    counterclockwise: `corners` (C,) int64 by number, and what each corner's side to the next one lies on, `gates` and
    `units` (C,) int64: the gate and its entry whose zero line it is (of a max-pool, one of the two entries that tie),
    or -1 on the square's edge. Region r has those from `first[r]` to `first[r + 1]`, `first` (R + 1,) int64.
    `seconds` is how long finding them took.
    """

    view: NetworkView
    center: Tensor
    window: float
    points: np.ndarray
    outputs: Tensor
    corners: np.ndarray
    gates: np.ndarray
    units: np.ndarray
    first: np.ndarray
    seconds: float

    def __len__(self) -> int:
        return len(self.first) - 1

    def polygon(self, region: int) -> np.ndarray:
        """The corners of one region, (corners, 2) float64, counterclockwise."""
        return self.points[self.corners[self.first[region] : self.first[region + 1]]]

    @cached_property
    def owner(self) -> np.ndarray:
        """The region of each entry of `corners`, (C,) int64."""
        return np.repeat(np.arange(len(self)), np.diff(self.first))

    @cached_property
    def following(self) -> np.ndarray:
        """The corner after each entry of `corners`, by number, (C,) int64."""
        after = np.arange(1, len(self.corners) + 1)
        after[self.first[1:] - 1] = self.first[:-1]
        return self.corners[after]

    @cached_property
    def areas(self) -> np.ndarray:
        """(R,) float64, in units of the plane."""
        # From each region's own first corner, so that nothing is lost far from the origin.
        begin = self.points[self.corners[self.first[:-1]]][self.owner]
        here, there = self.points[self.corners] - begin, self.points[self.following] - begin
        twice = here[:, 0] * there[:, 1] - here[:, 1] * there[:, 0]
        return np.add.reduceat(twice, self.first[:-1]) / 2

    @property
    def area_error(self) -> float:
        """How far the areas are from adding up to the square's, as a share of it."""
        return abs(float(self.areas.sum()) - self.window**2) / self.window**2

    @property
    def slivers(self) -> int:
        """How many regions have less than 1e-12 of the square's area."""
        return int((self.areas < _THINNEST * self.window**2).sum())

    @cached_property
    def centers(self) -> np.ndarray:
        """A point inside each region, the mean of its corners: (R, 2) float64."""
        return np.add.reduceat(self.points[self.corners], self.first[:-1]) / np.diff(self.first)[:, None]

    @cached_property
    def largest_triangles(self) -> np.ndarray:
        """Three corners of each region that span much of it, by number: (R, 3) int64."""
        begin = self.corners[self.first[:-1]][self.owner]
        a, b, c = (self.points[numbers] for numbers in (begin, self.corners, self.following))
        span = np.abs((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])
        best = np.lexsort((span, self.owner))[self.first[1:] - 1]
        return np.stack([begin[best], self.corners[best], self.following[best]], 1)

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """The network on each region: `y = a + V (z - c)` with c its centre; `V` (R, outputs, 2), `a` (R, outputs).

        From the outputs at three corners: in a sliver V is known to rounding over its width, `a + V (z - c)` to
        rounding.
        """
        outputs = self.outputs.flatten(1).double().cpu().numpy()
        triangles = self.largest_triangles
        at, values = self.points[triangles], outputs[triangles]
        ways, changes = at[:, 1:] - at[:, :1], values[:, 1:] - values[:, :1]
        (ux, uy), (vx, vy) = ways[:, 0].T, ways[:, 1].T
        span = (ux * vy - uy * vx)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            by_x = (vy[:, None] * changes[:, 0] - uy[:, None] * changes[:, 1]) / span
            by_y = (ux[:, None] * changes[:, 1] - vx[:, None] * changes[:, 0]) / span
        slopes = np.nan_to_num(np.stack([by_x, by_y], 2), nan=0.0, posinf=0.0, neginf=0.0)  # of regions without area
        return slopes, values[:, 0] + (slopes @ (self.centers - at[:, 0])[:, :, None])[:, :, 0]

    def sides(self) -> tuple[np.ndarray, np.ndarray]:
        """Each side inside the square once, from point to point by number, (S, 2) int64, and whose zero line it is:
        gate and entry, (S, 2) int64.
        """
        pairs = np.sort(np.stack([self.corners, self.following], 1), 1)
        inside = self.gates >= 0
        pairs, once = np.unique(pairs[inside], axis=0, return_index=True)
        return pairs, np.stack([self.gates[inside][once], self.units[inside][once]], 1)

    def crossed(self, path: np.ndarray) -> np.ndarray:
        """How many sides a path (steps, 2) through the square crosses on the way to each of its points, (steps,) int64:
        as many as it enters regions; 0 at the first.
        """
        center = self.center.flatten().cpu().numpy()
        path = center + (1 - _INWARD) * (path - center)  # sides end on the square's edge, along which methods slide
        pairs, _ = self.sides()
        begin, end = self.points[pairs[:, 0]], self.points[pairs[:, 1]]
        counts = np.zeros(len(path), dtype=np.int64)
        for step, (here, there) in enumerate(pairwise(path), 1):
            parted = _side_of(here, there, begin) != _side_of(here, there, end)
            across = _side_of(begin[parted], end[parted], here) != _side_of(begin[parted], end[parted], there)
            counts[step] = across.sum()
        return counts

    def linear_regions(self, regions: Sequence[int] | np.ndarray | None = None) -> LinearRegion:
        """Some regions, or all, as objects: affine map, faces and neighbours of each."""
        chosen = self.centers if regions is None else self.centers[np.asarray(regions)]
        return self.view.region(_tensor(chosen, self.center))


def planar_regions(view: NetworkView, center: Tensor, window: float, *, most: int = 2_000_000) -> PlanarRegions:
    """The linear regions of a network of two inputs in the square of side `window` around `center` (1, …) float64.

    Costs a forward pass for each corner that regions meet in, about one a region, and a few more where the work is cut
    into blocks. Pre-activations of at most 1e-12 of the gate's largest count as 0, so regions thinner than that are
    passed over.

    Args:
        view: a network of two inputs, such as `Plane.of` makes from any.
        center: the middle of the square, on the network's device.
        window: its side.
        most: regions after which to give up.

    Raises:
        InvalidInput: not two inputs, not float64, no square, or more regions than `most`.
        UnsupportedNetwork: the network is not piecewise linear, or a max-pool's windows are not known.
    """
    if center.shape[:1] != (1,) or center.numel() != 2 or center.dtype != torch.float64:
        raise InvalidInput(
            "Regions of a plane are found for float64 points of two entries in one row, such as (1, 2); got "
            f"{tuple(center.shape)} of {center.dtype}. Lay a plane through other inputs first, by Plane.of."
        )
    if not 0 < window < np.inf:
        raise InvalidInput(f"The window must be a positive number, got {window}.")
    try:
        with torch.no_grad():
            view.plain(center)
    except RuntimeError as error:
        raise InvalidInput(
            f"The network cannot be run on float64 points of shape {tuple(center.shape)}; convert it by .double(): "
            f"{str(error).splitlines()[0]}"
        ) from error
    require_piecewise_linear(view, center)
    view.region(center)  # says which gates cannot be had
    return _Subdivision(view, center, float(window), most).regions()


class _Subdivision:
    """The square, as it is cut. Entries of all gates are counted through, for the names of lines; the square's own
    edges have names below 0.
    """

    def __init__(self, view: NetworkView, center: Tensor, window: float, most: int):
        self.view, self.center, self.window, self.most = view, center, window, most
        self.began = time.perf_counter()
        self.corners = Corners()
        self.outputs: dict[int, Tensor] = {}
        with torch.no_grad():
            sample = view.trace(center)
        self.pools = [gate.pool for gate in sample.gates]
        self.samples = sample.preactivations
        self.starts = np.cumsum([0, *(h[0].numel() for h in sample.preactivations)])  # of each gate's entries
        self.decisions: list[Decisions] = []

    def regions(self) -> PlanarRegions:
        x, y = self.center.flatten().tolist()
        half = self.window / 2
        square = [self.corners.add(x + a * half, y + b * half) for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        edges = [Side(frozenset((-1 - edge,))) for edge in range(4)]
        found: list[Polygon] = []
        # Depth first, some polygons at a time, so that little is held. With them, what is known of their corners: the
        # pre-activations from their gate on, by gate.
        left: list[tuple[int, list[Polygon], Heights]] = [(0, [Polygon(square, edges, np.empty((4, 0)))], {})]
        while left:
            gate, polygons, known = left.pop()
            heights = self._heights(gate, polygons, known)
            if gate == len(self.pools):
                found += polygons
                if len(found) > self.most:
                    raise InvalidInput(
                        f"There are more than {self.most:,} linear regions in the window; make it smaller, or give a "
                        "larger `most`."
                    )
                continue
            finer = [cell for polygon in polygons for cell in self._cells(gate, polygon, heights)]
            rest = {corner: by_gate[1:] for corner, by_gate in heights.items()}
            at_once = max(1, _HELD // max(1, int(self.starts[-1] - self.starts[gate + 1])))
            left += [(gate + 1, finer[i : i + at_once], rest) for i in range(0, len(finer), at_once)][::-1]
        return self._listed(found)

    def _heights(self, gate: int, polygons: Sequence[Polygon], known: Heights) -> Heights:
        """The pre-activations from `gate` on at the corners of some polygons."""
        needed = dict.fromkeys(corner for polygon in polygons for corner in polygon.corners)
        fresh = [corner for corner in needed if corner not in known]
        heights = {corner: known[corner] for corner in needed if corner in known}
        at_once = max(1, _RUN // max(1, int(self.starts[-1])))
        for some in (fresh[i : i + at_once] for i in range(0, len(fresh), at_once)):
            points = _tensor([self.corners.points[corner] for corner in some], self.center)
            with torch.no_grad():
                run = self.view.trace(points)
            by_gate = [h.flatten(1).cpu().numpy() for h in run.preactivations[gate:]]
            for row, corner in enumerate(some):
                heights[corner] = [h[row] for h in by_gate]
                self.outputs[corner] = run.output[row]
        if gate == len(self.decisions) < len(self.pools):
            rounding = _ROUNDING * max(float(np.abs(by_gate[0]).max()) for by_gate in heights.values())
            self.decisions.append(decisions_of(self.pools[gate], self.samples[gate], int(self.starts[gate]), rounding))
        return heights

    def _cells(self, gate: int, polygon: Polygon, heights: Heights) -> list[Polygon]:
        """The polygon in parts on which the gate does one thing."""
        decisions = self.decisions[gate]
        at_corners = np.array([heights[corner][0] for corner in polygon.corners])
        at_corners[np.abs(at_corners) <= decisions.rounding] = 0.0
        corners = tuple(polygon.corners)
        ends = zip(corners, corners[1:] + corners[:1], strict=True)
        sides = [Side(side.line, (min(pair), max(pair))) for side, pair in zip(polygon.sides, ends, strict=True)]
        return decisions.cells(Polygon(corners, sides, at_corners), meeting(self.corners, (gate, corners)))

    def _listed(self, found: Sequence[Polygon]) -> PlanarRegions:
        """The polygons as arrays, with only those corners that are left."""
        numbers = np.array([corner for polygon in found for corner in polygon.corners])
        entries = np.array([min(side.line) for polygon in found for side in polygon.sides])
        used, corners = np.unique(numbers, return_inverse=True)
        gates = np.where(entries < 0, -1, np.searchsorted(self.starts, entries, side="right") - 1)
        return PlanarRegions(
            view=self.view,
            center=self.center,
            window=self.window,
            points=np.array(self.corners.points)[used],
            outputs=torch.stack([self.outputs[corner] for corner in used.tolist()]),
            corners=corners,
            gates=gates,
            units=np.where(entries < 0, -1, entries - self.starts[gates]),
            first=np.cumsum([0, *(len(polygon.corners) for polygon in found)]),
            seconds=time.perf_counter() - self.began,
        )


def _side_of(a: np.ndarray, b: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Whether p lies left of the line from a to b; points (…, 2)."""
    return (b - a)[..., 0] * (p - a)[..., 1] > (b - a)[..., 1] * (p - a)[..., 0]


def _tensor(points: np.ndarray | Sequence[tuple[float, float]], like: Tensor) -> Tensor:
    return torch.tensor(np.asarray(points), dtype=like.dtype, device=like.device).view(-1, *like.shape[1:])
