"""Linear regions as objects: the affine map that the network is around a point, and the polytope on which it is that.

With every gate held as it is at a point, the network is `V z + a` and every gate's pre-activation is affine in z too.
The points that leave all gates on their side are a polytope, `slacks(z) >= 0` with `slacks(z) = N z + c`: one face for
each neuron (`h >= 0` where it is on, `-h >= 0` where it is off), and for each entry of a max-pool's window (the
winner's lead over it). No matrix is needed: `N d` is a difference of two held runs, `N' lambda` a backward pass.

Source: Croce & Hein, "A randomized gradient-free attack on ReLU networks" (GCPR 2018, arXiv:1811.11493), section 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.errors import InvalidInput, UnsupportedNetwork
from gatewise.network.rules import Fixed

if TYPE_CHECKING:
    from gatewise.network.view import Gate, NetworkView, Trace

_BLOCK = 2**24  # pre-activations at a time, where rows are repeated
_THINNEST = 1e-12  # share of a segment below which a region is rounding


@dataclass(frozen=True, eq=False)
class LinearRegion:
    """One linear region a row: that of `point` (batch, …), or that of another `pattern` (which may be empty).

    Best had in float64: in float32 a face nearer than rounding is on either side.
    `gates` are the network's, in order; `pattern` holds a bool tensor for each switch, winners for each max-pool.
    Runs count as passes of the view.
    """

    view: NetworkView
    point: Tensor
    gates: tuple[Gate, ...]
    pattern: tuple[Tensor, ...]

    def __post_init__(self):
        for i, gate in enumerate(self.gates):
            if gate.pool is not None and gate.pool.windows(self._sample.preactivations[i]) is None:
                raise UnsupportedNetwork(
                    f"Gate {i + 1} of {len(self.gates)} is a max-pool whose windows PyTorch does not list (adaptive, "
                    "3-d or rounded up), so its faces are not known; use max_pool1d or max_pool2d with ceil_mode=False."
                )

    # The affine map.

    def output(self, z: Tensor) -> Tensor:
        """`V z + a`, (batch, …): the network's output inside the region, for any `z` (batch, …)."""
        with torch.no_grad():
            return self._held(z).output

    @property
    def outputs(self) -> int:
        """How many numbers an output has."""
        return self._sample.output.flatten(1).shape[1]

    @cached_property
    def offset(self) -> Tensor:
        """`a`, shaped as the output."""
        return self.output(torch.zeros_like(self.point))

    def push(self, d: Tensor) -> Tensor:
        """`V d`, shaped as the output, for `d` (batch, …)."""
        return self.output(self.point + d) - self.output(self.point)

    def pull(self, weights: Tensor) -> Tensor:
        """`V' weights`, (batch, …), for `weights` shaped as the output."""
        leaf, output, _ = self._graph
        return torch.autograd.grad(output, leaf, weights, retain_graph=True)[0]

    def matrix(self) -> Tensor:
        """`V`, (batch, outputs, inputs), from one backward pass an output."""
        return self._derivatives(lambda _, run: run.output.flatten(1), self._each(self.outputs))

    # The polytope.

    @cached_property
    def faces(self) -> int:
        """How many faces are listed, some of which no input reaches and some of which another face hides."""
        heights = zip(self.gates, self._sample.preactivations, strict=True)
        return sum((h if g.pool is None else g.pool.entries(h)[0]).flatten(1).shape[1] for g, h in heights)

    def slacks(self, z: Tensor) -> Tensor:
        """`N z + c`, (batch, faces), for `z` (batch, …): at least 0 everywhere exactly inside the region."""
        with torch.no_grad():
            return self._slacks(self._held(z))

    def contains(self, z: Tensor, tolerance: float = 0.0) -> Tensor:
        """Whether `z` (batch, …) lies in the region (closed), up to `tolerance` in units of pre-activations: (batch,)
        bool.
        """
        return (self.slacks(z) >= -tolerance).all(1)

    def push_faces(self, d: Tensor) -> Tensor:
        """`N d`, (batch, faces)."""
        return self.slacks(self.point + d) - self.slacks(self.point)

    def pull_faces(self, weights: Tensor) -> Tensor:
        """`N' weights`, (batch, …), for `weights` (batch, faces)."""
        leaf, _, slacks = self._graph
        return torch.autograd.grad(slacks, leaf, weights, retain_graph=True)[0]

    def normals(self, faces: Tensor | None = None, *, memory: float = 2e9) -> Tensor:
        """Rows of N, (batch, k, inputs): those that `faces` (batch, k) int64 names, or all.

        Costs one backward pass a row of N.

        Raises:
            InvalidInput: more bytes than `memory`: ask for fewer faces, or use `push_faces` and `pull_faces`.
        """
        chosen = self._each(self.faces) if faces is None else faces
        wanted = chosen.numel() * self.point[0].numel() * self.point.element_size()
        if wanted > memory:
            raise InvalidInput(
                f"{chosen.shape[1]} faces of {len(self.point)} regions take {wanted / 1e9:.1f} GB, more than "
                f"memory={memory:.3g} allows; ask for fewer, or use the products push_faces and pull_faces."
            )
        return self._derivatives(LinearRegion._slacks, chosen)

    @cached_property
    def norms(self) -> Tensor:
        """2-norms of the rows of N, (batch, faces), from a forward pass for each input coordinate."""
        n, batch = self.point[0].numel(), len(self.point)
        base = self.slacks(torch.zeros_like(self.point))
        squares = torch.zeros_like(base)
        at_once = max(1, _BLOCK // base.numel())
        for first in range(0, n, at_once):
            axes = torch.arange(first, min(first + at_once, n), device=base.device)
            units = base.new_zeros(len(axes), n).scatter_(1, axes[:, None], 1.0)
            rows = torch.arange(batch, device=base.device).repeat(len(axes))
            every = units.repeat_interleave(batch, 0).view(-1, *self.point.shape[1:])
            moved = self.rows(rows).slacks(every).view(len(axes), *base.shape)
            squares += (moved - base).square().sum(0)
        return squares.sqrt()

    def distances(self) -> Tensor:
        """2-norm distance from `point` to each face's hyperplane, (batch, faces); negative beyond it, infinite where
        no input reaches it.
        """
        return torch.where(self.norms > 0, self.slacks(self.point) / self.norms, torch.inf)

    def across(self, faces: Tensor) -> LinearRegion:
        """The regions on the other side of `faces` (batch,) int64; a row of -1 stays."""
        pattern = []
        first = 0
        for i, (gate, held) in enumerate(zip(self.gates, self.pattern, strict=True)):
            entries = held
            if gate.pool is not None:
                entries = gate.pool.entries(self._sample.preactivations[i])[0].expand(len(held), *[-1] * held.ndim)
            size = entries[0].numel()
            here = ((faces >= first) & (faces < first + size)).nonzero().flatten()
            local = faces[here] - first
            changed = held.flatten(1).clone()
            if gate.pool is None:
                changed[here, local] = ~changed[here, local]
            else:
                windows = changed.shape[1]
                changed[here, local % windows] = entries.flatten(1)[here, local]
            pattern.append(changed.view_as(held))
            first += size
        return replace(self, pattern=tuple(pattern))

    # In the plane.

    def polygon(self, lower: float, upper: float, row: int = 0) -> np.ndarray:
        """For networks of two inputs: the region's corners inside the square from `lower` to `upper`, (corners, 2)
        float64, counterclockwise; none where they do not meet.

        Raises:
            InvalidInput: the network has not two inputs.
        """
        if self.point[0].numel() != 2:
            raise InvalidInput(
                f"A polygon needs a network of two inputs, this one has {self.point[0].numel()}; lay a plane through "
                "the input first."
            )
        one = self.rows(torch.tensor([row], device=self.point.device))
        normals = one.normals()[0].double().cpu().numpy()
        offsets = one.slacks(torch.zeros_like(one.point))[0].double().cpu().numpy()
        corners = np.array([[lower, lower], [upper, lower], [upper, upper], [lower, upper]], dtype=float)
        for normal, offset in zip(normals, offsets, strict=True):
            height = corners @ normal + offset
            if (height < 0).any():
                corners = _cut(corners, height)
            if len(corners) < 3:
                return np.empty((0, 2))
        return corners

    def area(self, lower: float, upper: float, row: int = 0) -> float:
        """Of that polygon."""
        x, y = self.polygon(lower, upper, row).T
        return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2

    # How it is done.

    def _held(self, z: Tensor) -> Trace:
        return self.view.trace(z, Fixed(self.pattern))

    @cached_property
    def _sample(self) -> Trace:
        """A run of one row, for what is the same in all: shapes."""
        with torch.no_grad():
            return self.view.trace(self.point[:1], Fixed([held[:1] for held in self.pattern]))

    @cached_property
    def _graph(self) -> tuple[Tensor, Tensor, Tensor]:
        leaf = self.point.detach().clone().requires_grad_()
        with torch.enable_grad():
            run = self._held(leaf)
            return leaf, run.output, self._slacks(run)

    def _slacks(self, run: Trace) -> Tensor:
        parts = [run.input.new_empty(len(run.input), 0)]
        for gate, held, h in zip(self.gates, self.pattern, run.preactivations, strict=True):
            if gate.pool is None:
                parts.append(torch.where(held, h, -h).flatten(1))
                continue
            entries, padded = gate.pool.entries(h)
            lead = [gate.pool.take(h, held) - gate.pool.take(h, entry) for entry in entries.unbind(1)]
            parts.append(torch.stack(lead, 1).masked_fill(padded, 1.0).flatten(1))  # what is no entry is no face
        return torch.cat(parts, 1)

    def rows(self, rows: Tensor) -> LinearRegion:
        """The regions of some rows, (k,) int64, repeated where a row is."""
        return LinearRegion(self.view, self.point[rows], self.gates, tuple(held[rows] for held in self.pattern))

    def _each(self, count: int) -> Tensor:
        return torch.arange(count, device=self.point.device).expand(len(self.point), -1)

    @torch.enable_grad()
    def _derivatives(self, told: Callable[[LinearRegion, Trace], Tensor], chosen: Tensor) -> Tensor:
        """The gradients of some entries of `told(region, run)` (rows, m), (batch, k) int64: (batch, k, inputs)."""
        batch, k = chosen.shape
        found = self.point.new_empty(batch * k, self.point[0].numel())
        size = sum(h.flatten(1).shape[1] for h in (*self._sample.preactivations, self.point))
        if batch >= k:
            # Few entries of many rows: one run, and a backward pass for each entry through it.
            for some in _blocks(batch, max(1, _BLOCK // size)):
                leaf, values = self.rows(torch.arange(batch, device=chosen.device)[some])._told(told)
                by_entry = found.view(batch, k, self.point[0].numel())[some]
                for entry in range(k):
                    asked = values.gather(1, chosen[some, entry : entry + 1]).sum()
                    by_entry[:, entry] = torch.autograd.grad(asked, leaf, retain_graph=True)[0].flatten(1)
            return found.view(batch, k, self.point[0].numel())
        rows = torch.arange(batch, device=chosen.device).repeat_interleave(k)
        for some in _blocks(len(rows), max(1, _BLOCK // size)):
            # Many entries of few rows: a copy of the row for each.
            leaf, values = self.rows(rows[some])._told(told)
            asked = values.gather(1, chosen.reshape(-1, 1)[some]).sum()
            found[some] = torch.autograd.grad(asked, leaf)[0].flatten(1)
        return found.view(batch, k, self.point[0].numel())

    def _told(self, told: Callable[[LinearRegion, Trace], Tensor]) -> tuple[Tensor, Tensor]:
        leaf = self.point.detach().clone().requires_grad_()
        return leaf, told(self, self._held(leaf))


def _blocks(count: int, at_once: int) -> Iterator[slice]:
    return (slice(first, min(first + at_once, count)) for first in range(0, count, at_once))


def _cut(corners: np.ndarray, height: np.ndarray) -> np.ndarray:
    """What is left of a convex polygon where `height`, affine and given at its corners, is at least 0."""
    kept = []
    for here, there, at_here, at_there in zip(
        corners, np.roll(corners, -1, 0), height, np.roll(height, -1), strict=True
    ):
        if at_here >= 0:
            kept.append(here)
        if (at_here < 0) != (at_there < 0) and at_here != 0 and at_there != 0:
            kept.append(here + (there - here) * (at_here / (at_here - at_there)))
    return np.array(kept).reshape(-1, 2)


def crossings(view: NetworkView, start: Tensor, end: Tensor) -> np.ndarray:
    """Where the segment from `start` to `end` (one row each, (1, …)) passes from one linear region to another: shares
    of the way, (crossings,) float64, ascending. One more than their number is the count of regions along it.

    A region shorter than 1e-12 of the way is passed over. Regions are convex, so a piece whose two ends lie in one
    region lies in it whole. Of any other piece the region of either end gives the share that it covers; what is left
    between is halved.

    Raises:
        InvalidInput: not one row each, or not float64: in float32 thin regions fall between two numbers.
    """
    if start.shape != end.shape or len(start) != 1 or start.dtype != torch.float64:
        raise InvalidInput(
            f"A segment goes from one float64 point (1, …) to another; got {tuple(start.shape)} and "
            f"{tuple(end.shape)}, {start.dtype}."
        )
    way = end - start
    found: list[float] = []
    low, high = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    while len(low):
        middle = (low + high) / 2
        open_ended = []
        for shares, forward in ((low, True), (high, False)):
            # The region just inside the piece, so that an end on a face counts to this piece's side.
            region = view.region(_at(start, way, torch.lerp(shares, middle, 1e-9)))
            slack = region.slacks(_at(start, way, middle))
            slope = region.slacks(_at(start, way, middle + 1)) - slack
            slope = slope if forward else -slope
            leaves = F.pad(torch.where(slope < 0, slack / -slope, torch.inf), (0, 1), value=torch.inf).amin(1).cpu()
            open_ended.append(middle + leaves if forward else middle - leaves)
        first, last = open_ended[0].clamp(max=1.0), open_ended[1].clamp(min=0.0)
        within = (first < high - _THINNEST) & (last > low + _THINNEST)  # else one region holds the whole piece
        meet = within & (first >= last - _THINNEST)
        found += ((first + last) / 2)[meet].tolist()
        rest = within & ~meet
        found += first[rest].tolist() + last[rest].tolist()
        cut = torch.lerp(first[rest], last[rest], 0.487)  # in the middle faces of symmetric networks meet
        low, high = torch.cat([first[rest], cut]), torch.cat([cut, last[rest]])
    return np.array(sorted(found))


def _at(start: Tensor, way: Tensor, shares: Tensor) -> Tensor:
    return start + shares.to(start).view(-1, *[1] * (start.ndim - 1)) * way
