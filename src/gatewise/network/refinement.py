"""A polygon on which a gate's pre-activations are affine, cut into those on which the gate does one thing.

A switch is decided by the sign of each pre-activation, a max-pool by the largest entry of each window. Both are read
off the polygon's corners: what has one sign at all corners has it on the whole polygon, what is largest at all corners
is largest on the whole.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gatewise.network.operations import Pool
from gatewise.polygons import Line, Meet, Polygon, cut, union


@dataclass(eq=False)
class Decisions(abc.ABC):
    """What a gate decides at each point.

    Args:
        first: number of the gate's first entry among the entries of all gates: names of lines.
        rounding: heights of at most that count as 0.
    """

    first: int
    rounding: float

    @abc.abstractmethod
    def open(self, heights: np.ndarray) -> np.ndarray:
        """Which decisions are not the same at all corners, given the gate's `heights` there, (corners, entries):
        positions (k,) in a fixed order.
        """

    @abc.abstractmethod
    def of(self, heights: np.ndarray, decisions: np.ndarray) -> np.ndarray:
        """The heights that `decisions` (k,) look at, (corners, k, …)."""

    @abc.abstractmethod
    def still_open(self, heights: np.ndarray) -> np.ndarray:
        """Which of the decisions with `heights` (corners, k, …) are open, (k,) bool."""

    @abc.abstractmethod
    def settle(self, polygon: Polygon, decision: int, meet: Meet) -> list[Polygon]:
        """The polygon, whose heights are those of some decisions, in parts on which the first, `decision`, is made."""

    def cells(self, polygon: Polygon, meet: Meet) -> list[Polygon]:
        """The polygon, whose heights are the gate's (corners, entries), in parts on which all decisions are made."""
        done, left = [], []
        decisions = self.open(polygon.heights)
        left.append((polygon._replace(heights=self.of(polygon.heights, decisions)), decisions))
        while left:
            part, decisions = left.pop()
            if not len(decisions):
                done.append(part)
                continue
            for piece in self.settle(part, int(decisions[0]), meet):
                heights = piece.heights[:, 1:]
                still = self.still_open(heights)
                left.append((piece._replace(heights=heights[:, still]), decisions[1:][still]))
        return done


@dataclass(eq=False)
class Signs(Decisions):
    """Of a switch: which side of 0 each of its `entries` is on."""

    entries: int

    def __post_init__(self):
        # Neighbours of a convolution have nearly parallel lines: in their order each cut would part little from much.
        self._order = np.random.default_rng(0).permutation(self.entries)

    def open(self, heights):
        """Entries with both signs."""
        changes = self.still_open(heights)
        return self._order[changes[self._order]]

    def of(self, heights, decisions):
        """Their columns."""
        return heights[:, decisions]

    def still_open(self, heights):
        """Entries with both signs."""
        return (heights.max(0) > 0) & (heights.min(0) < 0)

    def settle(self, polygon, decision, meet):
        """Two halves."""
        line = frozenset((self.first + decision,))
        return list(cut(polygon, polygon.heights[:, 0], line, meet, self.rounding))


@dataclass(eq=False)
class Winners(Decisions):
    """Of a max-pool: which entry of each window is largest; `windows` (windows, entries of one) are their positions."""

    windows: np.ndarray

    def open(self, heights):
        """Windows without an entry that is largest at all corners."""
        return self.still_open(heights[:, self.windows]).nonzero()[0]

    def of(self, heights, decisions):
        """Their windows."""
        return heights[:, self.windows[decisions]]

    def still_open(self, heights):
        """Windows without an entry that is largest at all corners."""
        return ~(heights >= heights.max(2, keepdims=True) - self.rounding).all(0).any(1)

    def settle(self, polygon, decision, meet):
        """One part for each entry that is largest somewhere."""
        names = self.first + self.windows[decision]
        won: dict[int, list[Polygon]] = {}
        made: set[Line] = set()
        left = [polygon]
        while left:
            part = left.pop()
            rivals = _rivals(part.heights[:, 0], self.rounding)
            if len(rivals) == 1:
                won.setdefault(int(names[rivals[0]]), []).append(part)
                continue
            one, other = rivals
            line = frozenset((int(names[one]), int(names[other])))
            lead = part.heights[:, 0, one] - part.heights[:, 0, other]
            lead[np.abs(lead) <= self.rounding] = 0.0
            left += cut(part, lead, line, meet, self.rounding)
            made.add(line)
        # What a winner has on both sides of a line, where two others tie, is one.
        return [union(parts, [line for line in made if winner not in line]) for winner, parts in won.items()]


def _rivals(window: np.ndarray, rounding: float) -> tuple[int, ...]:
    """The entry of a window (corners, entries) that is largest at all corners; where there is none, two of which each
    beats the other somewhere.
    """
    behind = window.max(1, keepdims=True) - window
    largest = (behind <= rounding).all(0)
    if largest.any():
        return (int(largest.argmax()),)
    one = int(window[0].argmax())
    for _ in range(window.shape[1]):
        worst = int(behind[:, one].argmax())
        other = int(window[worst].argmax())
        if (window[:, one] - window[:, other] > rounding).any():
            return one, other
        one = other  # which is nowhere behind it, and ahead somewhere
    return (one,)


def decisions_of(pool: Pool | None, sample: Tensor, first: int, rounding: float) -> Decisions:
    """What a gate decides, given its pre-activations `sample` (rows, …) at some points.

    A max-pool's windows must be known (`Pool.windows`).
    """
    entries = sample[0].numel()
    if pool is None:
        return Signs(first, rounding, entries)
    positions, padded = pool.entries(sample[:1])
    size = sample.flatten(-pool.axes).shape[-1]
    maps = torch.arange(entries // size).view(*sample.shape[1 : sample.ndim - pool.axes], *[1] * pool.axes) * size
    listed = (positions[0].cpu() + maps).flatten(1).T.numpy()
    # What is no entry repeats one that is.
    missing = padded[0].cpu().expand(positions[0].shape).flatten(1).T.numpy()
    there = listed[np.arange(len(listed)), (~missing).argmax(1)]
    return Winners(first, rounding, np.where(missing, there[:, None], listed))
