"""Two exercises that clipped balls and simplices come down to: find a level, pour out a budget."""

from __future__ import annotations

import torch
from torch import Tensor

PLAIN_STEPS = 30
MOST_STEPS = 300


def level(base: Tensor, slope: Tensor, least: Tensor, most: Tensor, total: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The t in each row with `sum_i clip(base_i + t * slope_i, least_i, most_i) = total`, to float64 accuracy.

    The sum is piecewise linear and rises with t, so Newton's method ends after finitely many steps once it stays on
    one side of the root, as it does from the second step where the sum is concave or convex (Michelot, J. Optim.
    Theory Appl. 1986; Condat, "Fast projection onto the simplex and the l1 ball", Math. Prog. 2016). A bracket guards
    the other cases.

    Args:
        base: (rows, n), or a number for all, float64.
        slope: (rows, n), or a number for all, at least 0.
        least: (rows, n), where the clipping begins.
        most: (rows, n), where it ends; at least `least`.
        total: (rows,), the sum that is wanted.
        low: (rows,), a t at which the sum is at most `total`; the search begins there.
        high: (rows,), a t at which the sum is at least `total`.

    Returns:
        t, (rows,) float64; where data are NaN or infinite, any t or NaN.
    """
    tolerance = 4 * torch.finfo(total.dtype).eps * total.abs()
    t = low
    settled = torch.zeros_like(total, dtype=torch.bool)
    for step in range(MOST_STEPS):
        value = torch.addcmul(base, t[:, None], slope)
        clipped = value.clamp(least, most)
        excess = clipped.sum(1) - total
        newton = t - excess / ((value == clipped) * slope).sum(1)
        low, high = torch.where(excess <= 0, t, low), torch.where(excess <= 0, high, t)
        trusted = (newton > low) & (newton <= high) & (step < PLAIN_STEPS or step % 2 == 0)
        following = newton.where(trusted, (low + high) / 2)
        # A comparison with NaN is false, so that rows of NaN settle at once.
        settled = settled | ~(excess.abs() > tolerance) | (newton == t) | (following == t)
        if settled.all():
            break
        t = t.where(settled, following)
    return t


def pour(budget: Tensor, room: Tensor, order: Tensor) -> Tensor:
    """`budget` (rows,) poured into entries with `room` (rows, n) >= 0, each filled before the next in `order`.

    `order` (rows, n) lists the entries of each row; the result (rows, n) sums to the budget, or to all the room.
    """
    room = room.gather(1, order)
    poured_before = torch.nn.functional.pad(room.cumsum(1)[:, :-1], (1, 0))
    share = torch.minimum(room, (budget[:, None] - poured_before).clamp(min=0))
    return torch.zeros_like(room).scatter(1, order, share)
