"""What a network read from a file takes."""

import math
from collections.abc import Sequence

from torch import Tensor

from gatewise.errors import InvalidInput


def as_network_input(x: Tensor, shape: Sequence[int | None]) -> Tensor:
    """`x` (batch, …) in the shape (batch, *shape) that the network's file states.

    Axes of length 1 are added and dropped as needed, and where the network takes a vector (one axis longer than 1) each
    row is flattened row by row: both leave no choice of order. Anything else has to fit as it is.

    Args:
        x: the network's input.
        shape: without the batch axis; None where the file leaves a length open.

    Raises:
        InvalidInput: a row has another shape.
    """
    row = tuple(x.shape[1:])
    if x.ndim == len(shape) + 1 and all(want in (None, have) for want, have in zip(shape, row, strict=True)):
        return x
    lengths = [length for length in shape if length is not None]
    wanted = [length for length in lengths if length != 1]
    same_order = len(wanted) <= 1 or wanted == [length for length in row if length != 1]
    if x.ndim and len(lengths) == len(shape) and same_order and math.prod(lengths) == math.prod(row):
        return x.reshape(len(x), *lengths)
    stated = ", ".join("any" if length is None else str(length) for length in ("N", *shape))
    raise InvalidInput(f"The network takes inputs of shape ({stated}), got {tuple(x.shape)}; reshape them to fit.")
