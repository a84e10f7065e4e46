"""What ADR-GD's two forms share: which gates carry eta, the surrogate run, and how far eta disagrees with the true
pattern.

Legend: eta = relaxed gate in [0, 1]; h = true pre-activation; P = hyperplane normal; nu = 1[h > 0]. Source: Yu & Gao
(ICML 2024), Definitions 5.2 and 5.3, equations 8 to 10.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.network.rules import PerGate
from gatewise.network.view import Trace


def choose_switches(trace: Trace, chosen: str) -> tuple[int, ...]:
    """Positions, among all gates, of the elementwise gates that are to carry eta.

    Args:
        trace: any run of the network.
        chosen: "all", "last", or positions among the elementwise gates such as "0,2" or "-2,-1".

    Raises:
        InvalidInput: the network has no elementwise gate, or not that one.
    """
    switches = trace.switches
    if not switches:
        raise InvalidInput("The network has no elementwise gate (ReLU or the like) to regularise; use pgd or apgd.")
    if chosen == "all":
        return switches
    try:
        positions = [-1] if chosen == "last" else [int(entry) for entry in chosen.split(",")]
        return tuple(sorted({switches[position] for position in positions}))
    except (ValueError, IndexError):
        raise InvalidInput(
            f"gates={chosen!r} does not name gates of this network; say all, last, or positions between "
            f"{-len(switches)} and {len(switches) - 1}, with commas."
        ) from None


def per_gate(trace: Trace, chosen: tuple[int, ...], tensors: list[Tensor]) -> PerGate:
    """`tensors`, one for each chosen gate, laid out over all gates with None elsewhere."""
    placed = dict(zip(chosen, tensors, strict=True))
    return tuple(placed.get(i) for i in range(len(trace.gates)))


def disagreement(h: Tensor, norm: Tensor | None, eta: Tensor) -> Tensor:
    """Equation 10 for each neuron, shaped as h: `[h]+/||P|| [1/2 - eta]+ + [-h]+/||P|| [eta - 1/2]+`.

    Both halves are one: `max(h/||P|| (1/2 - eta), 0)`, which is positive exactly where gate and pre-activation
    disagree. `norm` is treated as a constant; None leaves h undivided (ablation M3).
    """
    return _Disagreement.apply(h, norm, eta)


class _Disagreement(torch.autograd.Function):
    """Written out because the penalty is elementwise over every gate: autograd's own form reads memory three times as
    often.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, norm: Tensor | None, eta: Tensor) -> Tensor:
        distance = h.clone() if norm is None else h / norm
        short = 0.5 - eta
        disagreement = distance * short
        apart = disagreement > 0
        ctx.save_for_backward(short.mul_(apart), distance.mul_(apart), norm)
        return disagreement.clamp_min_(0)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        short, distance, norm = ctx.saved_tensors
        (gradient,) = gradients
        to_h = to_eta = None
        if ctx.needs_input_grad[0]:
            to_h = gradient * short
            to_h = to_h if norm is None else to_h.div_(norm)
        if ctx.needs_input_grad[2]:
            to_eta = (gradient * distance).neg_()
        return to_h, None, to_eta


def steepest_activation_direction(pattern: Tensor, gradient: Tensor) -> Tensor:
    """Definition 5.2: which gates to switch so that the output rises, in {-1, 0, 1}.

    Args:
        pattern: nu, 0 or 1.
        gradient: of the output in nu, shaped alike.

    With `sgn(z) = 1 where z > 0 else -1` and `s = sgn(nu - 1/2)`: `s * min(sgn(gradient) * s, 0)`. A gate that is on
    is switched off (-1) if it lowers the output, one that is off is switched on (+1) if it would raise it. Neurons
    with h = 0 have a zero gradient in nu; the definition sets their direction to 0.
    """
    s = torch.where(pattern > 0.5, 1.0, -1.0).to(gradient.dtype)
    sign = torch.where(gradient > 0, 1.0, -1.0).to(gradient.dtype)
    return torch.where(
        gradient == 0, torch.zeros_like(gradient), s * torch.minimum(sign * s, torch.zeros_like(gradient))
    )
