"""Signs that an attack says less of the network than it seems to: what was seen, and the remedy.

Sources: Athalye, Carlini & Wagner, "Obfuscated gradients give a false sense of security" (ICML 2018, arXiv:1802.00420);
Carlini et al., "On evaluating adversarial robustness" (2019, arXiv:1902.06705); Pintor et al., "Indicators of attack
failure" (NeurIPS 2022, arXiv:2106.09947).

===============================  =====================================================================================
random network                   two plain passes at the same points differ by more than rounding
zero gradient                    the objective's gradient at the points is exactly 0
saturated loss                   the objective is minus a cross-entropy, and that is exactly 0, or the label's softmax
                                 exactly 1
masked gradient                  at each of three short lengths (two, where rounding hides one), the steepest step
                                 lowers the objective by less than a tenth of what the gradient predicts, or a random
                                 step as long lowers it more than twice as far
last far from best               the last point visited lost more than half of what the best one had gained
black box beats white box        a method without gradients broke rows that no method with gradients broke
===============================  =====================================================================================

A sign is no proof: a network can be robust and show one, or be broken and show none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gatewise.geometry import per_row
from gatewise.objectives import CrossEntropy, Negative
from gatewise.objectives.base import ObjectiveFunction
from gatewise.problem import Problem, input_gradient
from gatewise.result import Result, Status
from gatewise.streams import RowStreams

FindingName = Literal[
    "random network",
    "zero gradient",
    "saturated loss",
    "masked gradient",
    "last far from best",
    "black box beats white box",
]

SENTENCES: Mapping[FindingName, str] = {
    "random network": (
        "Two plain passes at the same points differ, so no success is sure to be met again: take the randomness out "
        "of the forward pass, or attack the mean over many draws of it."
    ),
    "zero gradient": (
        "The gradient at the clean points is exactly 0, so no gradient method moves from there: give rounding, "
        "thresholds and detached tensors the gradient of the identity, take margin or dlr for a loss, or search "
        "without gradients (square)."
    ),
    "saturated loss": (
        "The cross-entropy is exactly 0 at the clean points, to rounding, and tells nothing of the way: raise the "
        "margin or dlr instead."
    ),
    "masked gradient": (
        "Short steps along the gradient do not do what it predicts, or random ones do more: look for rounding, noise "
        "or a backward pass of its own inside the network, differentiate a smooth stand-in for it, and check with "
        "square."
    ),
    "last far from best": (
        "The run ended at points far worse than the best that it had visited, so its steps were too long to settle: "
        "take a smaller step_size, a falling schedule, or apgd."
    ),
    "black box beats white box": (
        "A method without gradients broke rows that no gradient method broke, so the gradients are masked or their "
        "methods too weak: give those more budget, restarts or another loss before calling a row robust."
    ),
}
"""What was seen and the remedy, for each finding."""

_LENGTHS = (1e-3, 1e-2, 1e-1)  # of the steps that try a gradient, in units of the set's size
_JUDGED = 2  # lengths that must be long enough to tell from rounding
_KEPT = 0.1  # of the predicted descent: less is a gross disagreement
_NOISE = 2.0  # times the descent of the steepest step: more is too much for a random one
_ROUNDING = 100  # units in the last place that a network's passes may be off
_LOST = 0.5  # of the gain of the best point: more is far from it


@dataclass(frozen=True)
class Finding:
    """One sign of failure: its fixed `name`, the positions of the `rows` that show it (none where it is of the whole
    network), and a `sentence` with the remedy.
    """

    name: FindingName
    rows: tuple[int, ...]
    sentence: str


def diagnose(
    problem: Problem,
    points: Tensor,
    result: Result | None = None,
    *,
    settles: bool = True,
    rows: Sequence[int] | None = None,
    seed: int = 0,
) -> tuple[Finding, ...]:
    """Look for signs of failure at the clean points, and in the run of one method from there.

    Takes eleven plain forward passes a row and one backward pass; the network's meter counts none of them. An
    objective that does not look at the network's output (a `Distance`) is replaced by the goal.

    Args:
        problem: what was minimised.
        points: (batch, …) where the run began, projected onto the domain first.
        result: what `minimize` made of it; None: look at the network alone.
        settles: whether the method's last point should be about its best, as where one walk goes down by steps that
            shrink, or are small. Give False for restarts, kicks and random candidates: their last point says nothing.
        rows: names of the rows, for the random streams of the noise (default 0, 1, …).
        seed: of that noise.

    Returns:
        Findings in the order of the table above; none where all is well.

    Raises:
        InvalidInput: an objective that does not return one value a row.
    """
    names = range(len(points)) if rows is None else rows
    with problem.network.borrowed():
        found = _of_network(problem, problem.domain.project(points.detach()), RowStreams(seed, names))
    if result is not None and settles:
        found |= {"last far from best": unsettled(result)}
    return tuple(finding(name, seen) for name, seen in found.items() if bool(seen.any()))


def compare(results: Mapping[str, Result]) -> tuple[Finding, ...]:
    """Look at several methods' results on the same rows; those that took no backward pass count as black boxes."""
    kinds: dict[bool, list[Tensor]] = {True: [], False: []}
    for result in results.values():
        kinds[result.backwards_per_row == 0].append(result.goal_met)
    return black_box_beats_white_box(kinds[True], kinds[False])


