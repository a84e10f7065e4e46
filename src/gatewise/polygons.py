"""Convex polygons cut by lines, so that neighbours share their corners.

A corner is a number, and a corner made by a cut is known by the side that it lies on and by the line that cuts it: the
polygons on both sides of a side find the same corner there, and their areas add up to the last digits. Of the function
that vanishes on a line only its values at the corners, its *heights*, are used: on a polygon it is affine, and between
two corners it is interpolated.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Hashable, Sequence
from typing import NamedTuple

import numpy as np

Line = frozenset[int]
"""A line by the numbers of what vanishes on it: of one function, or of two whose difference does."""


class Side(NamedTuple):
    """What a side of a polygon lies on: a line, and where the line cuts no further than one side of an earlier polygon,
    that side's two ends.
    """

    line: Line
    ends: tuple[int, int] | None = None


class Polygon(NamedTuple):
    """`corners` by number, counterclockwise; `sides`, each from its corner to the next; `heights` (corners, …)."""

    corners: Sequence[int]
    sides: Sequence[Side]
    heights: np.ndarray


class Corners:
    """Points of the plane by number, each made once."""

    def __init__(self):
        self.points: list[tuple[float, float]] = []
        self._known: dict[Hashable, int] = {}

    def add(self, x: float, y: float) -> int:
        """A new point."""
        self.points.append((x, y))
        return len(self.points) - 1

    def between(self, a: int, b: int, share: float, known_by: Hashable) -> int:
        """The point at `share` of the way from a to b, or the one that was known by this name."""
        known = self._known.get(known_by)
        if known is None:
            (ax, ay), (bx, by) = self.points[a], self.points[b]
            known = self._known[known_by] = self.add(ax + share * (bx - ax), ay + share * (by - ay))
        return known


Meet = Callable[[Side, Line, int, int, float], int]
"""The corner where a side, from corner a to corner b, meets a line at a share of its way."""


def meeting(corners: Corners, inside: Hashable) -> Meet:
    """Corners of the pieces of one polygon, which is known by the name `inside`.

    On the polygon's own sides they are its neighbours' as well. Inside, two lines meet in one point; where their
    functions have one in common, as `{e, f}` and `{f, g}` do, the line `{e, g}` goes through it too.
    """

    def meet(side: Side, line: Line, a: int, b: int, share: float) -> int:
        if side.ends is not None:
            return corners.between(a, b, share, (side.ends, line))
        crossing = side.line | line if side.line & line else frozenset((side.line, line))
        return corners.between(a, b, share, (inside, crossing))

    return meet


def cut(polygon: Polygon, height: np.ndarray, line: Line, meet: Meet, rounding: float) -> tuple[Polygon, Polygon]:
    """The parts of a polygon on which `height` (corners,), the line's own, is at least 0 and at most 0.

    Heights at new corners are interpolated; those of at most `rounding` are made 0. A corner of height 0 lies on the
    line: no other is made beside it. Both parts have at least three corners where some height is above 0 and some
    below.
    """
    corners, sides, heights = polygon
    at = height.tolist()
    above: tuple[list[int], list[Side], list[int]] = ([], [], [])
    below: tuple[list[int], list[Side], list[int]] = ([], [], [])
    along = Side(line)
    fresh: list[np.ndarray] = []
    for i, (corner, here) in enumerate(zip(corners, at, strict=True)):
        k = i + 1 if i + 1 < len(at) else 0
        there = at[k]
        if here >= 0:
            _extend(above, corner, along if here == 0 and there < 0 else sides[i], i)
        if here <= 0:
            _extend(below, corner, along if here == 0 and there > 0 else sides[i], i)
        if (here > 0 > there) or (here < 0 < there):
            # From the corner with the lower number, so that both neighbours calculate the same.
            a, b = (i, k) if corner < corners[k] else (k, i)
            share = at[a] / (at[a] - at[b])
            made = meet(sides[i], line, corners[a], corners[b], share)
            _extend(above, made, along if here > 0 else sides[i], len(at) + len(fresh))
            _extend(below, made, along if here < 0 else sides[i], len(at) + len(fresh))
            fresh.append(heights[a] + share * (heights[b] - heights[a]))
    if fresh:
        new = np.array(fresh)
        new[np.abs(new) <= rounding] = 0.0
        heights = np.concatenate([heights, new])
    return tuple(Polygon(part[0], part[1], heights[part[2]]) for part in (above, below))  # type: ignore[return-value]


def _extend(part: tuple[list[int], list[Side], list[int]], corner: int, side: Side, row: int) -> None:
    part[0].append(corner)
    part[1].append(side)
    part[2].append(row)


def union(parts: Sequence[Polygon], inner: Container[Line]) -> Polygon:
    """Parts of a polygon that are convex together, as one; they were cut apart by the lines `inner`."""
    onward = {
        corner: (there, side, heights)
        for part in parts
        for corner, there, side, heights in zip(
            part.corners, [*part.corners[1:], part.corners[0]], part.sides, part.heights, strict=True
        )
        if side.line not in inner
    }
    here = next(iter(onward))
    corners, sides, rows = [], [], []
    while here in onward:
        corners.append(here)
        here, side, heights = onward.pop(here)
        sides.append(side)
        rows.append(heights)
    # Between two sides on one line lies what was left of a cut: no corner.
    kept = [i for i, side in enumerate(sides) if side != sides[i - 1]]
    return Polygon([corners[i] for i in kept], [sides[i] for i in kept], np.array([rows[i] for i in kept]))
