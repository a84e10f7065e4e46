"""The network near a point as a mixed-integer affine function: the gates nearest to switching are variables, the others
stay as they are at the point.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gatewise.mixed_integer import GateProgram
from gatewise.network.rules import Fixed, GateRule, PerGate
from gatewise.network.view import NetworkView, Trace

_COPIES = 256


@dataclass(frozen=True, eq=False)
class Freed(GateRule):
    """`Fixed`, with some entries of each switch's output replaced by given values.

    `free` (bool, by gate, shaped as one row) says which; `values` (batch, k) are their outputs.
    """

    pattern: PerGate
    free: PerGate
    values: PerGate

    def switch(self, index, z, slope):
        """`nu z`, and the given values where free."""
        out, free, values = Fixed(self.pattern).switch(index, z, slope), self.free[index], self.values[index]
        if free is None or values is None:
            return out
        return out.masked_scatter(free.expand_as(out), values)

    def choice(self, index, z, pool):
        """The entry that the pattern names in each window."""
        return Fixed(self.pattern).choice(index, z, pool)


@dataclass(frozen=True, eq=False)
class LocalPiece:
    """One row's network near its point, float64.

    `x` (n,) the point; for the k gates that are free `slope` (k,), theirs below zero, and `layer` (k,), which gate of
    the network each belongs to, in order. Near the point their pre-activations z and outputs s, (k,) each, have
    `z = by_x @ x + by_s @ s + constant`, where `by_s` is strictly lower block triangular in the layers, and the
    objective is `objective_x @ x + objective_s @ s` up to a constant.
    """

    x: np.ndarray
    slope: np.ndarray
    layer: np.ndarray
    by_x: np.ndarray
    by_s: np.ndarray
    constant: np.ndarray
    objective_x: np.ndarray
    objective_s: np.ndarray

    def program(self, lower: np.ndarray, upper: np.ndarray) -> GateProgram:
        """To minimise the objective over `lower <= x <= upper`, (n,) each."""
        return GateProgram(
            lower=lower,
            upper=upper,
            by_x=self.by_x,
            by_s=self.by_s,
            constant=self.constant,
            slope=self.slope,
            layer=self.layer,
            cost_x=self.objective_x,
            cost_s=self.objective_s,
        )


def local_piece(
    view: NetworkView, trace: Trace, free: PerGate, row: int, output_gradient: Tensor, input_gradient: Tensor
) -> LocalPiece:
    """Take row `row` of `trace` apart.

    Args:
        view: the network.
        trace: the network's run at the points.
        free: by gate, bool shaped as the gate (batch, …): which entries are variables; None for none.
        row: which row.
        output_gradient: the objective's gradient in the output, (batch, …).
        input_gradient: the objective's own gradient in x, not through the network, (batch, …).

    Costs one backward pass for each free gate, and one for the objective.
    """
    x = trace.input[row : row + 1].detach()
    pattern = [
        gate.pattern(h[row : row + 1].detach()) for gate, h in zip(trace.gates, trace.preactivations, strict=True)
    ]
    masks = {i: f[row : row + 1] for i, f in enumerate(free) if f is not None and bool(f[row].any())}
    heights = {i: trace.preactivations[i][row : row + 1].detach() for i in masks}
    none = [x.new_empty(0)]
    z = torch.cat([heights[i][mask] for i, mask in masks.items()] or none)
    slopes = torch.cat([_slope(trace.gates[i].slope, heights[i])[mask] for i, mask in masks.items()] or none)
    s = torch.where(z > 0, z, slopes * z)
    counts = [int(mask.sum()) for mask in masks.values()]
    k = len(z)
    by_x, by_s = np.zeros((k + 1, x.numel())), np.zeros((k + 1, k))
    for first in range(0, k + 1, _COPIES):
        # One copy of the row for each gate whose pre-activation is to be differentiated; the last is the objective.
        asked = torch.arange(first, min(first + _COPIES, k + 1), device=x.device)
        copies = x.expand(len(asked), *x.shape[1:]).clone().requires_grad_()
        values = [part.expand(len(asked), -1).clone().requires_grad_() for part in s.split(counts)] if k else []
        held = dict(zip(masks, values, strict=True))
        with torch.enable_grad():
            every = range(len(free))
            on = [p.expand(len(asked), *p.shape[1:]) for p in pattern]
            run = view.trace(copies, Freed(on, [masks.get(i) for i in every], [held.get(i) for i in every]))
            told = [run.preactivations[i][:, mask[0]] for i, mask in masks.items()]
            told.append((run.output * output_gradient[row : row + 1]).flatten(1).sum(1, keepdim=True))
            chosen = torch.cat(told, 1).gather(1, asked[:, None])
            g_x, *g_s = torch.autograd.grad(chosen.sum(), [copies, *values], materialize_grads=True)
        here = slice(first, first + len(asked))
        by_x[here] = g_x.flatten(1).double().cpu().numpy()
        by_s[here] = torch.cat(g_s, 1).double().cpu().numpy() if k else 0.0
    at_x, at_s, at_z = (t.flatten().double().cpu().numpy() for t in (x, s, z))
    return LocalPiece(
        x=at_x,
        slope=slopes.double().cpu().numpy(),
        layer=np.repeat(np.array(list(masks), dtype=int), counts),
        by_x=by_x[:k],
        by_s=by_s[:k],
        constant=at_z - by_x[:k] @ at_x - by_s[:k] @ at_s,
        objective_x=by_x[k] + input_gradient[row].flatten().double().cpu().numpy(),
        objective_s=by_s[k],
    )


def _slope(slope: float | Tensor, like: Tensor) -> Tensor:
    return slope.to(like).expand_as(like) if isinstance(slope, Tensor) else torch.full_like(like, slope)
