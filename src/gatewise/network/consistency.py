"""What ADR-GD's two forms share: which gates carry eta, the surrogate run, and how far eta disagrees with the true
pattern.

Legend: eta = relaxed gate in [0, 1]; h = true pre-activation; P = hyperplane normal; nu = 1[h > 0]. Source: Yu & Gao
(ICML 2024), Definitions 5.2 and 5.3, equations 8 to 10.
"""

from __future__ import annotations

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


def hyperplane_distance(h: Tensor, norm: Tensor | None) -> Tensor:
    """`h / ||P||`: the signed distance to each neuron's hyperplane in input units, shaped as h.

    None leaves h undivided (ablation M3). A neuron that no input reaches under the held gates has ||P|| = 0 and no
    hyperplane: it is left undivided too.
    """
    return h if norm is None else h / norm.where(norm > 0, 1.0)


def inconsistency(distance: Tensor, eta: Tensor) -> tuple[Tensor, Tensor]:
    """The two halves of equation 10 for each neuron: gates that should be on and are not, gates that should be off
    and are not.
    """
    zero = distance.new_zeros(())
    should_be_on = torch.maximum(distance, zero) * torch.maximum(0.5 - eta, zero)
    should_be_off = torch.maximum(-distance, zero) * torch.maximum(eta - 0.5, zero)
    return should_be_on, should_be_off


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
