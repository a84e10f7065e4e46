"""The socket for objectives."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class ObjectiveFunction(Protocol):
    """Anything called as `(x, y) -> (batch,)`: x the input (batch, …), y the network's output. Small is good."""

    def __call__(self, x: Tensor, y: Tensor, /) -> Tensor:
        """The value of each row, (batch,)."""
        ...


class Objective(abc.ABC):
    """Base of the shipped objectives: frozen data, so that exact methods can see the form."""

    @abc.abstractmethod
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """The value of each row, (batch,), from input `x` (batch, …) and output `y` (batch, …)."""

    def __neg__(self) -> Negative:
        """The same objective with its sign turned."""
        return Negative(self)


@dataclass(frozen=True)
class Negative(Objective):
    """Minus another objective."""

    objective: ObjectiveFunction

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Minus the value of each row, (batch,)."""
        return -self.objective(x, y)
