"""Does a network have affine pieces? Asked by methods that need them, never by a plain run."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from gatewise.errors import UnsupportedNetwork
from gatewise.network.rules import Fixed
from gatewise.network.view import NetworkView

_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-8}


def require_piecewise_linear(view: NetworkView, x: Tensor, up_to: Literal["last gate", "output"] = "output") -> None:
    """Raise unless the network is affine in its input once its gates are held at `x` (batch, …).

    Known smooth functions are named; anything else is caught by superposition: with gates held,
    `h(x + u) + h(x + v) = h(x + u + v) + h(x)` for every pre-activation (and for the output) up to rounding.

    Args:
        view: the network.
        x: points at which to ask.
        up_to: "last gate" lets the network end in smooth functions (a generator's tanh): enough for search; "output"
            does not: needed for regions and bounds.

    Raises:
        UnsupportedNetwork: naming the function, or the gate before which superposition fails, and what to do.
    """
    to_output = up_to == "output"
    with torch.enable_grad():
        watched = view.trace(x.detach().clone().requires_grad_())
    gates = len(watched.gates)
    for name, after in watched.smooth:
        if to_output or after < gates:
            raise UnsupportedNetwork(
                f"The network applies {name}, which is not piecewise linear, {_place(after, gates)}; "
                "use a method that needs only gradients (pgd, apgd, adam)"
                + (", or a network that ends before it." if after == gates else ".")
            )
    with torch.no_grad():
        held = Fixed(watched.pattern())
        generator = torch.Generator().manual_seed(0)
        u, v = (torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device) for _ in range(2))
        runs = [view.trace(point, held) for point in (x + u, x + v, x + u + v, x)]
    checks = [[run.preactivations[i] for run in runs] for i in range(gates)]
    if to_output:
        checks.append([run.output for run in runs])
    for position, (at_u, at_v, at_both, at_x) in enumerate(checks):
        scale = max(h.abs().amax().item() for h in (at_u, at_v, at_both, at_x)) + 1e-30
        if not (at_u + at_v - at_both - at_x).abs().amax().item() <= _TOLERANCE.get(x.dtype, 1e-3) * scale:
            raise UnsupportedNetwork(
                f"With its gates held the network is not affine in its input {_place(position, gates)}: it holds an "
                "operation that gatewise does not know as a gate; use a method that needs only gradients (pgd, adam)."
            )


def _place(after: int, gates: int) -> str:
    return "after its last gate" if after == gates else f"before gate {after + 1} of {gates}"
