"""The nearest point of a gate's graph: pre-activations and output that belong together, as near as can be to others.

A gate with slope c below zero over a window of n entries is `t = phi(max_j s_j)`, `phi(m) = max(m, 0) + c min(m, 0)`.
ReLU has c = 0 and n = 1, the identity c = 1 and n = 1, a max-pool c = 1, a max-pool of ReLUs (or the ReLU of a
max-pool, which is the same) c = 0. On each side of zero t = a m with a = 1 or c, and for given m the best s_j is
`min(p_j, m)`, the largest p_j being raised to m where it is below. What is left is convex in m alone,

    (a m - q)^2 + sum_j [p_j - m]+^2 + [m - max p]+^2,

with its minimum at the largest of the means `(a q + p_1 + … + p_k) / (a^2 + k)` over the k largest entries, k = 1 … n:
as long as the next entry lies above a mean it raises it, and from the first that lies below all later ones do, too.

The graph is not convex. Under duals the nearest point may lie on another piece than the one where everything fits: a
ReLU that is on at m, with duals (u, -u), is asked for (m - u, m + u), and u > (1 + sqrt 2) m switches it off. A local
minimum on the piece of an earlier point (`before`) asks nothing of u.

Source: Wong & Kolter, "Neural network inversion beyond gradient descent" (OPT 2017), equation 11, where the projections
are named but not printed; the local ones are ours.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gatewise.network.rules import leaky


def nearest_on_graph(
    p: Tensor, q: Tensor, slope: float | Tensor, before: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The `(s, t)` with `t = phi(max_j s_j)` that minimises `sum_j (s_j - p_j)^2 + (t - q)^2`.

    Args:
        p: (n, …), the entries of each window first; n = 1 for a gate without windows.
        q: (…), one number a window.
        slope: of phi below zero, any number for n = 1 and at least 0 otherwise; a tensor broadcasts against `q`.
        before: as `p`, the s of an earlier point whose piece of the graph is kept, if that can be: its side of zero
            where both sides have a minimum inside, its largest entry where no other reaches what that comes to.
    """
    if len(p) == 1:
        m = _maximum(p, q, slope, lambda a: (a * q + p[0]) / (a * a + 1), before)
        return m[None], leaky(m.clamp_min(0), m, slope)
    sums, largest = _descending(p).cumsum(0), p.amax(0)
    counts = torch.arange(1, len(p) + 1, dtype=p.dtype, device=p.device).view(-1, *[1] * q.ndim)

    def best(a: float | Tensor) -> Tensor:
        return ((a * q + sums) / (a * a + counts)).amax(0)

    if before is None:
        m, raised = _maximum(p, q, slope, best), largest
    else:
        winner = before.argmax(0, keepdim=True)
        own, rival = p.gather(0, winner)[0], p.scatter(0, winner, -torch.inf).amax(0)

        def alone(a: float | Tensor) -> Tensor:
            return (a * q + own) / (a * a + 1)

        m = _maximum(p, q, slope, lambda a: torch.where(alone(a) > rival, alone(a), best(a)), before)
        raised = torch.where(torch.where(m > 0, alone(1.0), alone(slope)) > rival, own, largest)
    s = torch.minimum(p, m)
    below = m > raised  # one of these entries, the first, is raised to m
    for entry, given in zip(s, p, strict=True):
        first = below & (given == raised)
        entry.copy_(torch.where(first, m, entry))
        below &= ~first
    return s, leaky(m.clamp_min(0), m, slope)


def _maximum(p, q, slope, best, before=None) -> Tensor:
    """The window's largest entry: the better of the best with `m >= 0` and the best with `m <= 0`; or, with `before`,
    the one on its side where both lie inside their sides.
    """
    if not isinstance(slope, Tensor) and slope == 1:
        return best(1.0)
    on, off = best(1.0), best(slope)
    if before is not None:
        return torch.where((on > 0) & ((off >= 0) | (before.amax(0) > 0)), on, off.clamp_max(0))
    on, off = on.clamp_min_(0), off.clamp_max_(0)
    largest = p.amax(0) if len(p) > 1 else p[0]

    def cost(m: Tensor, a: float | Tensor) -> Tensor:
        below = (p - m).clamp_min_(0).square_().sum(0) + (m - largest).clamp_min_(0).square_()
        return below.add_((a * m - q).square_())

    return torch.where(cost(on, 1.0) <= cost(off, slope), on, off)


def _descending(p: Tensor) -> Tensor:
    """`p` sorted along its first axis, by exchanges of neighbours: windows are short and there are many."""
    if len(p) > 9:
        return p.sort(0, descending=True).values
    entries = list(p.unbind(0))
    for turn in range(len(entries)):
        for i in range(turn % 2, len(entries) - 1, 2):
            a, b = entries[i], entries[i + 1]
            entries[i], entries[i + 1] = torch.maximum(a, b), torch.minimum(a, b)
    return torch.stack(entries)
