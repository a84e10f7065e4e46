"""A network as affine blocks joined by activations: the constraints that operator splitting divides.

Legend: copies z_0 (the input), z_1, …, z_m (z_m is the output's); activation a has pre-activations
`p_a = sum_i W_ai z_i + b_a` over the copies before it, and the output that z_{a+1} copies; the last activation is the
identity on the network's output. In a chain p_a depends on z_a alone; with skip connections on several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gatewise.errors import UnsupportedNetwork
from gatewise.network.blocks.activation import Activation, windows_of
from gatewise.network.blocks.block import Block
from gatewise.network.blocks.linear_map import LinearMap
from gatewise.network.blocks.tape import CONSTANT, Call, Tape, run
from gatewise.network.operations import SMOOTH
from gatewise.network.rules import GateRule, Network, Split
from gatewise.network.view import Gate, NetworkView, Trace

_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}


@dataclass(frozen=True, eq=False)
class SplitNetwork:
    """`blocks[i]` is what copy i feeds, `activations[a]` stands after pre-activation a. `values` are the copies but for
    the output's, and `preactivations` what the activations were given, (batch, …) each, in the run of the network at
    the points that it was split at.
    """

    activations: tuple[Activation, ...]
    blocks: tuple[Block, ...]
    values: tuple[Tensor, ...]
    preactivations: tuple[Tensor, ...]
    leaves: tuple[int, ...]
    calls: tuple[list[Call], ...]
    slots: tuple[int, ...]

    def lift(self, i: int, v: Tensor) -> Tensor:
        """What copy i is to equal, where it lives, for an activation's output `v`; the output's copy is plain."""
        return self.blocks[i].lift(v) if i < len(self.blocks) else v

    def crop(self, i: int, z: Tensor) -> Tensor:
        """The way back."""
        return self.blocks[i].crop(z) if i < len(self.blocks) else z

    def refresh(self, i: int, z: Sequence[Tensor], p: list[Tensor]) -> None:
        """Compute anew, in `p`, the pre-activations that copy i feeds, from the copies `z`."""
        block = self.blocks[i]
        if block.alone:
            for a, value in zip(block.feeds, block.affine(z[i]), strict=True):
                p[a] = value
            return
        copies = dict(zip(self.leaves, z, strict=False))
        values = run(self.calls[i], copies)
        for a in block.feeds:
            p[a] = values[self.slots[a]]


def split_network(view: NetworkView, x: Tensor) -> SplitNetwork:
    """Take the network apart at `x` (batch, …). Two forward passes a row; what blocks take to be written out and
    factored is not counted.

    Raises:
        UnsupportedNetwork: smooth functions, gates that belong to no row, max-pools whose windows overlap, or calls
            that a record of them does not repeat.
    """
    with torch.no_grad():
        tape = Tape()
        cut = _Cut(tape, [])
        point = tape.leaf(x.detach().clone())
        with tape:
            trace = view.trace(point, cut).require_rows()
        if len(cut.outputs) != len(trace.gates):
            raise UnsupportedNetwork(
                "The network takes batches of one size only, so its blocks cannot be run by themselves; use a method "
                "that runs it whole (adam, pgd)."
            )
        given = [tape.slot(z) for z in (*trace.preactivations, trace.output)]
        _require_affine(tape, given)
        _check(view, tape, given, [point, *cut.outputs])
        joined = _joined(tape, given, trace)
        kept = (0, *(gate + 1 for _, gate, _ in joined))  # which of the tape's leaves are copies
        copies = (point, *(cut.outputs[gate] for _, gate, _ in joined))
        asked = (*(first for first, _, _ in joined), len(given) - 1)
        slots = tuple(given[j] for j in asked)
        tape.release()
        number = {leaf: i for i, leaf in enumerate(kept)}
        sources = [{number[leaf] for leaf in tape.depends(slot)} for slot in slots]
        leaves = tuple(tape.leaves[leaf] for leaf in kept)
        zeros = {leaf: torch.zeros_like(copy) for leaf, copy in zip(leaves, copies, strict=True)}
        blocks, calls = [], []
        for i, leaf in enumerate(kept):
            feeds = tuple(a for a, source in enumerate(sources) if i in source)
            reached = [slots[a] for a in feeds]
            linear = LinearMap(tape, leaf, reached, zeros)
            blocks.append(Block(feeds, all(sources[a] == {i} for a in feeds), linear, copied=i > 0))
            calls.append(tape.slice(reached))
    return SplitNetwork(
        (*(activation for _, _, activation in joined), Activation()),
        tuple(blocks),
        copies,
        tuple((*trace.preactivations, trace.output)[j].detach() for j in asked),
        leaves,
        tuple(calls),
        slots,
    )


@dataclass(frozen=True, eq=False)
class _Cut(GateRule):
    """The network itself, with each gate's output a leaf of the tape."""

    tape: Tape
    outputs: list[Tensor]

    def switch(self, index, z, slope):
        return self._leaf(Network().switch(index, z, slope))

    def choice(self, index, z, pool):
        return self._leaf(pool.maximum(z))

    def _leaf(self, output: Tensor) -> Tensor:
        self.outputs.append(self.tape.leaf(output.clone()))
        return self.outputs[-1]


