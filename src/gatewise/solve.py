"""The one driver: best point so far, budget, clock, stop rule, counts, history, final check. Methods only walk."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.methods.base import Method, Start, Steps
from gatewise.objectives.base import Negative
from gatewise.objectives.distance import Distance
from gatewise.problem import Best, Iterate, Problem
from gatewise.result import Result, Status
from gatewise.streams import RowStreams


@dataclass(eq=False)
class Standing(Best):
    """How the run stands after a step: what stop rules and callbacks see. Tensors are the driver's own: do not write
    to them.

    `x` (batch, …) best points so far, `value` (batch,) of the objective there, `goal_met` (batch,) bool, `done`
    (batch,) bool rows that the stop rule has closed, `found_by` which member of a method made of others found each
    point, `step` from 0, `backwards_per_row` spent so far, `seconds` since the start.
    """

    done: Tensor
    found_by: list[str]
    step: int = 0
    backwards_per_row: float = 0.0
    seconds: float = 0.0


StopRule = Callable[[Standing], Tensor]
"""Says which rows are done, (batch,) bool. A row that is done keeps its point; the run ends when all are."""


def goal_met(standing: Standing) -> Tensor:
    """Stop rule: a row is done at its first point that meets the goal. The default where success is counted."""
    return standing.goal_met


def never(standing: Standing) -> Tensor:
    """Stop rule: no row is done before the budget is. The default for distances and where there is no goal."""
    return torch.zeros_like(standing.goal_met)


def minimize(
    problem: Problem,
    method: Method,
    start: Tensor,
    *,
    budget: int | None = None,
    seconds: float | None = None,
    stop: StopRule | None = None,
    seed: int = 0,
    rows: Sequence[int] | None = None,
    callback: Callable[[Standing], object] | None = None,
    progress: bool = True,
) -> Result:
    """Let `method` search for small values of the problem's objective, from `start`, and keep the best feasible point
    of each row.

    Args:
        problem: network, domain, objective and goal.
        method: any method or combinator.
        start: (batch, …) float32 or float64, on the network's device; projected onto the domain first.
        budget: backward passes a row, whatever run of the network they go through; None leaves it to the method. An
            objective that does not look at the network's output costs none.
        seconds: wall-clock limit, looked at after every step.
        stop: `goal_met`, `never`, or your own. By default `goal_met`, but `never` without a goal or for a `Distance`.
        seed: of the random streams. The same seed gives the same answer.
        rows: names of the rows, for their random streams (default 0, 1, …): a row draws the same numbers in any batch.
        callback: called after every step; a true return value ends the run.
        progress: show a progress bar where standard error is a terminal.

    Raises:
        InvalidInput: a start, budget or seconds that cannot be used.
    """
    began = time.perf_counter()
    network = problem.network
    _check(start, budget, seconds, rows)
    stop = stop or (never if problem.goal is None or isinstance(problem.objective, Distance) else goal_met)
    points = problem.domain.project(start.detach())
    none = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    standing = Standing(
        points, torch.full_like(none, torch.inf, dtype=points.dtype), none, none, [method.name] * len(points)
    )
    streams = RowStreams(seed, range(len(points)) if rows is None else rows)
    deadline = math.inf if seconds is None else began + seconds
    begin = Start(points, budget, streams, deadline, closed=lambda: standing.done)
    forwards, backwards = network.meter.forwards, network.meter.backwards
    dearest, announced, spent = method.backwards_per_step * len(points), 0, 0  # backward passes, all rows together
    moved: Tensor | None = None
    history: list[Tensor] = []
    told: list[Mapping[str, Tensor]] = []
    last = standing.value
    ending = Status.FINISHED
    with (
        network.borrowed(),
        contextlib.closing(method.iterate(problem, begin)) as walk,
        _bar(progress) as bar,
    ):
        task = bar.add_task(method.name, total=budget)
        while True:
            network.meter.forget_gradients()
            iterate = _next(walk, points, first=not history)
            if iterate is None:
                break
            last = torch.where(standing.done, last, _keep_best(problem, standing, iterate))
            history.append(standing.value.clone())
            told.append(iterate.diagnostics)
            moved = moved if network.meter.moved is None else network.meter.moved
            before, spent = spent, network.meter.backwards - backwards
            if spent - before > announced:
                dearest = max(dearest, spent - before)
            announced = iterate.ahead
            standing.step, standing.backwards_per_row = len(history), spent / len(points)
            standing.seconds = time.perf_counter() - began
            standing.done = standing.done | stop(standing)
            bar.update(task, completed=standing.backwards_per_row)
            if bool(standing.done.all()) or (callback is not None and callback(standing)):
                ending = Status.STOPPED
                break
            if budget is not None and spent + max(dearest, announced) > budget * len(points):
                ending = Status.BUDGET_SPENT
                break
            if seconds is not None and standing.seconds >= seconds:
                ending = Status.TIME_SPENT
                break
        x, value, met, violation = _check_afresh(problem, standing)
    return Result(
        x=x,
        value=value,
        goal_met=met,
        violation=violation,
        status=_statuses(standing, met, moved, ending),
        steps=len(history),
        forwards_per_row=(network.meter.forwards - forwards) / len(points),
        backwards_per_row=(network.meter.backwards - backwards) / len(points),
        seconds=time.perf_counter() - began,
        history=torch.stack(history) if history else standing.value.new_empty(0, len(points)),
        last_value=last,
        found_by=tuple(standing.found_by),
        diagnostics=_by_step(told, standing.value),
    )


def maximize(problem: Problem, method: Method, start: Tensor, **options: object) -> Result:
    """`minimize` with the objective's sign turned, and turned back in the result: the one door where it turns.

    Takes the same options. `history` then never falls.
    """
    turned = dataclasses.replace(problem, objective=Negative(problem.objective))
    result = minimize(turned, method, start, **options)  # type: ignore[arg-type]
    return dataclasses.replace(result, value=-result.value, history=-result.history, last_value=-result.last_value)


def _check(start: Tensor, budget: int | None, seconds: float | None, rows: Sequence[int] | None) -> None:
    if torch.is_inference_mode_enabled():
        raise InvalidInput("Under torch.inference_mode() there are no gradients; leave it, or use torch.no_grad().")
    if start.dtype not in (torch.float32, torch.float64):
        raise InvalidInput(
            f"The start must be float32 or float64, got {start.dtype}; convert it and the network to the same."
        )
    if start.ndim < 2 or start.numel() == 0:
        raise InvalidInput(
            f"The start must be a non-empty batch (batch, …), got shape {tuple(start.shape)}; add a batch axis."
        )
    if not bool(torch.isfinite(start).all()):
        raise InvalidInput("The start holds NaN or infinite values; replace them first.")
    if budget is not None and not (isinstance(budget, int) and budget >= 1):
        raise InvalidInput(f"The budget must be a whole number of backward passes a row, at least 1, got {budget}.")
    if seconds is not None and not seconds > 0:
        raise InvalidInput(f"The time limit must be a positive number of seconds, got {seconds}.")
    if rows is not None and len(rows) != len(start):
        raise InvalidInput(f"There are {len(rows)} row names for {len(start)} rows; give one a row.")


def _next(walk: Steps, points: Tensor, first: bool) -> Iterate | None:
    """The method's next point; what PyTorch says of a first point that does not fit becomes a sentence."""
    try:
        return next(walk, None)
    except RuntimeError as error:
        if not first:
            raise
        raise InvalidInput(
            f"The network cannot be run on a start of shape {tuple(points.shape)}, {points.dtype} on {points.device}: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _keep_best(problem: Problem, standing: Standing, iterate: Iterate) -> Tensor:
    """Take over what is better in the rows that are open. The objective's values at the iterate, (batch,)."""
    value, better = standing.take(problem, iterate, closed=standing.done)
    if iterate.by:
        for row in better.nonzero().flatten().tolist():
            standing.found_by[row] = iterate.by
    return value


def _by_step(told: list[Mapping[str, Tensor]], like: Tensor) -> dict[str, Tensor]:
    """What the method told of its steps, (steps, batch) by name."""
    names = dict.fromkeys(name for step in told for name in step)
    nothing = torch.full_like(like, torch.nan)
    return {name: torch.stack([step.get(name, nothing) for step in told]) for name in names}


def _check_afresh(problem: Problem, standing: Standing) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Point, value, goal and violation from a plain pass of the user's module: nothing that a method said is taken
    over.
    """
    with torch.no_grad():
        x = standing.x if not bool(problem.domain.violation(standing.x).any()) else problem.domain.project(standing.x)
        output = problem.network.plain(x)
        met = torch.zeros_like(standing.goal_met) if problem.goal is None else problem.goal(x, output) <= 0
        return x, problem.measure(x, output), met, problem.domain.violation(x)


def _statuses(standing: Standing, met: Tensor, moved: Tensor | None, ending: Status) -> tuple[Status, ...]:
    still = torch.zeros_like(met) if moved is None or moved.shape != met.shape else ~moved

    def status(row: int) -> Status:
        if met[row]:
            return Status.GOAL_MET
        if standing.goal_met[row]:
            return Status.NOT_REPRODUCED
        if not torch.isfinite(standing.value[row]):
            return Status.NOT_FINITE
        return Status.ZERO_GRADIENT if still[row] else ending

    return tuple(status(row) for row in range(len(met)))


def _bar(shown: bool) -> Progress:
    console = Console(stderr=True)
    return Progress(console=console, transient=True, disable=not (shown and console.is_terminal))
