"""The part of a run before a gate, kept so that another run at the same input goes on from there.

Two runs of one module at one input make the same calls until the first gate that they treat differently. The second
run is handed the first one's results, call by call, graph included: what lies before the gate is computed, and
differentiated, once. Only a result that somebody still holds when the gate comes can be used after it, so only those
are kept; for the others an empty tensor of the same shape stands in.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor


class Prefix:
    """The calls that a run makes before it meets gate `gate`, in order, with those results that can be used later."""

    def __init__(self, gate: int):
        self.gate = gate
        self.is_open = True
        self._calls: list[tuple[str, Any, int]] = []
        self._versions: list[int] = []
        self._entering: tuple[Tensor, Tensor] | None = None

    def remember(self, name: str, result: Any, gates_met: int) -> None:
        """Note one call, and the number of gates met by then; its tensor is watched, not kept alive."""
        self._calls.append((name, _Glimpse(result) if isinstance(result, Tensor) else result, gates_met))

    def about_to_overwrite(self, tensor: Tensor, copy: Tensor) -> None:
        """A gate works in place on `tensor`, of which `copy` is a copy."""
        self._entering = tensor, copy

    def close(self) -> None:
        """The gate has come: hold what is still there."""
        self.is_open = False
        self._calls = [
            (name, result.seen() if isinstance(result, _Glimpse) else result, gates_met)
            for name, result, gates_met in self._calls
        ]
        self._versions = [_version(result) for _, result, _ in self._calls]

    def calls(self) -> list[tuple[str, Any, int]]:
        """The calls before the gate with their results; none where a result was overwritten since, so that all has to
        be run again. The tensor on which the gate itself works in place is handed out as it was before.
        """
        entering, before = self._entering or (None, None)
        before = None if before is None else before.clone()
        told = []
        for (name, result, gates_met), version in zip(self._calls, self._versions, strict=True):
            if _version(result) != version:
                if result is not entering:
                    return []
                result = before
            told.append((name, result.stand_in() if isinstance(result, _Glimpse) else result, gates_met))
        return told


class _Glimpse:
    """A tensor that is not kept alive."""

    def __init__(self, tensor: Tensor):
        self._tensor, self._shape, self._dtype = weakref.ref(tensor), tensor.shape, tensor.dtype

    def seen(self) -> Tensor | _Glimpse:
        """The tensor where somebody holds it, or else this."""
        tensor = self._tensor()
        return self if tensor is None else tensor

    def stand_in(self) -> Tensor:
        """A tensor of its shape without any content."""
        return torch.empty(self._shape, dtype=self._dtype, device="meta")


def _version(result: Any) -> int:
    """How often the tensors of a result have been written to; views count with what they look at."""
    if isinstance(result, Tensor):
        return result._version
    return sum(map(_version, result)) if isinstance(result, tuple | list) else 0
