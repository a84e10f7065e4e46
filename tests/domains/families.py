"""One list of sets, on which every promise of `Domain` is tested."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from gatewise.domains import Box, Domain, Intersection, L1Ball, L2Ball, Latents, LinfBall, Polyhedron, Simplex
from gatewise.geometry import row_norm
from gatewise.streams import RowStreams

ROWS = 5
SHAPE = (2, 3)
N = 6


class Data:
    """Data of the sets, drawn in float64; the rows that are wanted are handed out in a dtype."""

    def __init__(self, dtype: torch.dtype, rows: list[int]):
        draw = torch.Generator().manual_seed(7)

        def own(*shape: int) -> Tensor:
            return torch.rand(ROWS, *shape, generator=draw, dtype=torch.float64).to(dtype)[rows]

        self.center, self.width, self.radius = own(*SHAPE), 0.05 + own(*SHAPE), 0.1 + own()
        self.matrix = torch.randn(9, N, generator=draw, dtype=torch.float64).to(dtype)
        self.offset = (self.center.flatten(1)[:, None] * self.matrix).sum(2) + 0.2 + own(9)


@dataclass(frozen=True)
class Family:
    """A set by name: how to build it, and the norm that its steps are measured by."""

    name: str
    build: Callable[[Data], Domain]
    norm: Callable[[Tensor, Data], Tensor]
    has_support: bool = True

    def make(self, dtype: torch.dtype = torch.float64, rows: list[int] | None = None) -> Domain:
        return self.build(Data(dtype, list(range(ROWS)) if rows is None else rows))


def linf(step: Tensor, data: Data) -> Tensor:
    return row_norm(step, torch.inf)


def l2(step: Tensor, data: Data) -> Tensor:
    return row_norm(step, 2)


def l1(step: Tensor, data: Data) -> Tensor:
    return row_norm(step, 1)


def in_half_widths(step: Tensor, data: Data) -> Tensor:
    return row_norm(step / data.width, torch.inf) * data.width.flatten(1).amax(1)


def tempered_l1(radius: float) -> Callable[[Tensor, Data], Tensor]:
    return lambda step, data: row_norm(step, 1).maximum(radius * row_norm(step, torch.inf))


UNIT = Box(0.0, 1.0)


def around(d: Data) -> Box:
    return Box(d.center - d.width, d.center + d.width)


def faces(d: Data) -> Polyhedron:
    return Polyhedron(d.matrix, d.offset)


def slab(d: Data) -> Polyhedron:
    return Polyhedron(torch.cat([d.matrix, -d.matrix]), torch.cat([d.offset, 3 - d.offset.clamp(max=1)], 1))


FAMILIES = [
    Family("box", lambda d: Box(-0.3, 0.7), linf),
    Family("box by entry", around, in_half_widths),
    Family("box without batch axis", lambda d: Box(torch.zeros(SHAPE), 0.1), linf),
    Family("latents", lambda d: Latents(1.5), linf),
    Family("linf", lambda d: LinfBall(d.center, 8 / 255), linf),
    Family("l2", lambda d: L2Ball(d.center, d.radius), l2),
    Family("l1", lambda d: L1Ball(d.center, d.radius), l1),
    Family("l2 of one center", lambda d: L2Ball(torch.zeros(1, *SHAPE), 0.3), l2),
    Family("simplex", lambda d: Simplex(), l1),
    Family("simplex of total 3", lambda d: Simplex(3), l1),
    Family("polyhedron", slab, l2),
    Family("linf and box", lambda d: Intersection(LinfBall(d.center, d.radius), UNIT), linf),
    Family("box and linf", lambda d: Intersection(around(d), LinfBall(d.center, 0.3)), linf),
    Family("two linf balls", lambda d: Intersection(LinfBall(d.center, 0.3), LinfBall(d.center + 0.1, 0.25)), linf),
    Family("two boxes", lambda d: Intersection(UNIT, Box(-1, torch.full(SHAPE, 0.5))), linf),
    Family("l2 and box", lambda d: Intersection(L2Ball(d.center, d.radius), UNIT), l2),
    Family("box and l2", lambda d: Intersection(around(d), L2Ball(d.center, 0.4)), l2),
    Family("l2 and half-line", lambda d: Intersection(L2Ball(d.center, 0.4), Box(0.2, torch.inf)), l2),
    Family("l2 centred outside", lambda d: Intersection(L2Ball(d.center - 0.6, 1.5), UNIT), l2),
    Family("l2 and linf", lambda d: Intersection(L2Ball(d.center, 0.3), LinfBall(d.center, 0.2)), l2),
    Family(
        "l2, linf and box",
        lambda d: Intersection(UNIT, Intersection(LinfBall(d.center, 0.2), L2Ball(d.center, 0.3))),
        l2,
    ),
    Family("l1 and box", lambda d: Intersection(L1Ball(d.center, 2.0), UNIT), tempered_l1(2.0)),
    Family("l1 centred outside", lambda d: Intersection(UNIT, L1Ball(d.center - 0.6, 4.0)), tempered_l1(4.0)),
    Family("simplex and box", lambda d: Intersection(Simplex(), Box(0.05, 0.4)), l1),
    Family("polyhedron and box", lambda d: Intersection(faces(d), UNIT), l2),
    Family("linf and polyhedron", lambda d: Intersection(LinfBall(d.center, 0.3), faces(d)), linf),
    Family("two polyhedra", lambda d: Intersection(slab(d), Polyhedron(torch.ones(1, N), torch.full((1,), 3.0))), l2),
    Family("two l2 balls", lambda d: Intersection(L2Ball(d.center, 0.5), L2Ball(d.center + 0.1, 0.4)), l2, False),
    Family("polyhedron and l2", lambda d: Intersection(faces(d), L2Ball(d.center, 0.4)), l2, False),
    Family("simplex and l2", lambda d: Intersection(Simplex(), L2Ball(torch.full((1, *SHAPE), 0.125), 0.4)), l2, False),
    Family(
        "l2, box and polyhedron", lambda d: Intersection(Intersection(L2Ball(d.center, 0.4), UNIT), faces(d)), l2, False
    ),
]

BY_NAME = {family.name: family for family in FAMILIES}
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name.replace(" ", "-"))
every_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
# Rounding moves a point by a few units in the last place of its coordinates, which are of order one here.
ROUNDING = {torch.float32: 2e-6, torch.float64: 1e-11}


def points(dtype: torch.dtype = torch.float64, seed: int = 0, spread: float = 1.0) -> Tensor:
    """Points around the sets of the list, (rows, …)."""
    draw = torch.Generator().manual_seed(seed)
    return (0.5 + spread * torch.randn(ROWS, *SHAPE, generator=draw, dtype=torch.float64)).to(dtype)


def streams(seed: int = 0, rows: list[int] | None = None) -> RowStreams:
    return RowStreams(seed, list(range(ROWS)) if rows is None else rows)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """The inner product of each row, (batch,) float64."""
    return (a.double() * b.double()).flatten(1).sum(1)
