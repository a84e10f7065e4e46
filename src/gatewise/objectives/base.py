"""The socket for objectives."""

from __future__ import annotations

import abc
import dataclasses
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from gatewise.errors import UnsupportedProblem


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

    def of_rows(self, rows: Tensor, x: Tensor, y: Tensor) -> Objective:
        """The objective for the rows `rows` (k,) int64 of inputs shaped as `x` (batch, …) with outputs as `y`.

        Raises:
            UnsupportedProblem: it holds data of which it does not say what belongs to a row. Labels (batch,) do.
        """
        held = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        labels = {name: data for name, data in held.items() if isinstance(data, Tensor)}
        if any(data.is_floating_point() or data.shape != x.shape[:1] for data in labels.values()):
            raise UnsupportedProblem(
                f"{type(self).__name__} cannot be taken apart by rows; give it a method `of_rows`."
            )
        return dataclasses.replace(self, **{name: data[rows] for name, data in labels.items()})  # type: ignore[type-var]

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

    def of_rows(self, rows: Tensor, x: Tensor, y: Tensor) -> Negative:
        """Minus the other's part.

        Raises:
            UnsupportedProblem: the other is a plain function, which cannot be taken apart.
        """
        return Negative(part_of(self.objective, rows, x, y))


def part_of(objective: ObjectiveFunction, rows: Tensor, x: Tensor, y: Tensor) -> Objective:
    """`objective.of_rows`, for any objective.

    Raises:
        UnsupportedProblem: it has none.
    """
    if not isinstance(objective, Objective):
        raise UnsupportedProblem("A plain function cannot be taken apart by rows; make it an Objective.")
    return objective.of_rows(rows, x, y)


@dataclass(frozen=True)
class Sum(Objective):
    """Several objectives added: a mismatch and what is known beforehand. Weights belong to the terms."""

    terms: tuple[ObjectiveFunction, ...]

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """The sum of each row's values, (batch,)."""
        return torch.stack([term(x, y) for term in self.terms]).sum(0)
