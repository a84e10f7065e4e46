"""One node of an ONNX graph, and one run of it: its inputs, and which of them hold the batch on axis 0."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from torch import Tensor

from gatewise.errors import InvalidInput


@dataclass(frozen=True)
class Node:
    """One node of the graph; `inputs` has "" where an optional input is left out."""

    operation: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.operation} node {self.name or ', '.join(self.outputs)!r}"


@dataclass(frozen=True)
class Call:
    """One run of a node.

    `values` are its inputs (None where left out) and `by_row` says which of them have the batch as axis 0. `stated` is
    the batch size that the file is written for, None where it is left open. `opset` is the file's version of the
    operations.
    """

    node: Node
    values: tuple[Tensor | None, ...]
    by_row: tuple[bool, ...]
    stated: int | None
    opset: int

    def refuse(self, why: str) -> NoReturn:
        """Raise InvalidInput with the node's name."""
        raise InvalidInput(f"The ONNX {self.node} {why}.")

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute, or the operation's default for it."""
        return self.node.attributes.get(name, default)

    def has(self, position: int) -> bool:
        """Whether the optional input is given."""
        return position < len(self.values) and self.values[position] is not None

    def value(self, position: int = 0) -> Tensor:
        """An input that has to be given."""
        value = self.values[position] if position < len(self.values) else None
        return self.refuse(f"lacks its input {position + 1}") if value is None else value

    def constant(self, position: int) -> Tensor:
        """An input that has to be given and must not depend on the network's input."""
        if position < len(self.by_row) and self.by_row[position]:
            self.refuse(f"computes its input {position + 1} from the network's input, which gatewise does not run")
        return self.value(position)

    def ints(self, position: int, attribute: str) -> list[int] | None:
        """A list that newer opsets take as an input and older ones as an attribute."""
        if self.has(position):
            return [int(entry) for entry in self.constant(position).flatten().tolist()]
        listed = self.attribute(attribute)
        return None if listed is None else list(listed)

    def number(self, position: int, attribute: str, default: float | None = None) -> float | None:
        """A number that newer opsets take as an input and older ones as an attribute."""
        if self.has(position):
            return self.constant(position).item()
        return self.attribute(attribute, default)

    def shape(self) -> list[int]:
        """The shape of input 0 in the batch that the file is written for."""
        x = self.value()
        rows = x.shape[:1] if self.stated is None or not self.by_row[0] else (self.stated,)
        return [*rows, *x.shape[1:]]

    def axis(self, axis: int, length: int) -> int:
        """`axis` counted from the front among `length` axes; never the batch axis."""
        axis = axis + length if axis < 0 else axis
        if axis == 0 and self.by_row[0]:
            self.refuse("works along the batch axis, so that rows would influence each other")
        return axis

    def reshaped(self, shape: Sequence[int]) -> Tensor:
        """Input 0 in a shape that is written for the stated batch."""
        x = self.value()
        if not self.by_row[0]:
            return x.reshape(tuple(shape))
        if not shape or shape[0] != self.shape()[0] or math.prod(shape) != math.prod(self.shape()):
            self.refuse(
                f"turns {tuple(self.shape())} into {tuple(shape)}, so that axis 0 is no longer the batch; "
                "export the network with a dynamic batch axis"
            )
        return x.reshape(len(x), *shape[1:])

    def aligned(self) -> list[Tensor]:
        """All inputs, ready for element by element arithmetic with the batch on axis 0."""
        values = [self.value(position) for position in range(len(self.values))]
        if not any(self.by_row):
            return values
        axes = max(value.ndim for value in values)
        return [self._align(value, by_row, axes) for value, by_row in zip(values, self.by_row, strict=True)]

    def _align(self, value: Tensor, by_row: bool, axes: int) -> Tensor:
        if by_row and value.ndim < axes:
            # Broadcasting adds axes in front: with one stated row they may as well come after the batch axis.
            if self.stated != 1:
                self.refuse("moves the batch axis by broadcasting; export the network with a fixed batch of 1")
            return value.reshape(len(value), *[1] * (axes - value.ndim), *value.shape[1:])
        if not by_row and value.ndim == axes and axes:
            self.require_row(value)
        return value

    def require_row(self, value: Tensor) -> None:
        """Refuse a constant that has entries of its own for each row of the file's batch."""
        rows = next(len(x) for x, by_row in zip(self.values, self.by_row, strict=True) if by_row and x is not None)
        # Where the batch is left open, constants made for as many rows as there are (zeros, say) are meant.
        if len(value) != 1 and not (self.stated is None and len(value) == rows):
            self.refuse("combines the rows with a constant that has its own entry for each of them")
