"""The gate rules: what to put in place of `max(z, 0)`. Data and one line of mathematics each.

    Network      max(z, 0)                              the network itself
    Fixed        nu * z                                 one linear region
    Surrogate    sigmoid(steepness (eta - 1/2)) * z     ADR-GD's smooth gate, own input
    Smoothed     E max(z + s n, 0), n ~ N(0, 1)         gate annealing
    Softplus     t log(1 + exp(z / t))
    Reaching     max(z, 0), with the derivative of Phi(z / s) z      gradients that reach closed gates
    Split        v                                      a free variable: ADMM, exact encodings

A leaky gate with slope c on the negative side is `c z + (1 - c) * gate`. A rule's lists run over all gates in the
order in which the network meets them; an entry None leaves that gate as it is.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.network.operations import Pool

PerGate = Sequence[Tensor | None]

# Deviations beyond which a normal variable counts as this far: Phi differs from 0 or 1 by 2e-33 there, and farther out
# the density would be subnormal in float32, which takes processors several times as long.
_FAR = 12.0


def is_zero(slope: float | Tensor) -> bool:
    """Whether this is a plain ReLU, known without looking into a tensor."""
    return not isinstance(slope, Tensor) and slope == 0


def leaky(gated: Tensor, z: Tensor, slope: float | Tensor) -> Tensor:
    """`slope z + (1 - slope) gated`, without the arithmetic where the slope is 0."""
    return gated if is_zero(slope) else slope * z + (1 - slope) * gated


@dataclass(frozen=True)
class GateRule(abc.ABC):
    """What each gate does. `switch` serves elementwise gates, `choice` serves max-pools; `index` counts all gates."""

    @abc.abstractmethod
    def switch(self, index: int, z: Tensor, slope: float | Tensor) -> Tensor:
        """The output of elementwise gate `index` at pre-activation `z`; `slope` is its slope below zero."""

    def choice(self, index: int, z: Tensor, pool: Pool) -> Tensor:
        """The output of max-pool `index` at `z`: its maximum, unless a rule says otherwise."""
        return pool.maximum(z)

    def each(self, change: Callable[[Tensor], Tensor]) -> Self:
        """This rule with `change` applied to every tensor that it holds: to take rows, or to repeat them."""
        changed = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple | list):
                changed[field.name] = tuple(entry if entry is None else change(entry) for entry in value)
            elif isinstance(value, GateRule):
                changed[field.name] = value.each(change)
        return replace(self, **changed)


@dataclass(frozen=True)
class Network(GateRule):
    """`max(z, 0)`: the network as its author wrote it."""

    def switch(self, index, z, slope):
        """`max(z, 0) + slope min(z, 0)`."""
        if isinstance(slope, Tensor):
            return torch.where(z > 0, z, slope * z)
        return F.leaky_relu(z, slope) if slope else torch.relu(z)


@dataclass(frozen=True, eq=False)
class Fixed(GateRule):
    """`nu * z`: every gate held as `pattern` says, so that the run is affine in the input (one linear region).

    `pattern` holds a bool tensor for each switch and the winners (int64) of each choice, as `Trace.pattern` gives them;
    or for a switch the share of it that is open, a float tensor: a gate's derivative, where the rule had it smoothed.
    """

    pattern: PerGate

    def switch(self, index, z, slope):
        """`z` where the pattern is on, `slope z` elsewhere; between the two for a share."""
        if (on := self.pattern[index]) is None:
            return Network().switch(index, z, slope)
        if on.dtype != torch.bool or is_zero(slope):
            return leaky(z * on, z, slope)
        return torch.where(on, z, slope * z)

    def choice(self, index, z, pool):
        """The entry that the pattern names in each window."""
        winners = self.pattern[index]
        return pool.maximum(z) if winners is None else pool.take(z, winners)


@dataclass(frozen=True, eq=False)
class Surrogate(GateRule):
    """`sigmoid(steepness (eta - 1/2)) * z` (Yu & Gao 2024, Definition 5.3); leaky: `(slope + (1 - slope) s) z`.

    `eta` holds a tensor shaped as the pre-activation for each switch. Gates without eta (max-pools, and switches left
    out by partial gating) follow `rest`: the network, or `Fixed` where the run has to stay affine in the input.
    """

    eta: PerGate
    steepness: float = 2000.0
    rest: GateRule = Network()

    def switch(self, index, z, slope):
        """`(slope + (1 - slope) sigmoid(steepness (eta - 1/2))) z`."""
        if (eta := self.eta[index]) is None:
            return self.rest.switch(index, z, slope)
        return _SurrogateGate.apply(z, eta, self.steepness, slope)

    def choice(self, index, z, pool):
        """As `rest` says."""
        return self.rest.choice(index, z, pool)


class _SurrogateGate(torch.autograd.Function):
    """Written out because the gates are most of ADR-GD's memory traffic; the derivatives are those autograd would
    take.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, eta: Tensor, steepness: float, slope: float | Tensor) -> Tensor:
        s = (eta - 0.5).mul_(steepness).sigmoid_()
        ctx.save_for_backward(z, s)
        ctx.steepness, ctx.slope = steepness, slope
        return leaky(s * z, z, slope)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        z, s = ctx.saved_tensors
        (gradient,) = gradients
        to_z = leaky(gradient * s, gradient, ctx.slope) if ctx.needs_input_grad[0] else None
        to_eta = None
        if ctx.needs_input_grad[1]:
            # Most gates are saturated, exactly 0 or 1 in float32: the derivative lives on the few that are not.
            soft = ((s != 0) & (s != 1)).nonzero(as_tuple=True)
            derivative = ctx.steepness * s[soft] * (1 - s[soft]) * gradient[soft] * z[soft]
            to_eta = torch.zeros_like(s).index_put_(soft, derivative)
            to_eta = to_eta if is_zero(ctx.slope) else to_eta * (1 - ctx.slope)
        return to_z, to_eta, None, None


