"""Convex quadratics over a set, for many rows at once: `min <g, e> + e'He/2` over steps e with z + e in the set.

Over a box by projected Newton steps: entries that a bound holds are left out, conjugate gradients solve for the others,
and the step is clamped and halved until it lowers the quadratic. Over any other set with a projection by accelerated
projected gradients, restarted where they would climb.

Sources: Bertsekas, "Projected Newton methods for optimization problems with simple constraints" (SIAM J. Control Optim.
20, 1982); Beck & Teboulle, "A fast iterative shrinkage-thresholding algorithm" (SIAM J. Imaging Sci. 2, 2009);
O'Donoghue & Candès, "Adaptive restart for accelerated gradient schemes" (Found. Comput. Math. 15, 2015).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gatewise.geometry import per_row, row_norm
from gatewise.network.blocks.conjugate_gradients import conjugate_gradients

_SUFFICIENT = 1e-4  # share of the decrease that the gradient promises
_ROUNDING = 1e3  # in units of rounding of the largest entry: what a gradient at a bound is 0 up to
LINE_SEARCH = 8
"""Products that a line search takes at most."""


def minimise_in_box(
    product: Callable[[Tensor], Tensor],
    gradient: Tensor,
    z: Tensor,
    bounds: tuple[Tensor, Tensor],
    *,
    tolerance: float,
    most: int | Tensor,
    precondition: Callable[[Tensor], Tensor],
    majorised: bool = False,
) -> tuple[Tensor, Tensor]:
    """A point of the box with a lower value, the lowest up to `tolerance`, and the products each row took, (batch,).

    Args:
        product: `H d`, each row by itself.
        gradient: at `z`, (batch, …).
        z: where to begin, in the box.
        bounds: lowest and highest entries, broadcast against `z`; may be infinite.
        tolerance: a row stops where its free gradient is this share of the first.
        most: products at most, for all rows or (batch,) int64 for each, and one line search beyond.
        precondition: an approximate solve with H, symmetric and positive definite.
        majorised: what it solves with is at least H. Then a row whose step by it stays in the box takes that step,
            which lowers the quadratic for sure, and no product.
    """
    lower, upper = bounds
    taken = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    enough: Tensor | None = None
    stuck = torch.zeros_like(taken, dtype=torch.bool)
    if majorised:
        trial = z - precondition(gradient)
        inside = ((trial >= lower) & (trial <= upper)).flatten(1).all(1)
        z = torch.where(per_row(inside, z), trial, z)
        gradient = gradient * per_row(~inside, z)
    while True:
        inward = per_row(_ROUNDING * torch.finfo(z.dtype).eps * gradient.flatten(1).abs().amax(1), z)
        free = ~(((z <= lower) & (gradient > -inward)) | ((z >= upper) & (gradient < inward)))
        wanted = gradient * free
        slope = row_norm(wanted)
        enough = tolerance * slope if enough is None else enough
        going = (slope > enough) & (taken < most) & ~stuck
        if not bool(going.any()):
            return z, taken
        wanted = wanted * per_row(going, z)
        solved = conjugate_gradients(
            lambda d, free=free: free * product(d),
            -wanted,
            tolerance=tolerance,
            most=most - taken,
            precondition=lambda r, free=free: free * precondition(r),
        )
        moved, changed, extra = _search(product, gradient, z, solved, free, lower, upper)
        taken = taken + solved.steps + extra * going
        gradient = gradient + changed
        stuck = stuck | (going & (moved == z).flatten(1).all(1))
        z = moved


def _search(product, gradient, z, solved, free, lower, upper) -> tuple[Tensor, Tensor, Tensor]:
    """The first of the clamped steps 1, 1/2, 1/4, … along a direction that lowers each row's quadratic enough, as new
    point, change of the gradient, and products. A whole step lowers it as it is where no bound
    is in play.
    """
    direction, length = solved.solution, torch.ones_like(row_norm(z))
    whole = (z + direction).clamp(lower, upper)
    left = ((whole != z + direction) | ~free).flatten(1).any(1)
    best, change = torch.where(per_row(left, z), z, whole), torch.where(per_row(left, z), 0, solved.product)
    extra = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    if not bool(left.any()):
        return best, change, extra
    for _ in range(LINE_SEARCH):
        trial = (z + per_row(length, z) * direction).clamp(lower, upper)
        step = trial - z
        pushed = product(step)
        extra += left
        promised = (gradient * step).flatten(1).sum(1)
        lower_now = promised + (step * pushed).flatten(1).sum(1) / 2 <= _SUFFICIENT * promised
        taken = left & lower_now & (promised <= 0)
        best = torch.where(per_row(taken, z), trial, best)
        change = torch.where(per_row(taken, z), pushed, change)
        left = left & ~taken
        if not bool(left.any()):
            break
        length = torch.where(left, length / 2, length)
    return best, change, extra


def minimise_in_set(
    product: Callable[[Tensor], Tensor],
    gradient: Tensor,
    z: Tensor,
    project: Callable[[Tensor], Tensor],
    largest: Tensor,
    *,
    tolerance: float,
    most: int | Tensor,
) -> tuple[Tensor, Tensor]:
    """The same over the set that `project` maps onto; `largest` (batch,) bounds H's eigenvalues from above."""
    at, before, momentum = z, z, torch.ones_like(largest)
    slope = gradient
    taken = torch.zeros(len(z), dtype=torch.int64, device=z.device)
    rate = per_row(1 / largest.clamp_min(torch.finfo(z.dtype).tiny), z)
    first: Tensor | None = None
    for _ in range(int(most.max()) if isinstance(most, Tensor) else most):
        new = project(at - rate * slope)
        move = row_norm(new - at)
        first = move if first is None else first
        going = (move > tolerance * first) & (taken < most)
        climbs = ((at - new) * (new - before)).flatten(1).sum(1) > 0
        following = torch.where(climbs, 1, (1 + (1 + 4 * momentum.square()).sqrt()) / 2)
        share = torch.where(climbs, 0, (momentum - 1) / following)
        ahead = new + per_row(share, z) * (new - before)
        keep = per_row(going, z)
        at, before = torch.where(keep, ahead, at), torch.where(keep, new, before)
        momentum = torch.where(going, following, momentum)
        if not bool(going.any()):
            break
        slope = gradient + product(at - z)
        taken += going
    return before, taken
