"""Rounding inward, so that what is feasible in real numbers stays so in a point's own dtype."""

from __future__ import annotations

import torch
from torch import Tensor


def at_most(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest number of `dtype` that is not above `value` (float64), elementwise."""
    rounded = value.to(dtype)
    return torch.where(rounded.double() > value, torch.nextafter(rounded, -_infinity(rounded)), rounded)


def at_least(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The smallest number of `dtype` that is not below `value` (float64), elementwise."""
    return -at_most(-value, dtype)


def farthest(center: Tensor, radius: Tensor, dtype: torch.dtype) -> Tensor:
    """The largest number t of `dtype` whose distance `t - center`, computed in float64, is at most `radius`.

    This is the very test that `violation` makes, rounding included, so that clamping at t moves no point which
    passes it. `center` and `radius` are float64; the result broadcasts the two.
    """
    infinity = _infinity(radius)
    slack = (torch.nextafter(radius, infinity) - radius) / 2
    edge = (center + radius + slack).to(dtype)
    # The guess is off by at most two steps of `dtype`: one for each rounding of the sum.
    for _ in range(2):
        beyond = torch.nextafter(edge, _infinity(edge))
        edge = torch.where(beyond.double() - center <= radius, beyond, edge)
    for _ in range(2):
        edge = torch.where(edge.double() - center > radius, torch.nextafter(edge, -_infinity(edge)), edge)
    return edge


def toward(center: Tensor, offset: Tensor, dtype: torch.dtype) -> Tensor:
    """`center + offset` in `dtype`, each entry rounded so that it is no farther from `center` than `offset`.

    `center` is float64 and holds numbers of `dtype`; `offset` is float64 of the same shape.
    """
    rounded = (center + offset).to(dtype)
    too_far = (rounded.double() - center).abs() > offset.abs()
    if not too_far.any():
        return rounded
    return torch.where(too_far, torch.nextafter(rounded, center.to(dtype)), rounded)


def inside_radius(radius: Tensor, n: int) -> Tensor:
    """`radius` (float64) less a relative margin above the rounding error of a float64 norm of n entries.

    Sums of the same numbers differ in their last bits with the order of summation, hence with the batch's shape and
    the machine. A norm aimed at the result is at most `radius`, whoever computes it.
    """
    return radius * (1 - (n + 16) * torch.finfo(torch.float64).eps)


def _infinity(like: Tensor) -> Tensor:
    return torch.full((), torch.inf, dtype=like.dtype, device=like.device)
