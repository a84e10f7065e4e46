"""ADR-GD's relaxed gates, held so that a step pays only for what moves.

Of eta's entries nearly all are settled: the surrogate's `sigmoid(steepness (eta - 1/2))` is 0 or 1 to the last bit, and
eta agrees with the true pattern, so that neither term of the Lagrangian has a derivative in them. The others, one in a
hundred or a thousand, are *free*: soft, or at odds with the pattern. They are kept as lists, so that a run of either
network costs what a plain run does and one comparison of signs, and a step in eta costs what its list is long. Where
all entries together are few, searching costs more than it saves: then all of them count as free.

Legend: eta = relaxed gate in [0, 1]; s = sigmoid(steepness (eta - 1/2)), the surrogate's share of the pre-activation.
Layout: the chosen gates one after the other, each (batch, …) flattened; a *position* counts through all of them, and a
*block* is one row of one gate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gatewise.network.paired_runs import ALL, Compared, Settled, Where
from gatewise.network.rules import Fixed, GateRule, Network, PerGate
from gatewise.network.view import Trace

# Up to so many entries a dense step takes no longer than the search; the two cross a little above (docs/cost.md).
FEW = 2**14


@dataclass(frozen=True, eq=False)
class FreeGates:
    """The entries of eta that can move at a step: those at odds with the true pattern, then the other soft ones; or,
    where they are few, all, in the order of the gates.

    `position` (n,) and `block` (n,) int64; `eta` (n,); `heights` (k,) and `row` (k,) int64: the true pre-activations of
    the first k, which alone can be charged, and whose they are; `soft` (m,): where in this list the soft ones stand.
    Where all are listed, `position` and `soft` are ALL.
    """

    position: Where
    block: Tensor
    eta: Tensor
    heights: Tensor
    row: Tensor
    soft: Where

    @property
    def charged(self) -> Where:
        """The first k positions."""
        first = slice(len(self.heights))
        return first if isinstance(self.position, slice) else self.position[first]

    def charge(self, norms: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Equation 10 for the first k, `max(h/||P|| (1/2 - eta), 0)`, both of whose halves are one, and its derivatives
        in h and in eta (equation 11), (k,) each.

        `norms` (k,) is a constant; None leaves h undivided (ablation M3).
        """
        inward = 0.5 - self.eta[: len(self.heights)]
        distance = self.heights if norms is None else self.heights / norms
        charge = torch.relu(distance * inward)
        # No derivative at 0, where h or eta lies on its threshold: the indicators of equation 11.
        charged = charge.sign()
        by_height = charged * inward
        return charge, by_height if norms is None else by_height / norms, -(charged * distance)


