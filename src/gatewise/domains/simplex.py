"""The simplex."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gatewise.domains._level import level, pour
from gatewise.domains._points import as_data, check_points
from gatewise.domains.base import Domain
from gatewise.errors import InvalidInput
from gatewise.geometry import HalfSpaces, per_row
from gatewise.streams import RowStreams

# Numbers of these many bits below the total are held exactly by their dtype, and so are their sums by float64.
BITS = {torch.float32: 24, torch.float64: 53}


@dataclass(frozen=True, eq=False)
class Simplex(Domain):
    """`x >= 0` with `sum(x) = total`, over all entries of a row. Its norm is the l1 norm.

    Points are made of whole multiples of a unit, `2**-24` (float32) or `2**-53` (float64) of the next power of two
    above the total. Their sums are exact in float64 in any order, hence equal to `total` without any tolerance.

    Args:
        total: a number between 1e-30 and 1e30. Float32 points sum to it only if it is a float32 number itself.

    Raises:
        InvalidInput: a total that is no such number.
    """

    total: float = 1.0

    def __post_init__(self):
        if as_data("total", self.total).ndim or not 1e-30 <= self.total <= 1e30:
            raise InvalidInput("total must be one number between 1e-30 and 1e30.")
        object.__setattr__(self, "total", float(self.total))

    def of_rows(self, rows: Tensor, like: Tensor) -> Simplex:
        """Itself: all rows have the same."""
        return self

    def unit(self, dtype: torch.dtype) -> float:
        """What points of `dtype` are multiples of.

        Raises:
            InvalidInput: `total` is not such a multiple.
        """
        unit = 2.0 ** (math.ceil(math.log2(self.total)) - BITS[dtype])
        if not (self.total / unit).is_integer():
            rounded = torch.tensor(self.total, dtype=dtype).item()
            raise InvalidInput(
                f"No {dtype} points sum to {self.total} exactly; give total={rounded}, or float64 points."
            )
        return unit

    def project(self, x: Tensor) -> Tensor:
        """The nearest point: all entries lowered by one number and clipped at 0 (Duchi et al., ICML 2008)."""
        check_points(x)
        return self.project_between(x, x.new_zeros(()), x.new_full((), torch.inf))

    def project_between(self, x: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
        """The nearest point to `x` of the simplex and the box `lower <= x <= upper`, bounds in `x`'s dtype.

        The two must meet on the grid. Rows with entries that are not finite come back with NaN.
        """
        inside = (self.violation(x) == 0) & ((x >= lower) & (x <= upper)).flatten(1).all(1)
        if inside.all():
            return x.clone()
        least, most = self.grid(x, lower, upper)
        point = x.double().flatten(1) / self.unit(x.dtype)
        # Entries are taken from the largest, so that a far point does not cost the result its last digits.
        base = point - point.amax(1, keepdim=True)
        total = torch.full_like(base[:, 0], self.total / self.unit(x.dtype))
        low, high = (least - base).amin(1), (most - base).amax(1)
        rise = level(base, base.new_ones(()), least, most, total, low, high)
        found = self._whole((base + rise[:, None]).clamp(least, most), least, most, x)
        return torch.where(per_row(inside, x), x, found)

    def grid(self, like: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The bounds of each entry in units, rounded inward: whole numbers, (batch, n) float64 both."""
        check_points(like, lower.shape, upper.shape)
        unit = self.unit(like.dtype)
        least = (lower.double() / unit).clamp(min=0).ceil()
        most = (upper.double() / unit).clamp(max=self.total / unit).floor()
        return least.expand(like.shape).flatten(1), most.expand(like.shape).flatten(1)

    def _whole(self, counts: Tensor, least: Tensor, most: Tensor, like: Tensor) -> Tensor:
        """The point, shaped as `like`, of `counts` units (rows, n), rounded to whole ones with the right sum.

        What rounding leaves over goes to the entry farthest from its bounds: the largest, in the simplex itself.
        """
        unit = self.unit(like.dtype)
        whole = counts.round()
        missing = int(self.total / unit) - whole.long().sum(1, keepdim=True)
        order = torch.minimum(whole - least, most - whole).argsort(dim=1, descending=True, stable=True)
        room = torch.where(missing > 0, most - whole, whole - least)
        whole = whole + missing.sign() * pour(missing[:, 0].abs().double(), room, order)
        return (whole * unit).reshape(like.shape).to(like.dtype)

    def violation(self, x: Tensor) -> Tensor:
        """The larger of `|sum(x) - total|` and the most negative entry's size, (batch,) float64."""
        check_points(x)
        flat = x.double().flatten(1)
        return (flat.sum(1) - self.total).abs().maximum(-flat.amin(1))

    def steepest(self, gradient: Tensor) -> Tensor:
        """+1/2 on the largest entry of the gradient and -1/2 on the smallest, the first of each in a tie."""
        check_points(gradient)
        flat = gradient.flatten(1)
        half = torch.full_like(flat[:, :1], 0.5)
        step = torch.zeros_like(flat).scatter(1, flat.argmax(1, keepdim=True), half)
        step = step.scatter_add(1, flat.argmin(1, keepdim=True), -half)
        varied = flat.amax(1, keepdim=True) > flat.amin(1, keepdim=True)
        return (step * varied).reshape(gradient.shape)

    def support(self, direction: Tensor) -> Tensor:
        """`total` times the largest entry of the direction, (batch,)."""
        check_points(direction)
        return (self.total * direction.double().flatten(1).amax(1)).to(direction.dtype)

    def sample(self, streams: RowStreams, like: Tensor) -> Tensor:
        """Uniform draws: exponential draws divided by their sum."""
        check_points(like)
        sizes = -torch.log1p(-streams.uniform(like).double()) + torch.finfo(torch.float64).tiny
        flat = sizes.flatten(1)
        return self.project((self.total * flat / flat.sum(1, keepdim=True)).reshape(like.shape).to(like.dtype))

    def size(self, like: Tensor) -> Tensor:
        """The total, half the l1 distance between two corners, (batch,)."""
        check_points(like)
        return torch.full((len(like),), self.total, dtype=like.dtype, device=like.device)

    def halfspaces(self, like: Tensor) -> HalfSpaces:
        """`-x <= 0`, `sum(x) <= total` and `-sum(x) <= -total`, n + 2 rows; they enclose no ball."""
        check_points(like)
        n = like.shape[1:].numel()
        offset = torch.zeros(1, n + 2, dtype=like.dtype, device=like.device)
        offset[0, n], offset[0, n + 1] = self.total, -self.total

        def product(x: Tensor) -> Tensor:
            flat = x.flatten(1)
            total = flat.sum(1, keepdim=True)
            return torch.cat([-flat, total, -total], dim=1)

        def transpose_product(multipliers: Tensor) -> Tensor:
            entries, above, below = multipliers.split([n, 1, 1], dim=1)
            return (above - below - entries).reshape(-1, *like.shape[1:])

        return HalfSpaces(product, transpose_product, offset)