@dataclass(frozen=True, eq=False)
class Smoothed(GateRule):
    """The gate's expectation when its pre-activation moves by normal noise: `z Phi(z/s) + s phi(z/s)`.

    `deviation` holds s > 0 for each gate, shaped to broadcast with the pre-activation: input noise of width r moves
    neuron j by `r ||P_j||`. Where s is 0, or the entry None, the gate is itself. A max-pool gives the expected maximum
    of its windows' entries, taken two by two as independent normal variables (Clark 1961); pools whose windows PyTorch
    does not list keep their maximum.
    """

    deviation: PerGate

    def switch(self, index, z, slope):
        """`z Phi(z/s) + s phi(z/s)`."""
        if (s := self.deviation[index]) is None:
            return Network().switch(index, z, slope)
        return leaky(_smoothed(z, s), z, slope)

    def choice(self, index, z, pool):
        """The expected maximum of each window."""
        s = self.deviation[index]
        means = None if s is None else pool.windows(z)
        if s is None or means is None:
            return pool.maximum(z)
        spreads = pool.windows(s.expand_as(z))
        assert spreads is not None
        variances = spreads.square()
        while len(means) > 1:
            odd = len(means) % 2
            pairs = [part[odd:].unflatten(0, (-1, 2)).unbind(1) for part in (means, variances)]
            merged = _larger_of_two(*pairs[0], *pairs[1])
            means, variances = (
                torch.cat([part[:odd], new]) for part, new in zip((means, variances), merged, strict=True)
            )
        return means[0]


def _larger_of_two(a: Tensor, b: Tensor, of_a: Tensor, of_b: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of the larger of two independent normal variables with means a, b and variances of_a, of_b."""
    spread = (of_a + of_b).sqrt()
    # A constant: the terms with its derivative cancel, which 0/0, two entries of padding, would make NaN.
    u = ((a - b) / spread).nan_to_num(0.0).clamp(-_FAR, _FAR).detach()
    first = torch.special.ndtr(u)
    density = spread * torch.exp(-u * u / 2) / math.sqrt(2 * math.pi)
    mean = a * first + b * (1 - first) + density
    square = (a * a + of_a) * first + (b * b + of_b) * (1 - first) + (a + b) * density
    return mean, (square - mean * mean).clamp_min(0).detach()


def _smoothed(z: Tensor, s: Tensor) -> Tensor:
    # Where s is 0 the quotient is infinite, which is right, or 0/0, which is a gate on its hyperplane.
    u = (z.detach() / s).nan_to_num_(0.0).clamp_(-_FAR, _FAR)
    phi = torch.erf(u / math.sqrt(2)).add_(1).div_(2)
    # Phi and phi(u) are constants: the terms with their derivatives cancel.
    return (phi * z).addcmul_(s, u.square_().div_(-2).exp_(), value=1 / math.sqrt(2 * math.pi))


@dataclass(frozen=True, eq=False)
class Reaching(GateRule):
    """The gate itself, with the derivative of `Phi(z/s) z`: a gradient that opens and closes gates within reach.

    Far from its hyperplane (|z| much larger than s) a gate passes 1 or 0 as ever; within about s of it the objective
    also feels the gate move. `deviation` holds s > 0 for each switch: `s = reach * ||P_j||` makes "within reach" a
    distance in the input. Max-pools pass to their winner.
    """

    deviation: PerGate

    def switch(self, index, z, slope):
        """`max(z, 0) + slope min(z, 0)`; backward `slope + (1 - slope) (Phi(u) + u phi(u))` with `u = z / s`."""
        s = self.deviation[index]
        if s is None:
            return Network().switch(index, z, slope)
        return _ReachingGate.apply(z, s, slope)


class _ReachingGate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, z: Tensor, s: Tensor, slope: float | Tensor) -> Tensor:
        ctx.save_for_backward(z, s)
        ctx.slope = slope
        return Network().switch(0, z, slope)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        z, s = ctx.saved_tensors
        # Where s is 0 the quotient is infinite, which is right, or 0/0, which is a gate on its hyperplane.
        u = (z / s).nan_to_num(0.0).clamp(-_FAR, _FAR)
        share = torch.special.ndtr(u) + u * torch.exp(-u * u / 2) / math.sqrt(2 * math.pi)
        return leaky(share * gradients[0], gradients[0], ctx.slope), None, None


@dataclass(frozen=True)
class Softplus(GateRule):
    """`t log(1 + exp(z / t))`: smooth, and above the gate by at most `t log 2`. Max-pools keep their maximum."""

    temperature: float

    def switch(self, index, z, slope):
        """`t softplus(z / t)`."""
        return leaky(F.softplus(z, beta=1 / self.temperature), z, slope)


@dataclass(frozen=True, eq=False)
class Split(GateRule):
    """Each gate's output replaced by a given tensor: the blocks between gates become separate affine maps."""

    outputs: PerGate

    def switch(self, index, z, slope):
        """The given output."""
        given = self.outputs[index]
        return Network().switch(index, z, slope) if given is None else given

    def choice(self, index, z, pool):
        """The given output."""
        given = self.outputs[index]
        return pool.maximum(z) if given is None else given
