"""The l2 and the l1 ball cut by a box: nearest points, farthest points, steepest steps.

Entry by entry, the nearest point to x in the ball and the box lies on the way from the *anchor* (the point of the box
nearest to the ball's centre) to the *far* point (the point of the box nearest to x); the farthest point in a direction
lies on the way from the anchor to a corner of the box. So only the entries' distances from the centre are unknown:
the *lengths*, each between a least (the anchor's) and a most (the far point's), and of norm `radius` together. A ball
alone is a ball in a box without end.

`norm` is 1 or 2. Centres are (batch, …) or (1, …), bounds broadcast against the points and are in their dtype, radii
are float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gatewise.domains._level import level, pour
from gatewise.domains._rounding import inside_radius, toward
from gatewise.geometry import row_norm


def nearest(x: Tensor, center: Tensor, radius: Tensor, norm: int, lower: Tensor, upper: Tensor) -> Tensor:
    """The nearest point of ball and box to `x` (batch, …), in its dtype; ball and box must meet in that dtype.

    A row with entries that are not finite comes back with NaN.
    """
    far = x.clamp(lower, upper)
    outside = row_norm(far.double() - center.double(), norm) > radius
    if not outside.any():
        return far
    rows = slice(None) if outside.all() else outside
    center = center.to(x.dtype).expand_as(x)
    anchor = center.clamp(lower, upper)
    radius = inside_radius(radius, x.shape[1:].numel()).expand(len(x))[rows]
    point, target, start, origin = (tensor[rows].flatten(1).double() for tensor in (x, far, anchor, center))
    reach = target - origin
    least = (start - origin).abs()
    radius = radius.maximum(row_norm(least, norm))
    most = reach.abs().minimum(radius[:, None]).maximum(least)
    lengths = NEAREST[norm]((point - origin).abs(), least, most, radius)
    found = toward(origin, _shorten(lengths, least, radius, norm).copysign(reach), x.dtype)
    result = far.clone()
    result[rows] = found.reshape(-1, *x.shape[1:])
    # Where the box keeps an entry away from the centre, rounding toward the centre may have left the box.
    return result.clamp(lower, upper)


def support(direction: Tensor, center: Tensor, radius: Tensor, norm: int, lower: Tensor, upper: Tensor) -> Tensor:
    """The maximum of `<direction, x>` over ball and box, (batch,) float64; `direction` (batch, …) float64."""
    center = center.double().expand_as(direction)
    anchor = center.clamp(lower, upper)
    corner = torch.where(direction > 0, upper, torch.where(direction < 0, lower, anchor))
    reach = (corner - center).flatten(1)
    least = (anchor - center).flatten(1).abs()
    radius = radius.expand(len(direction)).maximum(row_norm(least, norm))
    most = reach.abs().minimum(radius[:, None]).maximum(least)
    lengths = longest(direction.flatten(1).abs(), least, most, radius, norm)
    return (direction.flatten(1) * (center.flatten(1) + lengths.copysign(reach))).sum(1)


def longest(slope: Tensor, least: Tensor, most: Tensor, radius: Tensor, norm: int) -> Tensor:
    """The lengths in `least … most` of norm at most `radius` with the largest product with `slope` >= 0.

    All (rows, n) float64 but `radius` (rows,), which the norm of `least` must not exceed.
    """
    lengths = most.clone()
    cut = row_norm(most, norm) > radius
    if cut.any():
        lengths[cut] = LONGEST[norm](slope[cut], least[cut], most[cut], radius[cut])
    return lengths


def _nearest_l2(distance: Tensor, least: Tensor, most: Tensor, radius: Tensor) -> Tensor:
    # The nearest point is clip(center + share * (x - center)); the squares are linear in the squared share.
    zero, one = torch.zeros_like(radius), torch.ones_like(radius)
    share = level(distance.new_zeros(()), distance**2, least**2, most**2, radius**2, zero, one).sqrt()
    return (share[:, None] * distance).clamp(least, most)


def _nearest_l1(distance: Tensor, least: Tensor, most: Tensor, radius: Tensor) -> Tensor:
    # Distances are taken from the largest, so that a far point does not cost the lengths their last digits.
    largest = distance.amax(1)
    below = distance - largest[:, None]
    rise = level(below, below.new_ones(()), least, most, radius, torch.zeros_like(largest), largest)
    return (below + rise[:, None]).clamp(least, most)


def _longest_l2(slope: Tensor, least: Tensor, most: Tensor, radius: Tensor) -> Tensor:
    slope = slope / slope.amax(1, keepdim=True)
    squares = slope**2
    enough = torch.where(squares > 0, most**2 / squares, 0).amax(1)
    scale = level(slope.new_zeros(()), squares, least**2, most**2, radius**2, torch.zeros_like(enough), enough)
    return (scale.sqrt()[:, None] * slope).clamp(least, most)


def _longest_l1(slope: Tensor, least: Tensor, most: Tensor, radius: Tensor) -> Tensor:
    # A knapsack with divisible items: the steepest entries take all the room that the radius pays for.
    order = slope.argsort(dim=1, descending=True, stable=True)
    return least + pour(radius - least.sum(1), most - least, order)


def _shorten(lengths: Tensor, least: Tensor, radius: Tensor, norm: int) -> Tensor:
    """`lengths` drawn back toward `least` until their norm is at most `radius`, where rounding left it above."""
    total = row_norm(lengths, norm)
    above = total > radius
    if not above.any():
        return lengths
    floor = row_norm(least, norm)
    share = ((radius - floor) / (total - floor)).where(above, 1)
    return least + share[:, None] * (lengths - least)


NEAREST = {1: _nearest_l1, 2: _nearest_l2}
LONGEST = {1: _longest_l1, 2: _longest_l2}
