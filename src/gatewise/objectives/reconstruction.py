"""Reconstruction: how far what is measured of the network's output lies from what was measured of the truth."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.geometry import per_row
from gatewise.objectives.least_squares import LeastSquares

ENDS: dict[str, Callable[[Tensor], Tensor]] = {"none": lambda y: y, "tanh": torch.tanh, "sigmoid": torch.sigmoid}
"""What a generator may end in, after its last affine map."""

_GRID = 64


@dataclass(frozen=True)
class ToPixels:
    """From a generator's output to images with pixels in [0, 1]: its `end`, then `low` to 0 and `high` to 1.

    `shape` is that of one image; an output with as many entries is reshaped.
    """

    shape: tuple[int, ...]
    end: Literal["none", "tanh", "sigmoid"] = "none"
    low: float = 0.0
    high: float = 1.0

    def __call__(self, y: Tensor) -> Tensor:
        """(batch, *shape); raises InvalidInput where an output has another number of entries."""
        if y[0].numel() != math.prod(self.shape):
            raise InvalidInput(
                f"The generator makes images of shape {tuple(y.shape[1:])}, the data are {self.shape}; give images of "
                "the size that it was trained on."
            )
        return ((ENDS[self.end](y) - self.low) / (self.high - self.low)).reshape(len(y), *self.shape)


@dataclass(frozen=True, eq=False)
class SquaredError(LeastSquares):
    """`weight * mean over the measured entries of (measurement(output_map(y)) - target)^2`.

    Args:
        target: what was measured of the truth: (batch, …), or the shape of one row for all.
        weight: factor, above 0, or one a row, (batch,).
        measurement: a map of images that is linear in them, such as those of `gatewise.measurements`; None: all is
            seen.
        output_map: what comes between the network's last affine map and the image, entry by entry, such as `ToPixels`;
            None: nothing.
    """

    target: Tensor
    weight: float | Tensor = 1.0
    measurement: Callable[[Tensor], Tensor] | None = None
    output_map: Callable[[Tensor], Tensor] | None = None

    def measured(self, y: Tensor) -> Tensor:
        """What is measured of an output, shaped as the target."""
        image = y if self.output_map is None else self.output_map(y)
        return image if self.measurement is None else self.measurement(image)

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """(batch, m) for m measured entries, over the root of m."""
        apart = (self.measured(y) - self.target).flatten(1)
        weight = torch.as_tensor(self.weight, dtype=apart.dtype, device=apart.device)
        return (weight / apart.shape[1]).sqrt().reshape(-1, 1) * apart

    def proximal_step(self, centre: Tensor, rho: Tensor) -> Tensor:
        """`argmin over y of self(y) + rho/2 ||y - centre||^2`, for `centre` (batch, …) and `rho` (batch,).

        Entry by entry by three grids, each as wide as the spacing of the last: to a millionth of the longest step that
        can pay.

        Raises:
            UnsupportedProblem: what is measured mixes entries.
        """
        if self.measurement is not None:
            raise UnsupportedProblem(
                "The proximal step of a SquaredError is known where the whole image is seen; without a measurement, or "
                "use a method that needs only gradients (adam, gauss-newton)."
            )
        share = torch.as_tensor(self.weight, dtype=centre.dtype, device=centre.device).reshape(-1) / centre[0].numel()
        target = self.target.expand_as(self.measured(centre)).reshape(centre.shape)

        def mismatch(y: Tensor) -> Tensor:
            return self.measured(y).reshape(centre.shape) - target

        # The map rises, so the step leads towards the target, and no further than what it can save.
        at = mismatch(centre)
        step, least, width = -at * per_row((2 * share / rho).sqrt(), at), torch.zeros_like(at), 1.0
        for _ in range(3):
            best = torch.full_like(at, torch.inf)
            middle = least
            for offset in torch.linspace(-width, width, 2 * _GRID + 1).tolist():
                tried = (middle + offset).clamp(0, 1)
                value = per_row(share, at) * mismatch(centre + tried * step).square()
                value = value + per_row(rho / 2, at) * (tried * step).square()
                least, best = torch.where(value < best, tried, least), torch.minimum(value, best)
            width = width / _GRID
        return centre + least * step
