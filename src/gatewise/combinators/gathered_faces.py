"""Regions with more faces than can be written out: products are held runs, rows come by backward passes when they are
wanted, and the searches of many regions are answered together, in one run for all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gatewise.network.region import LinearRegion
from gatewise.region_projection import Asking, Excess, Projection, Rows

MOST = 2000
"""Faces of a region, at most, that are gathered; a search that asks for more is given up."""
_TOGETHER = 256  # searches side by side …
_HELD = 2**30  # … and bytes, at most, of the rows that they hold: each its own, and again in its working set


class GatheredFaces:
    """The faces of one region, of about unit length, and the rows that are known so far.

    Args:
        scale: (m,), what each normal is divided by.
        limits: (m,), the slacks at the origin, divided likewise.
        written: (first, n) the normals of the first faces, divided likewise.
        signs: (first,) which way is outward for them.
    """

    dear: ClassVar[bool] = True

    def __init__(self, scale: np.ndarray, limits: np.ndarray, written: np.ndarray, signs: np.ndarray):
        self.scale, self.limits, self.written, self.signs = scale, limits, written, signs
        self.more = np.empty((0, written.shape[1]))
        self.known: dict[int, np.ndarray] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n)."""
        return len(self.limits), self.written.shape[1]

    def joined(self, rows: np.ndarray, limits: np.ndarray) -> GatheredFaces:
        """Itself with more half-spaces at the end."""
        self.more, self.limits = rows, np.append(self.limits, limits)
        return self

    def unknown(self, asked: Excess | Rows) -> list[int]:
        """The faces that are asked for and are to be gathered first."""
        if isinstance(asked, Excess):
            return []
        first, last = len(self.written), len(self.scale)
        return [i for i in asked.faces.tolist() if first <= i < last and i not in self.known]

    def would_hold(self, asked: Excess | Rows) -> int:
        """How many faces will have been gathered then."""
        return len(self.known) + len(self.unknown(asked))

    def signed(self, index: np.ndarray) -> np.ndarray:
        """The rows `index` (k,), none of them unknown: (k, n)."""
        return np.stack([self._row(i) for i in index.tolist()]) if len(index) else np.empty((0, self.shape[1]))

    def excess(self, d: np.ndarray, beyond: np.ndarray) -> np.ndarray:
        """How far `d` (n,) lies beyond each face, where it goes `beyond` the region's, unscaled."""
        last = len(self.scale)
        return np.append(beyond / self.scale, self.more @ d - self.limits[last:])

    def _row(self, i: int) -> np.ndarray:
        if i < len(self.written):
            return self.signs[i] * self.written[i]
        return self.known[i] if i < len(self.scale) else self.more[i - len(self.scale)]


Search = tuple[GatheredFaces, Asking[list[Projection]]]


def answered_together(
    region: LinearRegion, origin: Tensor, searches: Iterator[Search]
) -> Iterator[tuple[int, GatheredFaces, list[Projection]]]:
    """Run the searches of all regions, in order, side by side, and tell what each finds: the region, its faces, its
    projections.

    Args:
        region: k regions.
        origin: (k, …), where each is seen from.
        searches: one a region.
    """
    waiting = enumerate(searches)
    open_searches: dict[int, Search] = {}
    asked: dict[int, Excess | Rows] = {}
    answers: dict[int, np.ndarray | None] = {}
    together = max(1, min(_TOGETHER, _HELD // (2 * 8 * MOST * origin[0].numel())))
    while True:
        while len(open_searches) < together and (new := next(waiting, None)) is not None:
            k, open_searches[k] = new
            answers[k] = None
        if not open_searches:
            return
        for k, answer in answers.items():
            faces, search = open_searches[k]
            try:
                asked[k] = search.send(answer)  # type: ignore[arg-type]
            except StopIteration as ended:
                del open_searches[k]
                asked.pop(k, None)
                yield k, faces, ended.value
        for k in [k for k, (faces, _) in open_searches.items() if faces.would_hold(asked[k]) > MOST]:
            del open_searches[k], asked[k]
        held = {k: faces for k, (faces, _) in open_searches.items()}
        _gather(region, held, asked)
        excess = _excess(region, origin, held, {k: a.d for k, a in asked.items() if isinstance(a, Excess)})
        rows = {k: held[k].signed(a.faces) for k, a in asked.items() if isinstance(a, Rows)}
        answers = {**excess, **rows}


def _excess(
    region: LinearRegion, origin: Tensor, held: dict[int, GatheredFaces], ways: dict[int, np.ndarray]
) -> dict[int, np.ndarray | None]:
    """How far each way goes beyond the faces of its region."""
    if not ways:
        return {}
    which = torch.tensor(list(ways), device=region.point.device)
    far = torch.from_numpy(np.stack(list(ways.values()))).to(origin).view_as(origin[which])
    beyond = -region.rows(which).slacks(origin[which] + far).double().cpu().numpy()
    return {k: held[k].excess(d, row) for (k, d), row in zip(ways.items(), beyond, strict=True)}


def _gather(region: LinearRegion, held: dict[int, GatheredFaces], asked: dict[int, Excess | Rows]) -> None:
    """The rows that are asked for and not known yet, of all regions in one run."""
    new = [(k, i) for k, faces in held.items() for i in faces.unknown(asked[k])]
    if not new:
        return
    which, index = torch.tensor(new, device=region.point.device).unbind(1)
    normals = region.rows(which).normals(index[:, None], memory=float("inf"))[:, 0].double().cpu().numpy()
    for (k, i), normal in zip(new, normals, strict=True):
        held[k].known[i] = -normal / held[k].scale[i]