def _require_affine(tape: Tape, given: Sequence[int]) -> None:
    for call in tape.slice(given):
        if call.name in SMOOTH:
            raise UnsupportedNetwork(
                f"The network applies {call.name}, which is no gate and not affine, so its parts are not affine; "
                "use a method that needs only gradients (adam, pgd), or a network that ends before it."
            )


def _check(view: NetworkView, tape: Tape, given: Sequence[int], leaves: Sequence[Tensor]) -> None:
    """The tape repeats what the network does with other values in its leaves, and that is affine."""
    generator = torch.Generator().manual_seed(0)

    def moved() -> list[Tensor]:
        return [v + torch.randn(v.shape, generator=generator, dtype=v.dtype).to(v.device) for v in leaves]

    def taped(values: Sequence[Tensor]) -> list[Tensor]:
        known = run(tape.calls, dict(zip(tape.leaves, values, strict=True)))
        return [known[slot] for slot in given if slot != CONSTANT]

    here, there = moved(), moved()
    other = view.trace(here[0], Split(here[1:]))
    seen = [z for z, slot in zip((*other.preactivations, other.output), given, strict=True) if slot != CONSTANT]
    middle = taped([(a + b) / 2 for a, b in zip(here, there, strict=True)])
    for z, a, b, m in zip(seen, taped(here), taped(there), middle, strict=True):
        scale = z.abs().nan_to_num().amax() + 1e-30
        wrong = torch.stack([(z - a).abs().nan_to_num().amax(), ((a + b) / 2 - m).abs().nan_to_num().amax()]).amax()
        if bool(wrong > _TOLERANCE.get(z.dtype, 1e-3) * scale):
            raise UnsupportedNetwork(
                "With its gates' outputs given the network is not a set of affine maps that can be run one by one: it "
                "holds an operation that gatewise does not know as a gate, or one that depends on values; use a method "
                "that needs only gradients (adam, pgd)."
            )


def _joined(tape: Tape, given: Sequence[int], trace: Trace) -> list[tuple[int, int, Activation]]:
    """The activations: each one's first and last gate, and what it does. A switch next to a max-pool, in either order
    and with nothing else fed by what is between them, is one activation with it.
    """
    found: list[tuple[int, int, Activation]] = []
    for j, (gate, z) in enumerate(zip(trace.gates, trace.preactivations, strict=True)):
        own = (
            Activation(gate.slope) if gate.pool is None else Activation(1.0, windows_of(gate.pool, z, f"Gate {j + 1}"))
        )
        if found and found[-1][:2] == (j - 1, j - 1) and _can_join(trace.gates[j - 1], gate):
            before, slot = found[-1][2], given[j]
            users = [s for s in given if j in tape.depends(s)]  # gate j - 1's output is leaf j
            if users == [slot] and tape.is_leaf(slot, j):
                slope = own.slope if gate.pool is None else before.slope
                found[-1] = (j - 1, j, Activation(slope, own.window or before.window))
                continue
        found.append((j, j, own))
    return found


def _can_join(first: Gate, second: Gate) -> bool:
    """A switch that does not fall and a max-pool can change places."""
    slope = first.slope if first.pool is None else second.slope
    rising = bool((slope >= 0).all()) if isinstance(slope, Tensor) else slope >= 0
    return (first.pool is None) != (second.pool is None) and rising
