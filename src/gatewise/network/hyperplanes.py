"""How far a gate's hyperplane is: the norms `||P_j||` of the pre-activations' gradients with all gates held.

With gates held the network is affine in its input, so neuron j's pre-activation is `P_j x + c_j` and its zero set a
hyperplane at distance `|h_j| / ||P_j||`. For z ~ N(0, I), `E[(h(x + z) - h(x))_j^2] = ||P_j||^2` for every neuron of
every layer at once: one more forward pass estimates all norms, for any architecture, without a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from gatewise.network.rules import GateRule
from gatewise.network.view import NetworkView, Trace
from gatewise.streams import RowStreams

# Values kept at a time by the exact form: a quarter of a gigabyte in float32.
_BLOCK = 2**26


def squared_norms(
    view: NetworkView, base: Trace, rule: GateRule, noise: Tensor, gates: Sequence[int] | None = None
) -> tuple[Tensor, ...]:
    """One unbiased sample of `||P_j||^2` for each neuron, by gate and last for the output, each (batch, …); average
    several.

    Args:
        view: the network.
        base: a run at x under `rule`.
        rule: a rule under which the run is affine in x (`Fixed`, or `Surrogate` whose `rest` is `Fixed`).
        noise: standard normal, shaped as x. Costs one forward pass a row.
        gates: positions of the gates to answer for, in that order; None for all.
    """
    return tuple(_squares(view, base, rule, noise, gates))


def exact_norms(view: NetworkView, base: Trace, rule: GateRule) -> tuple[Tensor, ...]:
    """`||P_j||` for each neuron, by gate and last for the output, each (batch, …), from one forward pass per input
    coordinate.

    The arguments are those of `squared_norms`. For small inputs and as the reference for the estimate: with n
    coordinates it costs n forward passes a row.
    """
    with torch.no_grad():
        x, heights = base.input.detach(), _heights(base)
        batch, n = len(x), x[0].numel()
        squares = [torch.zeros_like(h) for h in heights]
        at_once = max(1, _BLOCK // sum(h.numel() for h in heights))
        for first in range(0, n, at_once):
            axes = torch.arange(first, min(first + at_once, n), device=x.device)
            units = torch.zeros(len(axes), n, dtype=x.dtype, device=x.device).scatter_(1, axes[:, None], 1.0)
            points = x[None] + units.view(len(axes), 1, *x.shape[1:])
            repeated = rule.each(_repeat(len(axes)))
            moved = _heights(view.trace(points.flatten(0, 1), repeated))
            for square, h, g in zip(squares, moved, heights, strict=True):
                square += (h.view(len(axes), batch, *h.shape[1:]) - g).square().sum(0)
        return tuple(square.sqrt() for square in squares)


def reachable(norm: Tensor) -> Tensor:
    """The norms to divide by: 1 at a neuron that no input reaches under the held gates, which has ||P|| = 0 and no
    hyperplane, so that its pre-activation stays undivided.
    """
    return norm + (norm == 0)


class RunningNorms:
    """`||P_j||` while a method walks: a running mean of samples, refreshed every few steps.

    Args:
        view: the network.
        streams: where the noise comes from, one stream a row.
        refresh: calls of `look` between two samples; each sample costs one forward pass a row.
        fresh: share of the mean that a new sample replaces.
        first: samples averaged at the first look, since one alone has a heavy tail below.
    """

    def __init__(self, view: NetworkView, streams: RowStreams, *, refresh: int = 3, fresh: float = 0.2, first: int = 8):
        self.view, self.streams = view, streams
        self.refresh, self.fresh, self.first = refresh, fresh, first
        self._calls = 0
        self._squares = torch.empty(0)
        self._by_gate: list[Tensor] = []
        self._norms: Tensor | None = None

    @property
    def is_due(self) -> bool:
        """Whether the next look takes a sample."""
        return self._calls % self.refresh == 0

    def look(self, base: Trace, hold: Callable[[], GateRule], gates: Sequence[int] | None = None) -> None:
        """Take a sample where one is due.

        Args:
            base: a run whose heights are those under the rule that `hold` gives; both are used only where a sample is
                due.
            hold: gives a rule under which the run is affine in x.
            gates: positions of the gates to look at, the same at every call; None for all.
        """
        if self.is_due:
            rule = hold()
            if not self._by_gate:
                heights = _heights(base, gates)
                self._squares = torch.cat([torch.zeros_like(h).flatten() for h in heights])
                parts = self._squares.split([h.numel() for h in heights])
                self._by_gate = [part.view_as(h) for part, h in zip(parts, heights, strict=True)]
            for sample in range(1 if self._calls else self.first):
                share = self.fresh if self._calls else 1 / (1 + sample)
                noise = self.streams.normal(base.input)
                for mean, square in zip(self._by_gate, _squares(self.view, base, rule, noise, gates), strict=True):
                    mean.lerp_(square, share)
            self._norms = None
        self._calls += 1

    def norms(self) -> tuple[Tensor, ...]:
        """By gate and last for the output, each (batch, …), with `reachable` applied."""
        parts = self._all().split([square.numel() for square in self._by_gate])
        return tuple(part.view_as(square) for part, square in zip(parts, self._by_gate, strict=True))

    def at(self, position: Tensor | slice) -> Tensor:
        """The same for some neurons alone, (n,): `position` (n,) int64 counts through the gates, each flattened, or a
        slice. Before the first look a single 1 for all.
        """
        if not self._by_gate:
            return torch.ones(())
        if not isinstance(position, slice):
            return reachable(self._squares[position].sqrt())
        return self._all()[position]

    def _all(self) -> Tensor:
        """All norms, taken once between two samples."""
        if self._norms is None:
            self._norms = reachable(self._squares.sqrt())
        return self._norms


def _repeat(times: int) -> Callable[[Tensor], Tensor]:
    return lambda held: held.repeat(times, *[1] * (held.ndim - 1))


@torch.no_grad()
def _squares(
    view: NetworkView, base: Trace, rule: GateRule, noise: Tensor, gates: Sequence[int] | None
) -> Iterator[Tensor]:
    """`squared_norms`, one gate at a time."""
    moved = view.trace(base.input + noise, rule)
    for h, g in zip(_heights(moved, gates), _heights(base, gates), strict=True):
        yield (h - g).square_()


def _heights(trace: Trace, gates: Sequence[int] | None = None) -> tuple[Tensor, ...]:
    chosen = trace.preactivations if gates is None else [trace.preactivations[i] for i in gates]
    return tuple(h.detach() for h in (*chosen, trace.output))
