"""One random stream a row, so that a row draws the same numbers alone, in a batch, or on another worker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gatewise.errors import InvalidInput


class RowStreams:
    """Random draws for the rows of a batch.

    Row i draws from a generator of its own, seeded by `(seed, rows[i])`, where `rows[i]` is the row's name in the
    whole data set (by default its position). The draws are made on the CPU and moved, so that every device sees the
    same numbers.
    """

    def __init__(self, seed: int, rows: Sequence[int]):
        if seed < 0 or any(row < 0 for row in rows):
            raise InvalidInput("The seed and the rows' names must be at least 0; they name random streams.")
        states = [np.random.SeedSequence([seed, int(row)]).generate_state(1, np.uint64)[0] for row in rows]
        self._generators = [torch.Generator().manual_seed(int(state >> np.uint64(1))) for state in states]

    def __len__(self) -> int:
        return len(self._generators)

    def of_rows(self, rows: Tensor) -> RowStreams:
        """The streams of the rows `rows` (k,) int64, which move as these do."""
        taken = RowStreams(0, [])
        taken._generators = [self._generators[row] for row in rows.tolist()]
        return taken

    def normal(self, like: Tensor, only: Tensor | None = None) -> Tensor:
        """Standard normal draws shaped as `like` (batch, …), in its dtype and on its device; where `only` (batch,)
        bool is False a row gets zeros and its stream does not move.
        """
        return self._draw(torch.randn, like, only)

    def normal_row(self, row: int, size: int, like: Tensor) -> Tensor:
        """The next `size` standard normal draws of one row, in the dtype and on the device of `like`."""
        return torch.randn(size, generator=self._generators[row], dtype=like.dtype).to(like.device)

    def uniform_row(self, row: int, size: int, like: Tensor) -> Tensor:
        """The next `size` uniform draws of one row from [0, 1), in the dtype and on the device of `like`."""
        return torch.rand(size, generator=self._generators[row], dtype=like.dtype).to(like.device)

    def uniform(self, like: Tensor, only: Tensor | None = None) -> Tensor:
        """Uniform draws from [0, 1), otherwise as `normal`."""
        return self._draw(torch.rand, like, only)

    def _draw(self, draw, like: Tensor, only: Tensor | None = None) -> Tensor:
        out = torch.zeros(like.shape, dtype=like.dtype)
        drawn = range(len(out)) if only is None else only.nonzero().flatten().tolist()
        for row in drawn:
            draw(out.shape[1:], generator=self._generators[row], dtype=like.dtype, out=out[row])
        return out.to(like.device)
