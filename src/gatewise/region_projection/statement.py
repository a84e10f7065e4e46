"""What is asked, what a search asks in turn, and what it tells."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, NamedTuple, Protocol, TypeVar

import numpy as np


class Outcome(StrEnum):
    """How the search for one target ended."""

    SOLVED = "solved"
    PRUNED = "pruned"
    EMPTY = "empty"
    STALLED = "stalled"


@dataclass(frozen=True, eq=False)
class Faces:
    """The half-spaces `signs[i] * (rows[i] @ d) <= limits[i]`.

    The hidden units of a first layer have the same rows in each region and differ by signs: with `signs` given, the
    rows are shared by all regions and the m rows with their signs are never formed.

    Args:
        rows: (m, n) float64, C-contiguous, each of unit 2-norm, or 0 for no face at all.
        limits: (m,) float64.
        signs: (m,) float64 of 1 and -1; None for all 1.
    """

    rows: np.ndarray
    limits: np.ndarray
    signs: np.ndarray | None = None
    dear: ClassVar[bool] = False
    """Whether products and rows cost so much that a working set is solved well before it asks for more."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, n)."""
        return self.rows.shape

    def joined(self, rows: np.ndarray, limits: np.ndarray) -> Faces:
        """These and more half-spaces, (k, n) and (k,); copies the rows."""
        every = self.rows if self.signs is None else self.signs[:, None] * self.rows
        return Faces(np.append(every, rows, axis=0), np.append(self.limits, limits))

    def excess(self, d: np.ndarray) -> np.ndarray:
        """How far `d` (n,) lies beyond each face, (m,)."""
        products = self.rows @ d
        return (products if self.signs is None else self.signs * products) - self.limits

    def signed(self, index: np.ndarray) -> np.ndarray:
        """A copy of the rows `index` (k,) with their signs, (k, n)."""
        rows = self.rows[index]
        if self.signs is not None:
            rows *= self.signs[index, None]
        return rows


@dataclass(frozen=True, eq=False)
class Projection:
    """What is known of the nearest point for one target.

    `lower_bound` holds whatever the status (but rests on HiGHS's word for an empty set with p = 1 or `inf`).
    """

    status: Outcome
    """Solved: residual and gap are below 1e-8 of the distance. Pruned: the distance is no less than the cutoff, or the
    set is empty. Empty: nothing is feasible. Stalled: numerical trouble; the point is not certified."""
    lower_bound: float
    """Of the distance; `inf` for an empty set."""
    point: np.ndarray | None = None
    """d, (n,), when solved or stalled."""
    distance: float = math.inf
    """`||d||_p` of `point`."""
    residual: float = math.inf
    """The largest excess of `point` beyond a row. The box holds exactly."""
    gap: float = math.inf
    """`distance - lower_bound`, which is also what complementary slackness leaves."""
    active: np.ndarray | None = None
    """The faces with a positive multiplier, (k,) indices, when solved or stalled."""
    multipliers: np.ndarray | None = None
    """Of the faces `active`, (k,): of the problem with `||d||^2 / 2` for p = 2, with `||d||_p` otherwise."""
    target_multiplier: float = 0.0
    """Of the target's row, scaled to unit 2-norm."""


class Listed(Protocol):
    """What a search has to know of faces before it asks for any: their limits, how many numbers a row has, and whether
    asking is dear.
    """

    dear: ClassVar[bool]

    @property
    def limits(self) -> np.ndarray:
        """(m,)."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """(m, n)."""
        ...


class Excess(NamedTuple):
    """A search asks how far `d` (n,) lies beyond each face, (m,)."""

    d: np.ndarray


class Rows(NamedTuple):
    """A search asks for the rows of `faces` (k,) with their signs, (k, n)."""

    faces: np.ndarray


Told = TypeVar("Told")
Asking = Generator[Excess | Rows, np.ndarray, Told]
"""Asks, is answered, and tells at last."""
