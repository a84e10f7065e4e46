"""The socket for methods, and what one is started with."""

from __future__ import annotations

import abc
import dataclasses
import math
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.problem import Iterate, Problem
from gatewise.streams import RowStreams

Steps = Generator[Iterate, None, None]


@dataclass(frozen=True, eq=False)
class Start:
    """What a method begins with: feasible `points` (batch, …), the `budget` of backward passes a row that its
    schedules scale to (None: open), one random stream a row, and when the driver will end the run (a reading of
    `time.perf_counter`).
    """

    points: Tensor
    budget: int | None
    streams: RowStreams
    deadline: float = math.inf

    def steps(self, wanted: int | None, cost: int = 1) -> int:
        """How many steps lie ahead: as many as the method's own setting says, but no more than the budget pays for at
        `cost` backward passes a step; 100 where neither says.
        """
        paid = None if self.budget is None else max(1, self.budget // cost)
        if wanted is None:
            return 100 if paid is None else paid
        return wanted if paid is None else min(wanted, paid)

    def seconds_left(self) -> float:
        """Until the deadline; infinite where there is none."""
        return self.deadline - time.perf_counter()


@dataclass(frozen=True, kw_only=True)
class Method(abc.ABC):
    """Frozen settings and one loop. A method holds no problem and no tensor, counts nothing and keeps no best point: it
    yields each point it visits, *before* it asks for the gradient there, and the driver does the rest.
    """

    name: ClassVar[str]
    """What the command line calls it."""
    presets: ClassVar[Mapping[str, Mapping[str, object]]] = {}
    """Published settings by name."""

    def __post_init__(self):
        # No setting of any method means anything below 0, NaN or infinite; some methods ask for more.
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float) and not 0 <= value < math.inf:
                raise InvalidInput(f"{field.name} must be a finite number, at least 0, got {value}.")

    @classmethod
    def preset(cls, name: str, **changes: object) -> Self:
        """The published settings called `name`, with `changes` on top; raises InvalidInput where there are none."""
        if name not in cls.presets:
            raise InvalidInput(f"{cls.name} has no preset {name!r}; there are: {', '.join(cls.presets) or 'none'}.")
        return cls(**{**cls.presets[name], **changes})

    @property
    def backwards_per_step(self) -> int:
        """The backward passes a row between two yields, at most, but for steps that the iterate before them announced
        (`Iterate.ahead`): the driver begins no step that the budget cannot pay for.
        """
        return 1

    @abc.abstractmethod
    def iterate(self, problem: Problem, start: Start) -> Steps:
        """Yield each visited point; feasible, detached. Rows must not influence one another."""


def cosine_decay(step: int, steps: int) -> float:
    """A schedule from 1 to 0: half a period of the cosine (Loshchilov & Hutter 2017)."""
    return (1 + math.cos(math.pi * step / steps)) / 2


def require_positive(**settings: float | None) -> None:
    """Raise InvalidInput naming the first setting that is not a positive finite number; None passes."""
    for name, value in settings.items():
        if value is not None and not 0 < value < math.inf:
            raise InvalidInput(f"{name} must be a positive number, got {value}.")
