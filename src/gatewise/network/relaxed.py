"""ADR-GD's relaxed gates, held so that a step pays only for what moves.

Of eta's entries nearly all are settled: the surrogate's `sigmoid(steepness (eta - 1/2))` is 0 or 1 to the last bit, and
eta agrees with the true pattern, so that neither term of the Lagrangian has a derivative in them. The others, one in a
hundred or a thousand, are *free*: soft, or at odds with the pattern. They are kept as lists, so that a run of either
network costs what a plain run does and one comparison of signs, and a step in eta costs what its list is long.

Legend: eta = relaxed gate in [0, 1]; s = sigmoid(steepness (eta - 1/2)), the surrogate's share of the pre-activation.
Layout: the chosen gates one after the other, each (batch, …) flattened; a *position* counts through all of them, and a
*block* is one row of one gate.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gatewise.network.rules import Fixed, GateRule, Network, PerGate, Surrogate, is_zero, leaky
from gatewise.network.view import Trace


@dataclass(frozen=True, eq=False)
class Compared(GateRule):
    """`max(z, 0)`: the network itself, which also tells where a gate is not as `on` (bool, by gate) says.

    After the run `odds` holds, by gate, where they differ (int64, into the flattened gate) and the pre-activations
    there, differentiable.
    """

    on: PerGate
    odds: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def switch(self, index, z, slope):
        """`max(z, 0) + slope min(z, 0)`."""
        if (on := self.on[index]) is None:
            return Network().switch(index, z, slope)
        where = _differing(z.detach(), on)
        if is_zero(slope):
            out, heights = _ComparedGate.apply(z, where)
        else:
            out, heights = Network().switch(index, z, slope), z.flatten()[where]
        self.odds[index] = where, heights
        return out

    def each(self, change: Callable[[Tensor], Tensor]) -> Any:
        """The bare network: a run in pieces keeps its pre-activations, which are compared as a whole."""
        return Network()


@dataclass(frozen=True, eq=False)
class Settled(GateRule):
    """`s z`: the surrogate with its share written down by gate, and a derivative in eta only where that is not 0.

    `share` is s; `soft` (int64, into the flattened gate) the entries with a derivative, `eta` their values.
    """

    share: PerGate
    soft: PerGate
    eta: PerGate
    steepness: float
    rest: GateRule = Network()

    def switch(self, index, z, slope):
        """`(slope + (1 - slope) s) z`."""
        share, soft, eta = self.share[index], self.soft[index], self.eta[index]
        if share is None or soft is None or eta is None:
            return self.rest.switch(index, z, slope)
        return _SettledGate.apply(z, eta, share, soft, self.steepness, slope)

    def choice(self, index, z, pool):
        """As `rest` says."""
        return self.rest.choice(index, z, pool)

    def each(self, change: Callable[[Tensor], Tensor]) -> Any:
        """`Surrogate` with `change` applied: lists of entries cannot be cut into rows."""
        lists = zip(self.share, self.soft, self.eta, strict=True)
        eta = [
            None if s is None or soft is None or e is None else s.flatten().index_put((soft,), e).view_as(s)
            for s, soft, e in lists
        ]
        return Surrogate(eta, self.steepness, self.rest).each(change)


class _ComparedGate(torch.autograd.Function):
    """ReLU and a look at some of its pre-activations: their gradients are added in place to the ReLU's own."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, where: Tensor) -> Any:
        out = torch.relu(z)
        ctx.save_for_backward(out, where)
        ctx.set_materialize_grads(False)
        return out, z.flatten()[where]

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        out, where = ctx.saved_tensors
        through, looked = gradients
        to_z = torch.zeros_like(out) if through is None else torch.ops.aten.threshold_backward(through, out, 0)
        if looked is not None:
            to_z = to_z.contiguous()
            to_z.view(-1).index_add_(0, where, looked)
        return to_z, None


class _SettledGate(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, z: Tensor, eta: Tensor, share: Tensor, soft: Tensor, steepness: float, slope: float | Tensor
    ) -> Tensor:
        ctx.save_for_backward(share, soft, z.flatten()[soft])
        ctx.steepness, ctx.slope = steepness, slope
        return leaky(share * z, z, slope)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        share, soft, z = ctx.saved_tensors
        (gradient,) = gradients
        to_z = leaky(gradient * share, gradient, ctx.slope) if ctx.needs_input_grad[0] else None
        to_eta = None
        if ctx.needs_input_grad[1]:
            s = share.flatten()[soft]
            if not is_zero(ctx.slope):
                gradient = gradient * (1 - ctx.slope)
            to_eta = ctx.steepness * s * (1 - s) * gradient.flatten()[soft] * z
        return to_z, to_eta, None, None, None, None