def black_box_beats_white_box(black: Sequence[Tensor], white: Sequence[Tensor]) -> tuple[Finding, ...]:
    """The finding of that name, if rows show it: which rows each method without gradients broke, and each with them,
    (rows,) bool. Without one of either kind there is nothing to compare.
    """
    if not black or not white:
        return ()
    only = torch.stack(list(black)).any(0) & ~torch.stack(list(white)).any(0)
    return (finding("black box beats white box", only),) if bool(only.any()) else ()


def unsettled(result: Result) -> Tensor:
    """Which rows of a run of `minimize` lost, at the last point, more than half of what the best one had gained on the
    first, (batch,) bool. Only rows that were not broken and whose run came to its own end: at a success or a clock the
    last point is any point.
    """
    ended = (Status.BUDGET_SPENT, Status.FINISHED, Status.ZERO_GRADIENT)
    whole = torch.tensor([status in ended for status in result.status], device=result.value.device)
    if len(result.history) == 0:
        return torch.zeros_like(whole)
    lost, gained = result.last_value - result.value, result.history[0] - result.value
    return whole & (lost > _LOST * gained) & (lost > 1e-3 * (1 + result.value.abs()))


def finding(name: FindingName, seen: Tensor) -> Finding:
    """The finding `name` of the rows where `seen` (rows,) is true, or of the whole network."""
    rows = () if name == "random network" else tuple(seen.nonzero().flatten().tolist())
    return Finding(name, rows, SENTENCES[name])


def _of_network(problem: Problem, x: Tensor, streams: RowStreams) -> dict[FindingName, Tensor]:
    """Which rows show each sign at the points `x`, (batch,) bool each."""
    network = problem.network
    leaf = x.clone().requires_grad_()
    with torch.enable_grad():
        output = network.plain(leaf.clone())  # a module may overwrite its input
        told = output.detach().requires_grad_()
    rounding = _ROUNDING * torch.finfo(told.dtype).eps
    with torch.no_grad():
        apart = (network.plain(x.clone()) - told).flatten(1).abs().amax(1)
        random = apart > rounding * told.flatten(1).abs().amax(1)
    found: dict[FindingName, Tensor] = {"random network": random}
    objective = _of_output(problem, leaf, told)
    if objective is None:
        return found
    with torch.enable_grad():
        gradient = input_gradient(objective(leaf, output), leaf)
        of_output = objective(x, told)
        # What the rounding of the outputs does to the value, to first order.
        felt = (input_gradient(of_output, told) * told.detach()).flatten(1).abs().sum(1)
    value = of_output.detach()
    found["zero gradient"] = still = (gradient.flatten(1) == 0).all(1)
    found["saturated loss"] = saturated = _saturated(objective, told.detach(), value)
    if not bool(random.any()):
        with torch.no_grad():
            blur = rounding * (1 + value.abs() + felt)
            masked = _masked(problem, objective, x, value, gradient, blur, streams)
        found["masked gradient"] = masked & ~still & ~saturated
    return found


def _of_output(problem: Problem, x: Tensor, output: Tensor) -> ObjectiveFunction | None:
    """The objective, or else the goal, if it looks at the `output` (batch, …), a leaf that wants a gradient."""
    with torch.enable_grad():
        problem.measure(x, output)
        for objective in (problem.objective, problem.goal):
            if objective is None:
                continue
            total = objective(x, output).sum()
            if total.requires_grad and torch.autograd.grad(total, output, allow_unused=True)[0] is not None:
                return objective
    return None


def _saturated(objective: ObjectiveFunction, output: Tensor, value: Tensor) -> Tensor:
    """Where minus a cross-entropy cannot be told from 0: a cross-entropy that falls to 0 has done its work."""
    if not (isinstance(objective, Negative) and isinstance(objective.objective, CrossEntropy)):
        return torch.zeros_like(value, dtype=torch.bool)
    share = output.softmax(1).gather(1, objective.objective.labels[:, None])[:, 0]
    return (value == 0) | (share == 1)


def _masked(
    problem: Problem,
    objective: ObjectiveFunction,
    x: Tensor,
    value: Tensor,
    gradient: Tensor,
    blur: Tensor,
    streams: RowStreams,
) -> Tensor:
    """Where the gradient is wrong at every length that can be judged, two at least: changes below `blur` (batch,) are
    lost in rounding, and at one length alone it may be the curve of the objective.
    """
    domain = problem.domain
    size = domain.size(x)
    down, noise = -domain.steepest(gradient), domain.steepest(streams.normal(x))

    def moved(direction: Tensor, length: float) -> tuple[Tensor, Tensor]:
        """The change that the gradient predicts of a step, cut by the set, and the change that is seen."""
        there = domain.project(x + per_row(length * size, x) * direction)
        return (gradient * (there - x)).flatten(1).sum(1), objective(
            there, problem.network.plain(there.clone())
        ) - value

    wrong, judged = torch.ones_like(value, dtype=torch.bool), torch.zeros_like(value, dtype=torch.int64)
    for length in _LENGTHS:
        predicted, seen = moved(down, length)
        told = predicted < -blur
        fails = told & (seen > _KEPT * predicted)
        for random_step in (noise, -noise):
            # The set may cut the steepest step short and leave a random one whole: that much the gradient knows.
            expected, by_noise = moved(random_step, length)
            fails |= by_noise < _NOISE * torch.minimum(seen, expected).clamp(max=-blur)
        wrong &= fails | ~told
        judged += fails | told
    return wrong & (judged >= _JUDGED)
