"""The calls between a network's gates, kept so that each affine block can be run alone.

A run with every gate's output put in its place (`Split`) computes all pre-activations, each from some of the leaves:
the input and the gates' outputs. The tape keeps that run's calls with the leaves that each depends on; a block is
the calls from one leaf to the pre-activations that it feeds. The network's parameters stay where they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from gatewise.network.operations import operation_name

CONSTANT = -1
"""The slot of whatever depends on no leaf."""
_IDENTITIES = frozenset(("clone", "contiguous", "dropout", "dropout1d", "dropout2d"))


@dataclass(frozen=True)
class _Slot:
    number: int


@dataclass(frozen=True, eq=False)
class Call:
    """One call: what it was given, with slots for what depends on leaves, and the slots of what it returned."""

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]
    given: frozenset[int]
    returned: tuple[int, ...]
    overwrites: bool

    def tensors(self) -> list[Tensor]:
        """The tensors among its arguments that depend on no leaf: parameters and constants."""
        return [entry for entry in (*self.arguments, *self.options.values()) if isinstance(entry, Tensor)]

    def run(self, values: Mapping[int, Tensor]) -> tuple[Tensor, ...]:
        """The same call with other values in its slots; what it would overwrite is copied first."""
        arguments, options = _mapped((self.arguments, dict(self.options)), _Slot, lambda slot: values[slot.number])
        if self.overwrites:
            arguments = (arguments[0].clone(), *arguments[1:])
        result = self.function(*arguments, **options)
        return (result,) if isinstance(result, Tensor) else tuple(result)


class Tape(TorchFunctionMode):
    """Records while it is active. `leaf` names a tensor as a leaf; leaves are counted from 0."""

    def __init__(self):
        super().__init__()
        self.calls: list[Call] = []
        self.leaves: list[int] = []
        self._number: dict[int, int] = {}
        self._held: list[Tensor] = []  # a tensor that is gone could give its identity to another
        self._depends: list[frozenset[int]] = []

    def leaf(self, tensor: Tensor) -> Tensor:
        """`tensor`, from here on a leaf of its own."""
        self.leaves.append(self._name(tensor, frozenset((len(self.leaves),))))
        return tensor

    def slot(self, tensor: Tensor) -> int:
        """The number of a tensor that depends on leaves; CONSTANT of any other."""
        return self._number.get(id(tensor), CONSTANT)

    def depends(self, slot: int) -> frozenset[int]:
        """The leaves that a slot depends on."""
        return frozenset() if slot == CONSTANT else self._depends[slot]

    def slice(self, slots: Sequence[int], leaf: int | None = None) -> list[Call]:
        """The calls that make `slots`, in order; with `leaf`, those of them that depend on it."""
        wanted, needed = set(slots), []
        for index in range(len(self.calls) - 1, -1, -1):
            call = self.calls[index]
            if wanted.isdisjoint(call.returned):
                continue
            wanted |= call.given
            if leaf is None or any(leaf in self._depends[slot] for slot in call.returned):
                needed.append(call)
        return needed[::-1]

    def is_leaf(self, slot: int, leaf: int) -> bool:
        """Whether a slot is a leaf as it is, or a copy of it."""
        whole = self._depends[slot] == {leaf}
        return whole and all(call.name in _IDENTITIES for call in self.slice([slot], leaf))

    def __torch_function__(self, func, types, args=(), kwargs=None):
        options = kwargs or {}
        given: set[int] = set()

        def noted(tensor: Tensor) -> Tensor | _Slot:
            if (number := self._number.get(id(tensor))) is None:
                return tensor
            given.add(number)
            return _Slot(number)

        arguments, named = _mapped((args, options), Tensor, noted)
        result = func(*args, **options)
        several = isinstance(result, tuple | list)
        results = [result] if isinstance(result, Tensor) else list(result) if several else []
        if not given or not results or not all(isinstance(entry, Tensor) for entry in results):
            return result
        name, _ = operation_name(func)
        overwrites = any(result is entry for entry in args[:1])
        if name == "copy" and overwrites and result.shape == args[1].shape:
            # What was there before does not matter any more.
            arguments, named, overwrites, name, func = arguments[1:2], {}, False, "clone", torch.clone
            given = {entry.number for entry in arguments if isinstance(entry, _Slot)}
        leaves = frozenset().union(*(self._depends[number] for number in given))
        returned = tuple(self._name(entry, leaves) for entry in results)
        self.calls.append(Call(name, func, arguments, named, frozenset(given), returned, overwrites))
        return result

    def _name(self, tensor: Tensor, leaves: frozenset[int]) -> int:
        number = self._number[id(tensor)] = len(self._depends)
        self._held.append(tensor)
        self._depends.append(leaves)
        return number

    def release(self) -> None:
        """Forget the run's own tensors, when no more is to be recorded."""
        self._held.clear()
        self._number.clear()


def run(calls: Sequence[Call], values: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """The values of all slots after `calls`, from those of the leaves (and of whatever else they use)."""
    known = dict(values)
    for call in calls:
        known.update(zip(call.returned, call.run(known), strict=True))
    return known


def _mapped(entry: Any, kind: type, change: Callable[[Any], Any]) -> Any:
    """`entry` with `change` applied to everything of a kind in its tuples, lists and dicts."""
    if isinstance(entry, kind):
        return change(entry)
    if type(entry) in (tuple, list):
        return type(entry)(_mapped(part, kind, change) for part in entry)
    if isinstance(entry, dict):
        return {key: _mapped(part, kind, change) for key, part in entry.items()}
    return entry