@dataclass(frozen=True, eq=False)
class FreeGates:
    """The entries of eta that can move at a step: those at odds with the true pattern, then the other soft ones.

    `position` (n,) and `block` (n,) int64; `eta` (n,) as a leaf of its own; `heights` (k,) the true pre-activations of
    the first k, differentiable; `soft` (m,) int64: where in this list the soft ones stand.
    """

    position: Tensor
    block: Tensor
    eta: Tensor
    heights: Tensor
    soft: Tensor

    def charge(self, norms: Tensor | None, *, moves_input: bool = True) -> Tensor:
        """Equation 10 for the first k, the only ones that it charges: `max(h/||P|| (1/2 - eta), 0)`, (k,).

        Both halves of the equation are one. `norms` (k,) is a constant; None leaves h undivided (ablation M3);
        `moves_input` False makes h a constant (M2).
        """
        k, heights = len(self.heights), self.heights if moves_input else self.heights.detach()
        distance = heights if norms is None else heights / norms
        # relu passes no gradient at 0, where h or eta lies on its threshold: the indicators of equation 11.
        return torch.relu(distance * (0.5 - self.eta[:k]))


class RelaxedGates:
    """eta of the chosen gates: the true pattern at first (Algorithm 1, line 1).

    Args:
        trace: a run of the network at the first point, with its pre-activations.
        chosen: positions of the gates that carry eta, among all gates.
        steepness: of the surrogate.
    """

    def __init__(self, trace: Trace, chosen: Sequence[int], steepness: float):
        heights = [trace.preactivations[i].detach() for i in chosen]
        self.chosen, self.gates, self.steepness = tuple(chosen), len(trace.gates), steepness
        self.rows = len(trace.input)
        self._shapes = [h.shape for h in heights]
        sizes = torch.tensor([h[0].numel() for h in heights]).repeat_interleave(self.rows)
        ends = sizes.cumsum(0)
        self._begin = [int(ends[gate * self.rows - 1]) if gate else 0 for gate in range(len(heights))]
        self._bounds = torch.cat([ends.new_zeros(1), ends]).to(trace.input.device)
        self._blocks = torch.arange(len(sizes), device=trace.input.device)
        self._on = torch.cat([(h > 0).flatten() for h in heights])
        self._eta = self._on.to(trace.input.dtype)
        self._share = self._sigmoid(self._eta)
        self._soft = self._is_soft(self._share).nonzero().squeeze(1)
        # By gate, as windows on the above, which are only ever written into.
        flats = self._eta, self._on, self._share
        self._eta_by_gate, self._on_by_gate, self._share_by_gate = map(self._by_gate, flats)

    @property
    def eta(self) -> tuple[Tensor, ...]:
        """By chosen gate, each (batch, …); do not write to them."""
        return tuple(self._eta_by_gate)

    def row_size(self, gate: int) -> int:
        """How many entries a row of a chosen gate has."""
        return self._shapes[gate][1:].numel()

    def compared(self) -> Compared:
        """The rule of the true network's run."""
        return Compared(self._placed(self._on_by_gate))

    def surrogate(self, free: FreeGates | None = None, *, rest: GateRule | None = None) -> Settled:
        """The rule of the surrogate's run; differentiable in `free.eta` where `free` is given. Gates without eta follow
        `rest` (None: the network).
        """
        counts = torch.searchsorted(self._soft, self._bounds[:: self.rows].contiguous()).diff().tolist()
        soft = [part - begin for part, begin in zip(self._soft.split(counts), self._begin, strict=True)]
        eta = self._eta[self._soft] if free is None else free.eta[free.soft]
        return Settled(
            self._placed(self._share_by_gate),
            self._placed(soft),
            self._placed(eta.split(counts)),
            self.steepness,
            rest or Network(),
        )

    def held(self, trace: Trace) -> Settled:
        """The surrogate with all other gates as in `trace`: affine in the input."""
        return self.surrogate(rest=Fixed(trace.pattern()))

    def free(self, compared: Compared, true: Trace) -> FreeGates:
        """The entries that can move after `true`, the network's run under `compared`."""
        odds = self._odds(compared, true)
        at_odds = torch.cat([where + begin for (where, _), begin in zip(odds, self._begin, strict=True)])
        # Which soft ones are in that list, which is sorted, already?
        place = torch.searchsorted(at_odds, self._soft)
        known = torch.cat([at_odds, at_odds.new_full((1,), -1)])[place] == self._soft
        others = self._soft[~known]
        position = torch.cat([at_odds, others])
        return FreeGates(
            position=position,
            block=torch.cat([self._blocks_of(at_odds), self._blocks_of(others)]),
            eta=self._eta[position].requires_grad_(),
            heights=torch.cat([heights for _, heights in odds]),
            soft=torch.where(known, place, len(at_odds) - 1 + (~known).cumsum(0)),
        )

    def agreement(self, compared: Compared, true: Trace) -> Tensor:
        """The share of each row's entries that are on, above 1/2, where the network's are after `true`: (batch,)."""
        counts = self._eta.new_zeros(self.rows)
        for gate, (where, _) in enumerate(self._odds(compared, true)):
            counts.index_add_(0, where // self.row_size(gate), counts.new_ones(()).expand(len(where)))
        return 1 - counts * (self.rows / len(self._eta))

    def directions(self, free: FreeGates, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """A gradient in `free.eta` (n,) divided by its 2-norm in its block, and those norms, (gates, batch).

        A block without gradient keeps none.
        """
        blocks = gradient.new_zeros(len(self._blocks))
        # Squares of entries below 1e-20 underflow in float32: each block is scaled by its largest entry first.
        largest = blocks.scatter_reduce(0, free.block, gradient.abs(), "amax")
        scaled = gradient / largest.where(largest > 0, 1)[free.block]
        norm = blocks.index_add(0, free.block, scaled.square()).sqrt()
        direction = scaled / norm.where(norm > 0, 1)[free.block]
        return direction, (norm * largest).view(len(self.chosen), self.rows)

    def step(
        self, free: FreeGates, direction: Tensor, kicks: Sequence[tuple[int, int, Tensor]] = (), *, length: float
    ) -> None:
        """Add `length` times `direction` (n,) to the free entries of eta, and `length` times the noise of each of
        `kicks` (which chosen gate, which row, noise (`row_size`,)) to a whole block; all is kept in [0, 1].
        """
        self._eta[free.position] = free.eta.detach() + length * direction
        kicked = torch.zeros_like(self._blocks, dtype=torch.bool)
        soft = []
        for gate, row, noise in kicks:
            begin = self._begin[gate] + row * self.row_size(gate)
            block = slice(begin, begin + noise.numel())
            self._eta[block] += length * noise
            soft.append(begin + self._settle(block).nonzero().squeeze(1))
            kicked[gate * self.rows + row] = True
        rest = free.position if not soft else free.position[~kicked[free.block]]
        self._soft = torch.cat([rest[self._settle(rest)], *soft]).sort().values

    def total(self, free: FreeGates, charge: Tensor) -> Tensor:
        """The charges of each row's neurons, added: equation 10 as printed, (batch,)."""
        blocks = charge.new_zeros(len(self._blocks)).index_add(0, free.block[: len(charge)], charge)
        return blocks.view(-1, self.rows).sum(0)

    def _odds(self, compared: Compared, true: Trace) -> list[tuple[Tensor, Tensor]]:
        """By chosen gate, where it is not as eta says and the true pre-activations there."""
        if not compared.odds:  # the run went in pieces
            for i in self.chosen:
                compared.switch(i, true.preactivations[i], 0.0)
        return [compared.odds[i] for i in self.chosen]

    def _blocks_of(self, position: Tensor) -> Tensor:
        """The block of each of some sorted positions."""
        counts = torch.searchsorted(position, self._bounds).diff()
        return self._blocks.repeat_interleave(counts, output_size=len(position))

    def _settle(self, where: Tensor | slice) -> Tensor:
        """Bring eta into [0, 1] there, and what follows from it up to date; which are soft."""
        eta = self._eta[where].clamp(0, 1)
        share = self._sigmoid(eta)
        self._eta[where], self._share[where], self._on[where] = eta, share, eta > 0.5
        return self._is_soft(share)

    def _sigmoid(self, eta: Tensor) -> Tensor:
        return (eta - 0.5).mul_(self.steepness).sigmoid_()

    @staticmethod
    def _is_soft(share: Tensor) -> Tensor:
        return (share != 0) & (share != 1)

    def _by_gate(self, flat: Tensor) -> list[Tensor]:
        parts = flat.split([shape.numel() for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _placed(self, tensors: Sequence[Tensor]) -> PerGate:
        placed = dict(zip(self.chosen, tensors, strict=True))
        return tuple(placed.get(i) for i in range(self.gates))


def _differing(z: Tensor, on: Tensor) -> Tensor:
    """Where `z > 0` is not as `on` says: positions in the flattened gate, (n,) int64.

    On a CPU by NumPy, whose comparison and search are several times PyTorch's speed.
    """
    if z.is_cpu:
        return torch.from_numpy(np.flatnonzero((z.numpy() > 0) != on.numpy()))
    return ((z > 0) ^ on).flatten().nonzero().squeeze(1)
