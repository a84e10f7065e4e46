"""The socket for methods, and what one is started with."""

from __future__ import annotations

import abc
import dataclasses
import math
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import Tensor

from gatewise.domains.balls import BALLS
from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.objectives.distance import Distance
from gatewise.problem import Evaluation, Iterate, Problem
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
    closed: Callable[[], Tensor] | None = None
    """Which rows the driver has closed by now, (batch,) bool: nothing that is found there is taken any more."""

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


def boundary_of(problem: Problem) -> Problem:
    """The problem whose objective is 0 on the boundary that nearest points lie on: the goal's, or the objective's
    where there is no goal.
    """
    return problem if problem.goal is None else dataclasses.replace(problem, objective=problem.goal)


def origin_of(problem: Problem, start: Start) -> Tensor:
    """What a point is to be near to, (batch, …): the center of a `Distance`, else where the method is started."""
    if not isinstance(problem.objective, Distance):
        return start.points
    return problem.objective.center.to(start.points).expand_as(start.points)


def norm_of(problem: Problem) -> float:
    """The norm that nearness is measured in: a `Distance`'s, else 2."""
    return problem.objective.p if isinstance(problem.objective, Distance) else 2


def steepest_of(problem: Problem, origin: Tensor, name: str) -> Callable[[Tensor], Tensor]:
    """The step of length 1 that goes farthest along a gradient: in a `Distance`'s norm, else in the set's own.

    Raises:
        UnsupportedProblem: a `Distance` with p = 1, whose steepest steps move one entry, which a box soon stops.
    """
    if not isinstance(problem.objective, Distance):
        return problem.domain.steepest
    if problem.objective.p == 1:
        raise UnsupportedProblem(f"{name} has no steps for a Distance with p=1, which a box would not stop; use fmn.")
    return BALLS[problem.objective.p](origin, 1.0).steepest


def require_euclidean(problem: Problem, name: str) -> None:
    """Raise UnsupportedProblem where nearness is measured in another norm than 2."""
    if norm_of(problem) != 2:
        raise UnsupportedProblem(
            f"{name} looks for points that are near in the 2-norm; for a Distance with p={norm_of(problem):g} use fmn."
        )


def visit(problem: Problem, here: Evaluation) -> Iterate:
    """What `boundary_of(problem)` evaluated, as a visited point of the problem itself."""
    assert here.output is not None
    return Iterate(here.x, problem.measure(here.x, here.output), here.output)
