"""The untouched module's outputs, a piece of the rows at a time, and what is wrong with them as a sentence."""

from __future__ import annotations

import torch
from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.network.view import NetworkView


def plain_outputs(
    network: NetworkView, points: Tensor, batch: int, *, kind: str = "inputs", remedy: str = ""
) -> Tensor:
    """The plain module's output (rows, …) at `points` (rows, …), `batch` rows at a time, uncounted and without a graph.

    Args:
        network: whose module is run.
        points: (rows, …).
        batch: rows at a time.
        kind: what the points are, for the sentence.
        remedy: what to look at where the module cannot take them.

    Raises:
        InvalidInput: the module cannot take such points, or returns no finite numbers, a row each.
    """
    try:
        with torch.no_grad():
            output = torch.cat([network.plain(piece) for piece in points.split(batch)])
    except (RuntimeError, ValueError, IndexError) as error:
        if isinstance(error, InvalidInput):
            raise
        raise InvalidInput(
            f"The model cannot take {kind} of shape {tuple(points.shape[1:])}, {points.dtype}: "
            f"{str(error).splitlines()[0]}{remedy}"
        ) from error
    if len(output) != len(points):
        raise InvalidInput(
            f"The model returned {tuple(output.shape)} for {len(points)} {kind}; it must return a row each."
        )
    if not bool(torch.isfinite(output).all()):
        raise InvalidInput(f"The model returns NaN or infinite values on these {kind}; check its weights.")
    return output
