"""How far a gate's hyperplane is: the norms `||P_j||` of the pre-activations' gradients with all gates held.

With gates held the network is affine in its input, so neuron j's pre-activation is `P_j x + c_j` and its zero set a
hyperplane at distance `|h_j| / ||P_j||`. For z ~ N(0, I), `E[(h(x + z) - h(x))_j^2] = ||P_j||^2` for every neuron of
every layer at once: one more forward pass estimates all norms, for any architecture, without a matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    with torch.no_grad():
        moved = view.trace(base.input + noise, rule)
        return tuple((h - g).square() for h, g in zip(_heights(moved, gates), _heights(base, gates), strict=True))


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
    return norm.masked_fill(norm == 0, 1.0)


class RunningNorms:
    """`||P_j||` while a method walks: a running mean of samples, refreshed every few calls.

    Args:
        view: the network.
        streams: where the noise comes from, one stream a row.
        refresh: calls of `at` between two samples; each sample costs one forward pass a row.
        fresh: share of the mean that a new sample replaces.
        first: samples averaged before the first answer, since one alone has a heavy tail below.
    """

    def __init__(self, view: NetworkView, streams: RowStreams, *, refresh: int = 3, fresh: float = 0.2, first: int = 8):
        self.view, self.streams = view, streams
        self.refresh, self.fresh, self.first = refresh, fresh, first
        self._calls = 0
        self._squares: tuple[Tensor, ...] = ()
        self._norms: tuple[Tensor, ...] = ()

    def at(self, base: Trace, hold: Callable[[], GateRule], gates: Sequence[int] | None = None) -> tuple[Tensor, ...]:
        """The norms, by gate and last for the output, each (batch, …), with `reachable` applied.

        `base` is a run whose heights are those under the rule that `hold` gives, which is asked only when it is
        needed; `gates` are positions, the same at every call.
        """
        if self._calls % self.refresh == 0:
            rule = hold()
            draws = [
                squared_norms(self.view, base, rule, self.streams.normal(base.input), gates)
                for _ in range(1 if self._squares else self.first)
            ]
            mean = draws[0] if len(draws) == 1 else tuple(torch.stack(d).mean(0) for d in zip(*draws, strict=True))
            self._squares = tuple(map(self._mix, self._squares, mean)) or mean
            self._norms = tuple(reachable(square.sqrt()) for square in self._squares)
        self._calls += 1
        return self._norms

    def _mix(self, mean: Tensor, sample: Tensor) -> Tensor:
        return mean.lerp(sample, self.fresh)


def _repeat(times: int) -> Callable[[Tensor], Tensor]:
    return lambda held: held.repeat(times, *[1] * (held.ndim - 1))


def _heights(trace: Trace, gates: Sequence[int] | None = None) -> tuple[Tensor, ...]:
    chosen = trace.preactivations if gates is None else [trace.preactivations[i] for i in gates]
    return tuple(h.detach() for h in (*chosen, trace.output))
