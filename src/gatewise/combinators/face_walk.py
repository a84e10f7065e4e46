"""Face walking: the nearest adversarial point by programs on linear regions, each entered across a face of another.

Where the nearest point of a region that another class wins is held by faces, a nearer one may lie across them; where it
is held by none, it is the nearest far and wide. So the search goes, from the nearest solution that it has not left yet,
across each of the faces that hold it, across the dearest together, and across all. It ends in the valleys where the
warm start began.

Source: the programs are those of Croce & Hein, "A randomized gradient-free attack on ReLU networks" (GCPR 2018,
arXiv:1811.11493), eq. 2-3; the order is best-first search. Jordan, Lewis & Dimakis, "Provable certificates for
adversarial examples: fitting a ball in the union of polytopes" (NeurIPS 2019) walk all faces, from the input outward.

Deviations from Croce & Hein: no draws; the warm start is that of `rlr-qp`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from gatewise.combinators.region_programs import Shortest
from gatewise.combinators.region_search import RegionSearch, Search
from gatewise.methods.base import Steps, require_positive

_BEYOND = 1e-5  # how far beyond a face the next region is entered, in distances


@dataclass(frozen=True, kw_only=True)
class FaceWalk(RegionSearch):
    """Nearest points of linear regions, entered across the faces that hold the nearest points so far.

    For a `Distance` as objective, a margin as goal and a box.
    """

    name: ClassVar[str] = "face-walk"

    kept: int = 100
    """How many solutions wait to be left."""
    slack: float = 1.2
    """Solutions up to so many best distances away are walked on from."""
    steps: int = 30
    """Solutions that are left, for each row."""
    faces: int = 8
    """Faces that are crossed one by one, the dearest first; groups of the dearest 2, 4, 8, … and all are crossed at
    once.
    """

    def __post_init__(self):
        require_positive(steps=self.steps, faces=self.faces)
        super().__post_init__()

    def explore(self, search: Search) -> Steps:
        """Leave the nearest solution that has not been left, until none is or the steps are made."""
        left: dict[int, Shortest] = {}
        for _ in range(self.steps):
            rows, points = [], []
            for row, kept in enumerate(search.kept):
                near = (one for one in kept if one.distance < self.slack * search.reach(row))
                one = next((one for one in near if id(one) not in left), None)
                if one is not None:
                    left[id(one)] = one
                    beyond = one.way + _BEYOND * one.distance * np.stack(list(self._crossings(one)))
                    points.append(torch.from_numpy(beyond).to(search.origin) + search.origin[row].flatten())
                    rows += [row] * len(beyond)
            if not rows:
                return
            of_rows = torch.tensor(rows, device=search.origin.device)
            yield from search.solve(of_rows, torch.cat(points).view(-1, *search.origin.shape[1:]))

    def _crossings(self, one: Shortest) -> Iterator[np.ndarray]:
        """Ways across one face and across groups of them, (n,) each; at last across all."""
        yield from one.outward[: self.faces]
        group = 2
        while group < len(one.outward):
            yield one.outward[:group].sum(0)
            group *= 2
        yield one.outward.sum(0)