class RelaxedGates:
    """eta of the chosen gates: the true pattern at first (Algorithm 1, line 1).

    Args:
        trace: a run of the network at the first point, with its pre-activations.
        chosen: positions of the gates that carry eta, among all gates.
        steepness: of the surrogate.
        few: with no more entries than this, all of them count as free.
    """

    def __init__(self, trace: Trace, chosen: Sequence[int], steepness: float, *, few: int = FEW):
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
        self.are_few = len(self._eta) <= few
        if self.are_few:
            self._soft: Where = ALL
            self._every_block = self._blocks.repeat_interleave(sizes.to(trace.input.device))
            self._every_row = self._every_block % self.rows
        else:
            self._soft = self._is_soft(self._share).nonzero().squeeze(1)
        # By gate, as windows on the above, which are only ever written into.
        flats = self._eta, self._on, self._share
        self._eta_by_gate, self._on_by_gate, self._share_by_gate = map(self._by_gate, flats)

    @property
    def eta(self) -> tuple[Tensor, ...]:
        """By chosen gate, each (batch, …); do not write to them."""
        return tuple(self._eta_by_gate)

    @property
    def one_graph_at_a_time(self) -> bool:
        """Whether the true run's graph had better go before the surrogate's is built: large ones that share nothing."""
        return not self.are_few and self.chosen[0] == 0

    def row_size(self, gate: int) -> int:
        """How many entries a row of a chosen gate has."""
        return self._shapes[gate][1:].numel()

    def compared(self) -> Compared:
        """The rule of the true network's run."""
        return Compared(self._placed(self._on_by_gate), self.are_few)

    def surrogate(self, *, watched: bool = True, rest: GateRule | None = None) -> Settled:
        """The rule of the surrogate's run; `watched` where its gradient in eta is asked for. Gates without eta follow
        `rest` (None: the network).
        """
        if isinstance(self._soft, slice):
            soft: Sequence[Where] = [ALL] * len(self.chosen)
        else:
            counts = torch.searchsorted(self._soft, self._bounds[:: self.rows].contiguous()).diff().tolist()
            soft = [part - begin for part, begin in zip(self._soft.split(counts), self._begin, strict=True)]
        by_gate = dict(zip(self.chosen, soft, strict=True))
        return Settled(self._placed(self._share_by_gate), by_gate, watched, rest or Network())

    def held(self, trace: Trace) -> Settled:
        """The surrogate with all other gates as in `trace`: affine in the input."""
        return self.surrogate(watched=False, rest=Fixed(trace.pattern()))

    def free(self, compared: Compared, true: Trace) -> FreeGates:
        """The entries that can move after `true`, the network's run under `compared`."""
        if not compared.odds:  # the run went in pieces
            with torch.enable_grad():
                for i in self.chosen:
                    compared.switch(i, true.preactivations[i], 0.0)
        heights = torch.cat([compared.odds[i][1] for i in self.chosen])
        if isinstance(self._soft, slice):
            return FreeGates(ALL, self._every_block, self._eta, heights, self._every_row, ALL)
        where = [torch.as_tensor(compared.odds[i][0]) for i in self.chosen]
        at_odds = torch.cat([part + begin for part, begin in zip(where, self._begin, strict=True)])
        # Which soft ones are in that list, which is sorted, already?
        place = torch.searchsorted(at_odds, self._soft)
        known = torch.cat([at_odds, at_odds.new_full((1,), -1)])[place] == self._soft
        others = self._soft[~known]
        position, block = torch.cat([at_odds, others]), self._blocks_of(at_odds)
        return FreeGates(
            position=position,
            block=torch.cat([block, self._blocks_of(others)]),
            eta=self._eta[position],
            heights=heights,
            row=block % self.rows,
            soft=torch.where(known, place, len(at_odds) - 1 + (~known).cumsum(0)),
        )

    def agreement(self, free: FreeGates) -> Tensor:
        """The share of each row's entries that are on, above 1/2, where the network's are: (batch,)."""
        if self.are_few:
            at_odds = ((free.heights > 0) != self._on).to(self._eta.dtype)
        else:
            at_odds = free.heights.new_ones(()).expand_as(free.heights)
        return 1 - self.by_row(free, at_odds) * (self.rows / len(self._eta))

    def by_row(self, free: FreeGates, charge: Tensor) -> Tensor:
        """What each row's neurons pay together: `charge` (k,) of the first k added, (batch,)."""
        return charge.new_zeros(self.rows).index_add_(0, free.row, charge)

    def gradient(self, free: FreeGates, by_charge: Tensor, surrogate: Settled) -> Tensor:
        """The gradient in `free.eta` (n,): `by_charge` (k,) from the penalty and what was found in `surrogate`."""
        share = self._share[self._soft]
        found = torch.cat([surrogate.derivative(i) for i in self.chosen])
        found = torch.ops.aten.sigmoid_backward(self.steepness * found, share)
        if isinstance(free.soft, slice):
            return by_charge + found
        total = torch.cat([by_charge, by_charge.new_zeros(len(free.eta) - len(by_charge))])
        return total.index_add_(0, free.soft, found)

    def directions(self, free: FreeGates, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """A gradient in `free.eta` (n,) divided by its 2-norm in its block, and those norms, (gates, batch).

        A block without gradient keeps none.
        """
        blocks = gradient.new_zeros(len(self._blocks))
        # Squares of entries below 1e-20 underflow in float32: each block is scaled by its largest entry first.
        largest = blocks.scatter_reduce(0, free.block, gradient.abs(), "amax")
        scaled = gradient / largest.where(largest > 0, 1).index_select(0, free.block)
        norm = blocks.index_add(0, free.block, scaled.square()).sqrt()
        direction = scaled / norm.where(norm > 0, 1).index_select(0, free.block)
        return direction, (norm * largest).view(len(self.chosen), self.rows)

    def step(
        self, free: FreeGates, direction: Tensor, kicks: Sequence[tuple[int, int, Tensor]] = (), *, length: float
    ) -> None:
        """Add `length` times `direction` (n,) to the free entries of eta, and `length` times the noise of each of
        `kicks` (which chosen gate, which row, noise (`row_size`,)) to a whole block; all is kept in [0, 1].
        """
        self._eta[free.position] = free.eta + length * direction
        kicked = []
        for gate, row, noise in kicks:
            begin = self._begin[gate] + row * self.row_size(gate)
            block = slice(begin, begin + noise.numel())
            self._eta[block] += length * noise
            kicked.append((gate * self.rows + row, block))
        if isinstance(free.position, slice):
            self._settle(ALL)
            return
        rest, soft = free.position, []
        if kicked:
            rest = rest[~torch.isin(free.block, free.block.new_tensor([block for block, _ in kicked]))]
            soft = [block.start + self._is_soft(self._settle(block)).nonzero().squeeze(1) for _, block in kicked]
        self._soft = torch.cat([rest[self._is_soft(self._settle(rest))], *soft]).sort().values

    def _blocks_of(self, position: Tensor) -> Tensor:
        """The block of each of some sorted positions."""
        counts = torch.searchsorted(position, self._bounds).diff()
        return self._blocks.repeat_interleave(counts, output_size=len(position))

    def _settle(self, where: Where) -> Tensor:
        """Bring eta into [0, 1] there, and what follows from it up to date; the shares."""
        eta = self._eta[where].clamp(0, 1)
        share = self._sigmoid(eta)
        self._eta[where], self._share[where], self._on[where] = eta, share, eta > 0.5
        return share

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
