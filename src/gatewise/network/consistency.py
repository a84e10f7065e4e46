"""Which gates carry eta, how far eta disagrees with the true pattern, and which gates an objective would switch.

Legend: eta = relaxed gate in [0, 1]; h = true pre-activation; P = hyperplane normal; nu = 1[h > 0]. Source: Yu & Gao
(ICML 2024), Definitions 5.2 and 5.3, equations 8 to 10.
"""

from __future__ import annotations

from dataclasses import dataclass

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
    switches = trace.require_rows().switches
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


@dataclass(frozen=True, eq=False)
class Disagreement:
    """The neurons of one gate whose eta and pre-activation disagree: the only ones that equation 10 charges.

    `row` (k,) int64 says whose they are; `charge` (k,) is `|h| / ||P|| * |1/2 - eta|`, differentiable in h and eta;
    `should_be_on` (k,) bool tells the two halves of the equation apart.
    """

    row: Tensor
    charge: Tensor
    should_be_on: Tensor
    rows: int

    def largest_halves(self) -> Tensor:
        """The largest neuron of each half, added, (batch,): the penalty of the authors' code."""
        zero = self.charge.new_zeros(self.rows)
        halves = (self.charge * half for half in (self.should_be_on, ~self.should_be_on))
        on, off = (zero.scatter_reduce(0, self.row, half, "amax") for half in halves)
        return on + off


def disagreement(h: Tensor, norm: Tensor | None, eta: Tensor) -> Disagreement:
    """Equation 10, `[h]+/||P|| [1/2 - eta]+ + [-h]+/||P|| [eta - 1/2]+`, for the neurons where it is not 0.

    Both halves are one, `max(h/||P|| (1/2 - eta), 0)`. As a rule few neurons disagree, so that gathering them reads the
    gates once instead of a dozen times. `norm` is a constant, shaped as h; None leaves h undivided (ablation M3).
    """
    on = h > 0
    index = (on != (eta > 0.5)).flatten().nonzero().squeeze(1)
    distance = h.flatten()[index]
    if norm is not None:
        distance = distance / norm.flatten()[index]
    # relu passes no gradient at 0, where h or eta lies on its threshold: the indicators of equation 11.
    charge = torch.relu(distance * (0.5 - eta.flatten()[index]))
    return Disagreement(index // (h.numel() // len(h)), charge, on.flatten()[index], len(h))


def steepest_activation_direction(h: Tensor, gradient: Tensor) -> Tensor:
    """Definition 5.2: which gates to switch so that the output rises, in {-1, 0, 1}, shaped as h.

    Args:
        h: pre-activations; the gates are `nu = 1[h > 0]`.
        gradient: of the output in nu, shaped alike.

    With `sgn(z) = 1 where z > 0 else -1` and `s = sgn(nu - 1/2)`: `s * min(sgn(gradient) * s, 0)`, and 0 where h is 0.
    A gate that is on is switched off (-1) unless it raises the output, one that is off is switched on (+1) if it would.
    """
    s = torch.where(h > 0, 1.0, -1.0).to(gradient.dtype)
    sign = torch.where(gradient > 0, 1.0, -1.0).to(gradient.dtype)
    return (s * (sign * s).clamp_max(0)).masked_fill(h == 0, 0.0)
