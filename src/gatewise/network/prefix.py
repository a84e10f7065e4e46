"""The part of a run before a gate, kept so that another run at the same input goes on from there.

Two runs of one module at one input make the same calls until the first gate that they treat differently. The second
run is handed the first one's results, call by call, graph included: what lies before the gate is computed, and
differentiated, once.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor


class Prefix:
    """The calls that a run makes before it meets gate `gate`, in order, with their results."""

    def __init__(self, gate: int):
        self.gate = gate
        self._calls: list[tuple[str, Any, int]] = []
        self._versions: list[int] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the gate is still to come."""
        return self._versions is None

    def remember(self, name: str, result: Any, gates_met: int) -> None:
        """Keep one call's result and the number of gates met by then."""
        self._calls.append((name, result, gates_met))

    def close(self) -> None:
        """The gate has come: from here on, results that are overwritten in place no longer serve."""
        self._versions = [_version(result) for _, result, _ in self._calls]

    def calls(self) -> list[tuple[str, Any, int]]:
        """The calls up to the first whose result was overwritten since the gate came; the rest has to be run again."""
        overwritten = {
            id(result)
            for (_, result, _), version in zip(self._calls, self._versions or [], strict=False)
            if _version(result) != version
        }
        for position, (_, result, _) in enumerate(self._calls):
            if id(result) in overwritten:
                return self._calls[:position]
        return self._calls


def _version(result: Any) -> int:
    """How often the tensors of a result have been written to; views count with what they look at."""
    if isinstance(result, Tensor):
        return result._version
    return sum(map(_version, result)) if isinstance(result, tuple | list) else 0
