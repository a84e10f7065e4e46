"""The two runs of a step of ADR-GD: the network, which tells where its gates are not as eta's, and the surrogate.

Both are the network's own operations. Derivatives in eta are written down (equations 9 and 11) and meet autograd's in
two places: what the penalty adds to the gradient of a pre-activation, and what the gradient of a surrogate gate's
output is at the entries that can move.

Legend: eta = relaxed gate in [0, 1]; s = sigmoid(steepness (eta - 1/2)), the surrogate's share of the pre-activation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from gatewise.network.rules import GateRule, Network, PerGate, is_zero, leaky

Where = Tensor | slice
"""Entries of a flattened gate, or of all: int64, sorted, or the slice of all."""
ALL = slice(None)


@dataclass(frozen=True, eq=False)
class Roots:
    """Where autograd is to start, and with which gradients."""

    edges: list[GradientEdge] = field(default_factory=list)
    seeds: list[Tensor] = field(default_factory=list)

    def add(self, values: Tensor) -> None:
        """The sum of `values`, too, where it depends on anything."""
        if values.requires_grad:
            self.edges.append(get_gradient_edge(values))
            self.seeds.append(torch.ones_like(values))

    def gradient(self, x: Tensor, beside: Sequence[Tensor] = ()) -> Tensor:
        """The gradient in x, zero where there are no roots; taken in what lies `beside`, too. They are forgotten."""
        edges, seeds = [*self.edges], [*self.seeds]
        self.edges.clear()
        self.seeds.clear()
        if not edges:
            return torch.zeros_like(x)
        return torch.autograd.grad(edges, (x, *beside), seeds, materialize_grads=True)[0]


@dataclass(frozen=True, eq=False)
class Compared(GateRule):
    """`max(z, 0)`: the network itself, which also tells where a gate is not as `on` (bool, by gate) says.

    After the run `odds` holds, by gate, where they differ (or, asked `everywhere`, ALL) and the pre-activations there.
    """

    on: PerGate
    everywhere: bool = False
    odds: dict[int, tuple[Where, Tensor]] = field(default_factory=dict)
    _roots: dict[int, GradientEdge] = field(default_factory=dict)
    _weights: dict[int, Tensor] = field(default_factory=dict)

    def switch(self, index, z, slope):
        """`max(z, 0) + slope min(z, 0)`."""
        out = Network().switch(index, z, slope)
        if (on := self.on[index]) is None:
            return out
        held = z.detach()
        if self.everywhere:
            self.odds[index] = ALL, held.flatten().clone()  # the module may write to z later
            root = z
        else:
            where = _differing(held, on)
            self.odds[index] = where, held.flatten()[where]
            root = out
            if z.requires_grad:
                self._weigh_on_the_way(index, where, out)
        if root.requires_grad:
            self._roots[index] = get_gradient_edge(root)
        return out

    def _weigh_on_the_way(self, index: int, where: Tensor, out: Tensor) -> None:
        """Have `out`'s gradient take the weights up when it has passed the gate: dense ones for all gates at once would
        need a layer's memory each.
        """
        weights = self._weights  # not self, whose edges lead here: such a circle is never given back

        def weighed(gradient: Tensor) -> Tensor:
            gradient = gradient.contiguous()
            gradient.view(-1).index_add_(0, where, weights[index])
            return gradient

        assert out.grad_fn is not None
        # What a gate hands back is a tensor of its own, which may be written into.
        out.grad_fn.register_hook(lambda to_z, _: (weighed(to_z[0]), *to_z[1:]))

    def roots(self, weights: Tensor) -> Roots:
        """Those that lead to the gradient of `<weights, pre-activations>`; `weights` by gate, for the entries of
        `odds`. To be used once.
        """
        parts = weights.split([len(heights) for _, heights in self.odds.values()])
        self._weights.update(zip(self.odds, parts, strict=True))
        roots = dict(self._roots)
        self._roots.clear()
        seeds = []
        for index in roots:
            on, weight = self.on[index], self._weights[index]
            assert on is not None
            seeds.append(weight.view(on.shape) if self.everywhere else weight.new_zeros(()).expand(on.shape))
        return Roots([*roots.values()], seeds)

    def each(self, change: Callable[[Tensor], Tensor]) -> Any:
        """The bare network: a run in pieces keeps its pre-activations, which are compared as a whole."""
        return Network()


@dataclass(frozen=True, eq=False)
class Settled(GateRule):
    """`s z`: the surrogate with its share s written down by gate.

    Where it is `watched`, `derivative` tells the derivative in s at the entries `soft` after the gradient was taken, in
    the input and in `beside`, the shares of gates that do not depend on the input.
    """

    share: PerGate
    soft: dict[int, Where]
    watched: bool = True
    rest: GateRule = Network()
    found: dict[int, Tensor] = field(default_factory=dict)
    beside: list[Tensor] = field(default_factory=list)
    pieces: list[Settled] = field(default_factory=list)

    def switch(self, index, z, slope):
        """`(slope + (1 - slope) s) z`."""
        if (share := self.share[index]) is None:
            return self.rest.switch(index, z, slope)
        out = leaky(share * z, z, slope)
        soft = self.soft[index]
        if self.watched and (isinstance(soft, slice) or len(soft)):
            inside = z.detach() if is_zero(slope) else (1 - slope) * z.detach()
            heights, found = inside.flatten()[soft], self.found
            if isinstance(soft, slice):
                heights = heights.clone()  # the module may write to z later
            if not out.requires_grad:
                self.beside.append(share.detach().requires_grad_())
                out = leaky(self.beside[-1] * z, z, slope)

            def watch(gradient: Tensor) -> None:
                found[index] = gradient.flatten()[soft] * heights

            out.register_hook(watch)
        return out

    def choice(self, index, z, pool):
        """As `rest` says."""
        return self.rest.choice(index, z, pool)

    def each(self, change: Callable[[Tensor], Tensor]) -> Any:
        """With `change` applied to the shares; it watches all entries, of which `derivative` takes the soft ones."""
        share = tuple(None if s is None else change(s) for s in self.share)
        everywhere = dict.fromkeys(self.soft, ALL)
        piece = replace(self, share=share, soft=everywhere, rest=self.rest.each(change), found={}, pieces=[])
        self.pieces.append(piece)
        return piece

    def derivative(self, index: int) -> Tensor:
        """After the gradient was taken: the derivative in s at the soft entries of gate `index`."""
        share, soft = self.share[index], self.soft[index]
        assert share is not None
        if self.pieces and all(index in piece.found for piece in self.pieces):
            return torch.cat([piece.found[index] for piece in self.pieces])[: share.numel()][soft]
        return self.found[index] if index in self.found else torch.zeros_like(share.flatten()[soft])


def _differing(z: Tensor, on: Tensor) -> Tensor:
    """Where `z > 0` is not as `on` says: positions in the flattened gate, (n,) int64.

    On a CPU by NumPy, whose comparison and search are several times PyTorch's speed.
    """
    if z.is_cpu:
        return torch.from_numpy(np.flatnonzero((z.numpy() > 0) != on.numpy()))
    return ((z > 0) ^ on).flatten().nonzero().squeeze(1)
