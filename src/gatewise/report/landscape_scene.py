"""What a landscape shows: regions of a plane, the objective over them, and the ways that methods took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from gatewise.network.subdivision import PlanarRegions


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The points that a method visited, one after the other, (steps, …) each.

    `points` (steps, …) inputs, `values` of the objective there, `backwards` passes and `seconds` spent by then, `flips`
    gates that switched since the point before (for max-pools: windows with another winner), `crossed` regions entered
    on the straight way from it, and `agreement`, the share of a method's own relaxed gates that are as the network's
    (NaN where it has none).
    """

    points: np.ndarray
    values: np.ndarray
    backwards: np.ndarray
    seconds: np.ndarray
    flips: np.ndarray
    crossed: np.ndarray
    agreement: np.ndarray

    @property
    def best(self) -> np.ndarray:
        """The smallest value so far, (steps,)."""
        return np.minimum.accumulate(self.values)


@dataclass(frozen=True, eq=False)
class Scene:
    """A landscape, in coordinates of its plane.

    `regions`, and the `values` (V,) of the objective at their corners; `arrows`, points (k, 2) and the objective's
    gradients there (k, 2); `paths` by method; `rings`, closed lines (m, 2) such as the edge of a ball, by name;
    `level`, a value whose contour is drawn (a margin's 0 is the decision boundary). `objective` and `axes` name what
    is shown. Where `climbs`, the methods look for large values, and the paths' values have their sign turned.
    """

    regions: PlanarRegions
    values: np.ndarray
    arrows: tuple[np.ndarray, np.ndarray]
    paths: Mapping[str, Trajectory] = field(default_factory=dict)
    rings: Mapping[str, np.ndarray] = field(default_factory=dict)
    level: float | None = None
    objective: str = "objective"
    axes: tuple[str, str] = ("first direction", "second direction")
    climbs: bool = False

    def triangles(self) -> np.ndarray:
        """Each region as a fan of triangles, by number of their corners: (T, 3) int64."""
        regions = self.regions
        begin = regions.corners[regions.first[:-1]][regions.owner]
        fan = np.stack([begin, regions.corners, regions.following], 1)
        inner = np.ones(len(fan), dtype=bool)
        inner[regions.first[:-1]] = inner[regions.first[1:] - 1] = False
        return fan[inner]

    def contour(self) -> np.ndarray:
        """Where the objective is at `level`, taken as linear on each triangle: segments (S, 2, 2)."""
        triangles = self.triangles()
        if self.level is None:
            return np.empty((0, 2, 2))
        heights = self.values[triangles] - self.level
        mixed = (heights.max(1) > 0) & (heights.min(1) <= 0)
        at, h = self.regions.points[triangles[mixed]], heights[mixed]
        after, h_after = np.roll(at, -1, 1), np.roll(h, -1, 1)
        crossed = (h > 0) != (h_after > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = at + (h / (h - h_after))[..., None] * (after - at)
        return ends[crossed].reshape(-1, 2, 2)

    def shown(self, values: np.ndarray) -> np.ndarray:
        """Values of a path as the objective's own."""
        return -values if self.climbs else values
