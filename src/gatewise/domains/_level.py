"""One equation that the geometry of clipped balls and simplices comes down to."""

from __future__ import annotations

import torch
from torch import Tensor

PLAIN_STEPS = 30
MOST_STEPS = 300


def level(base: Tensor, slope: Tensor, least: Tensor, most: Tensor, total: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The t in each row with `sum_i clip(base_i + t * slope_i, least_i, most_i) = total`, to float64 accuracy.

    The sum is piecewise linear and rises with t, so Newton's method ends after finitely many steps once it stays on
    one side of the root, which it does from the first step where the sum is concave or convex (Michelot 1986, Condat
    2016, "Fast projection onto the simplex and the l1 ball"). A bracket guards the other cases.

    Args:
        base: (rows, n), or a number for all, float64.
        slope: (rows, n), or a number for all, at least 0.
        least: (rows, n), where the clipping begins.
        most: (rows, n), where it ends; at least `least`.
        total: (rows,), the sum that is wanted.
        low: (rows,), a t at which the sum is at most `total`; the search begins there.
        high: (rows,), a t at which the sum is at least `total`.

    Returns:
        t, (rows,) float64; NaN data give an arbitrary t.
    """
    tolerance = 4 * torch.finfo(total.dtype).eps * total.abs()
    t = low
    settled = torch.zeros_like(total, dtype=torch.bool)
    for step in range(MOST_STEPS):
        value = torch.addcmul(base, t[:, None], slope)
        clipped = value.clamp(least, most)
        excess = clipped.sum(1) - total
        rate = ((value == clipped) * slope).sum(1)
        newton = t - excess / rate
        low, high = torch.where(excess <= 0, t, low), torch.where(excess <= 0, high, t)
        trusted = (newton > low) & (newton < high) & (step < PLAIN_STEPS or step % 2 == 0)
        following = newton.where(trusted, (low + high) / 2)
        settled = settled | ~(excess.abs() > tolerance) | (newton == t) | (following == t)
        if settled.all():
            break
        t = t.where(settled, following)
    return t
