"""What sets accept: numbers and tensors as their data, and points that fit them."""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from gatewise.errors import InvalidInput

DTYPES = (torch.float32, torch.float64)


def as_data(name: str, value: float | Tensor) -> Tensor:
    """A set's datum as a float tensor of its own; a number becomes a float64 tensor without axes.

    Tensors are copied, so that a set stays as it was built when the caller later works in place.

    Raises:
        InvalidInput: not a number nor a float32 or float64 tensor, or NaN in it.
    """
    if isinstance(value, Tensor):
        if value.dtype not in DTYPES:
            raise InvalidInput(f"{name} is a {value.dtype} tensor; give float32 or float64, as by `.float()`.")
        data = value.detach().clone()
    elif isinstance(value, Real) and not isinstance(value, bool):
        data = torch.tensor(float(value), dtype=torch.float64)
    else:
        raise InvalidInput(f"{name} is a {type(value).__name__}; give a number, or a tensor as by `torch.as_tensor`.")
    if data.isnan().any():
        raise InvalidInput(f"{name} holds NaN; replace it by numbers.")
    return data


def as_center(value: Tensor) -> Tensor:
    """A ball's centre (batch, …): finite, with a batch axis (of length 1 where all rows share it)."""
    center = as_data("center", value)
    if center.ndim < 2:
        raise InvalidInput(
            f"center has shape {tuple(center.shape)}; give it a batch axis and at least one more, as by `center[None]`."
        )
    if not center.isfinite().all():
        raise InvalidInput("center holds infinite entries; a ball needs finite ones.")
    return center


def as_radius(value: float | Tensor, center: Tensor) -> Tensor:
    """A ball's radius in float64, without axes or (batch,): finite and not negative."""
    radius = as_data("radius", value).double()
    if not ((radius >= 0) & radius.isfinite()).all():
        raise InvalidInput("radius must be finite and at least 0 in every row.")
    if radius.ndim > 1 or (radius.ndim == 1 and center.shape[0] not in (1, len(radius))):
        raise InvalidInput(
            f"radius has shape {tuple(radius.shape)} and center {tuple(center.shape)}; give one number, or one a row."
        )
    return radius.to(center.device)


def check_together(**shapes: tuple[int, ...]) -> torch.Size:
    """The shape that data of these shapes, given by name, broadcast to.

    Raises:
        InvalidInput: they do not.
    """
    try:
        return torch.broadcast_shapes(*shapes.values())
    except RuntimeError as error:
        listed = ", ".join(f"{name.replace('_', ' ')} {tuple(shape)}" for name, shape in shapes.items())
        raise InvalidInput(
            f"The set's data have shapes that do not go together ({listed}); give them all the points' own shape."
        ) from error


def check_points(x: Tensor, *shapes: torch.Size) -> None:
    """Refuse points that a set with data of these shapes cannot hold.

    Raises:
        InvalidInput: not float32 or float64, no batch axis, or a shape that `x` does not broadcast with.
    """
    if x.dtype not in DTYPES:
        raise InvalidInput(f"A set takes float32 or float64 points, not {x.dtype}; convert them as by `.float()`.")
    if x.ndim < 2:
        raise InvalidInput(
            f"A set takes points (batch, …), not of shape {tuple(x.shape)}; add the batch axis as by `x[None]`."
        )
    for shape in shapes:
        if not _broadcasts(shape, x.shape):
            raise InvalidInput(_misfit(shape, x))


def check_center(x: Tensor, center: Tensor, radius: Tensor) -> None:
    """Refuse points whose rows differ from the centre's, or whose dtype cannot hold the centre.

    Raises:
        InvalidInput: as `check_points`; or a float64 centre that float32 points cannot equal.
    """
    check_points(x)
    if center.shape[1:] != x.shape[1:] or center.shape[0] not in (1, x.shape[0]):
        raise InvalidInput(_misfit(center.shape, x))
    if radius.numel() not in (1, x.shape[0]):
        raise InvalidInput(_misfit(radius.shape, x))
    if center.dtype is torch.float64 and x.dtype is torch.float32 and not center.equal(center.float().double()):
        raise InvalidInput(
            "The ball has a float64 center that float32 points cannot equal; give `center.float()`, or float64 points."
        )


def _misfit(shape: torch.Size, x: Tensor) -> str:
    return (
        f"The set has data of shape {tuple(shape)}, which does not fit points of shape "
        f"{tuple(x.shape)}; build the set from data of the points' own shape."
    )


def _broadcasts(shape: torch.Size, points: torch.Size) -> bool:
    return len(shape) <= len(points) and all(
        mine in (1, theirs) for mine, theirs in zip(reversed(shape), reversed(points), strict=False)
    )
