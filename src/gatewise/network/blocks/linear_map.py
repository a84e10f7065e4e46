"""What one leaf of a tape does to the values that it reaches: an affine map, run call by call, and its transpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gatewise.network.blocks.tape import Tape, run


class LinearMap:
    """W of `W z + b`, from a leaf's value z (batch, …) to those of some slots, each (batch, …), the other leaves at 0.

    Runs take as many rows as the taped run had.
    """

    def __init__(self, tape: Tape, leaf: int, slots: Sequence[int], zeros: Mapping[int, Tensor]):
        self.slots = tuple(slots)
        self.calls = tape.slice(slots, leaf)
        self._leaf = tape.leaves[leaf]
        # Other leaves reach these calls through constants alone.
        with torch.no_grad():
            every = run(tape.slice(slots), zeros)
        made = {slot for call in self.calls for slot in call.returned} | {self._leaf}
        used = {slot for call in self.calls for slot in call.given} - made
        self._known = {slot: every[slot] for slot in used}
        self.offset = tuple(every[slot] for slot in slots)
        """b, (batch, …) each, with the other leaves at 0."""
        self._input = zeros[self._leaf].detach().clone().requires_grad_()
        with torch.enable_grad():
            self._outputs = self._run(self._input)

    @property
    def rows(self) -> int:
        """How many rows a run takes."""
        return len(self._input)

    @property
    def input_shape(self) -> torch.Size:
        """Of one row."""
        return self._input.shape[1:]

    @property
    def output_shapes(self) -> tuple[torch.Size, ...]:
        """Of one row, for each slot."""
        return tuple(b.shape[1:] for b in self.offset)

    def affine(self, z: Tensor) -> tuple[Tensor, ...]:
        """`W z + b`."""
        with torch.no_grad():
            return self._run(z)

    def product(self, d: Tensor) -> tuple[Tensor, ...]:
        """`W d`."""
        return tuple(value - b for value, b in zip(self.affine(d), self.offset, strict=True))

    def transposed(self, outputs: Sequence[Tensor]) -> Tensor:
        """`W' outputs`, (batch, …)."""
        return torch.autograd.grad(
            self._outputs, self._input, tuple(outputs), retain_graph=True, materialize_grads=True
        )[0]

    def columns(self, units: Tensor) -> Tensor:
        """`W units`, all outputs of a row in a row, for any number of `units` (k, …)."""
        return torch.cat(
            [torch.cat([y.flatten(1) for y in self.product(part)], 1)[:count] for part, count in self._batches(units)]
        )

    def matrix(self) -> Tensor:
        """W, (outputs, inputs), from the smaller number of products."""
        inputs, sizes = self.input_shape.numel(), [shape.numel() for shape in self.output_shapes]
        like = self._input
        if inputs <= sum(sizes):
            return self.columns(torch.eye(inputs, dtype=like.dtype, device=like.device).view(-1, *self.input_shape)).mT
        units = torch.eye(sum(sizes), dtype=like.dtype, device=like.device)
        rows = []
        for part, count in self._batches(units):
            pieces = [
                piece.reshape(-1, *shape) for piece, shape in zip(part.split(sizes, 1), self.output_shapes, strict=True)
            ]
            rows.append(self.transposed(pieces).flatten(1)[:count])
        return torch.cat(rows)

    def _run(self, z: Tensor) -> tuple[Tensor, ...]:
        values = run(self.calls, {**self._known, self._leaf: z})
        return tuple(values[slot] for slot in self.slots)

    def _batches(self, units: Tensor):
        for part in units.split(self.rows):
            short = self.rows - len(part)
            yield torch.cat([part, part.new_zeros(short, *part.shape[1:])]) if short else part, len(part)
