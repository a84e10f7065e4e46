"""The exact distance to the nearest adversarial point of a small fully connected ReLU network, in linf or l1.

A mixed-integer program for each other class, by HiGHS (Huangfu & Hall 2018). With the best distance known so far, u,
it asks whether a point at less than u (1 - 1e-6) is of the class at all: over the ball of that radius and the box, it
maximises by how much the class's logit is above the label's. A maximum below 0 ends the class: nothing is nearer than
that. Otherwise the point found is a nearer one, which `face-walk` polishes; u falls, and the program is set up again.
When every class has ended, u is the optimum within 1e-6 of itself. So u as a cutoff takes the place of the distance as
an objective: the programs need no row for the norm in linf and one in l1, and a good u ends most classes at once.

The encoding is exact (Tjeng, Xiao & Tedrake, "Evaluating robustness of neural networks with mixed integer
programming", ICLR 2019): a gate that cannot switch in ball and box is linear, another is a binary variable with its own
bounds. Bounds: the exact range of a linear form over ball and box; for deeper layers that of the linear forms which
bound the layer there (CROWN, Zhang et al. 2018). A gate of the last hidden layer with a negative weight in "class above
label" needs no binary: the maximum pushes it down onto max(z, 0) by itself.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import ClassVar

import highspy
import numpy as np
import torch
from torch import Tensor, nn

import gatewise as gw
from gatewise.classification import Norm
from gatewise.combinators import FaceWalk
from gatewise.methods.base import Method, Start, Steps
from gatewise.problem import Iterate, Problem

GAP = 1e-6  # relative distance below u at which the programs look
_TOLERANCE = 1e-9  # of HiGHS, for rows and binaries
_OUTWARD = 1e-9  # what is added to every bound, against rounding


@dataclass(frozen=True)
class Proof:
    """`distance` to the nearest point that was found, `lower_bound` of any, and what it took.

    `proved`: every class ended in time. `programs` that HiGHS was given, the most `binaries` that one had, `seconds` of
    the processor.
    """

    distance: float
    lower_bound: float
    proved: bool
    programs: int
    binaries: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class At(Method):
    """Look at one point that is known already: a warm start for others."""

    name: ClassVar[str] = "at"

    point: Tensor

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """The point, and no more."""
        yield Iterate(self.point)


def layers_of(module: nn.Module) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights (out, in) and biases (out,) of an `nn.Sequential` of linear layers with ReLUs between them."""
    linear = [layer for layer in module.children() if isinstance(layer, nn.Linear)]
    others = [layer for layer in module.children() if not isinstance(layer, nn.Linear | nn.ReLU | nn.Flatten)]
    if not linear or others:
        raise ValueError(f"Only linear layers and ReLUs are encoded, not {others}.")
    return [(one.weight.detach().double().numpy(), one.bias.detach().double().numpy()) for one in linear]


@dataclass(frozen=True, eq=False)
class Ball:
    """All d with `||d||_p <= radius` and `lower <= d <= upper`; p = 1 or infinity."""

    p: float
    radius: float
    lower: np.ndarray
    upper: np.ndarray

    @classmethod
    def around(cls, x: np.ndarray, p: float, radius: float) -> Ball:
        """Around `x` (n,) in [0, 1]^n."""
        return cls(p, radius, np.maximum(-x, -radius), np.minimum(1 - x, radius))

    def most(self, rows: np.ndarray) -> np.ndarray:
        """The largest `row @ d`, for each of `rows` (k, n)."""
        reach = np.where(rows > 0, self.upper, -self.lower)
        size = np.abs(rows)
        if self.p == 1:  # the coordinates that win most for their length go first
            order = np.argsort(-size, axis=1)
            size, reach = np.take_along_axis(size, order, 1), np.take_along_axis(reach, order, 1)
            spent = np.cumsum(reach, axis=1)
            reach = np.clip(self.radius - (spent - reach), 0, reach)
        return (size * reach).sum(1)


def ranges(layers: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray, ball: Ball) -> list[np.ndarray]:
    """Least and largest value of every pre-activation over x + ball, (2, width) for each hidden layer."""
    known: list[np.ndarray] = []
    for depth in range(len(layers) - 1):
        weight, bias = layers[depth]
        ends = [
            -largest(layers[:depth], known, -weight, -bias, x, ball),
            largest(layers[:depth], known, weight, bias, x, ball),
        ]
        ends = np.stack(ends)
        known.append(ends + np.array([[-1.0], [1.0]]) * _OUTWARD * (1 + np.abs(ends)))
    return known


def largest(layers, known, weight: np.ndarray, bias: np.ndarray, x: np.ndarray, ball: Ball) -> np.ndarray:
    """An upper bound of `weight @ (output of the layers) + bias` over x + ball: exact without layers."""
    for (below, shift), (low, high) in zip(layers[::-1], known[::-1], strict=True):
        switching = (low < 0) & (high > 0)
        chord = np.where(switching, high / np.where(switching, high - low, 1.0), (low >= 0).astype(float))
        under = np.where(switching, (high > -low).astype(float), chord)
        slope = np.where(weight > 0, chord, under)
        bias = bias + (np.maximum(weight, 0) * np.where(switching, -low * chord, 0.0)).sum(1)
        weight = weight * slope
        bias, weight = bias + weight @ shift, weight @ below
    return weight @ x + bias + ball.most(weight)


class _Program:
    """Maximise `cost @ columns` for HiGHS, built column by column and row by row."""

    def __init__(self):
        self.low: list[float] = []
        self.high: list[float] = []
        self.cost: list[float] = []
        self.integer: list[bool] = []
        self.rows: list[tuple[np.ndarray, np.ndarray, float, float]] = []

    def columns(self, low, high, cost, integer: bool = False) -> np.ndarray:
        first = len(self.low)
        low, high, cost = np.broadcast_arrays(np.atleast_1d(low), high, cost)
        self.low += low.tolist()
        self.high += high.tolist()
        self.cost += cost.tolist()
        self.integer += [integer] * len(low)
        return np.arange(first, first + len(low))

    def row(self, index, values, low: float, high: float) -> None:
        index, values = np.concatenate(index), np.concatenate(values)
        self.rows.append((index[values != 0], values[values != 0], low, high))

    def solver(self, constant: float, seconds: float) -> highspy.Highs:
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_, lp.sense_, lp.offset_ = (
            len(self.low),
            len(self.rows),
            highspy.ObjSense.kMinimize,
            -constant,
        )
        lp.col_lower_, lp.col_upper_, lp.col_cost_ = np.array(self.low), np.array(self.high), -np.array(self.cost)
        lp.row_lower_, lp.row_upper_ = np.array([row[2] for row in self.rows]), np.array([row[3] for row in self.rows])
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.cumsum([0, *(len(row[0]) for row in self.rows)])
        lp.a_matrix_.index_ = np.concatenate([row[0] for row in self.rows] or [np.empty(0, dtype=int)])
        lp.a_matrix_.value_ = np.concatenate([row[1] for row in self.rows] or [np.empty(0)])
        kinds = highspy.HighsVarType.kContinuous, highspy.HighsVarType.kInteger
        lp.integrality_ = [kinds[integer] for integer in self.integer]
        solver = highspy.Highs()
        # A value of 0 or less is a nearer point: no need to look for a better one. Nothing above 0 is wanted.
        options = {
            "output_flag": False, "threads": 1, "time_limit": max(seconds, 0.1), "objective_target": 0.0,
            "mip_feasibility_tolerance": _TOLERANCE, "primal_feasibility_tolerance": _TOLERANCE,
            "dual_feasibility_tolerance": _TOLERANCE, "mip_rel_gap": 0.0, "mip_abs_gap": 0.0,
        }  # fmt: skip
        for option, value in options.items():
            solver.setOptionValue(option, value)
        solver.passModel(lp)
        return solver


@dataclass(frozen=True, eq=False)
class Answer:
    """`none`: nothing in the ball is of the class. `way` (n,): a point that is, where one was found."""

    none: bool
    way: np.ndarray | None
    binaries: int


def ask(
    layers, x: np.ndarray, ball: Ball, known: list[np.ndarray], gain: np.ndarray, shift: float, seconds: float
) -> Answer:
    """Whether `gain @ (last hidden layer's output) + shift` reaches 0 in x + ball."""
    hidden = layers[:-1]
    if largest(hidden, known, gain[None], np.array([shift]), x, ball)[0] < 0:
        return Answer(True, None, 0)
    program = _Program()
    # In units of the radius, so that every column is of size 1. l1: d = up - down.
    scale = ball.radius
    if ball.p == 1:
        up = program.columns(0.0, ball.upper / scale, 0.0)
        down = program.columns(0.0, -ball.lower / scale, 0.0)
        program.row([up, down], [np.ones(len(up)), np.ones(len(up))], -math.inf, 1.0)
    else:
        up, down = program.columns(ball.lower / scale, ball.upper / scale, 0.0), None
    # The layer below is base + sum of of_source @ columns: first the image.
    eye = scale * np.eye(len(x))
    source, of_source = ([up], [eye]) if down is None else ([up, down], [eye, -eye])
    base = x
    binaries = 0
    for depth, ((weight, bias), (low, high)) in enumerate(zip(hidden, known, strict=True)):
        last = depth == len(hidden) - 1
        wanted = np.flatnonzero(high > 0)
        switching = wanted[low[wanted] < 0]
        stable = wanted[low[wanted] >= 0]
        forms = [weight @ part for part in of_source]
        constant = weight @ base + bias
        s = program.columns(0.0, high[switching], 0.0)
        next_base = np.zeros(len(bias))
        next_base[stable] = constant[stable]
        keep = [np.zeros((len(bias), part.shape[1])) for part in forms]
        for kept, form in zip(keep, forms, strict=True):
            kept[stable] = form[stable]
        own = np.zeros((len(bias), len(switching)))
        own[switching, np.arange(len(switching))] = 1.0
        for column, j in zip(s, switching, strict=True):
            size = high[j] - low[j]
            parts, values = [[column], *source], [-form[j] / size for form in forms]
            if not last or gain[j] < 0:  # s >= z
                program.row(parts, [[1 / size], *values], constant[j] / size, math.inf)
            if not last or gain[j] > 0:  # s <= z - low (1 - b), s <= high b
                (b,) = program.columns(0.0, 1.0, 0.0, integer=True)
                binaries += 1
                program.row(
                    [*parts, [b]], [[1 / size], *values, [-low[j] / size]], -math.inf, (constant[j] - low[j]) / size
                )
                program.row([[column], [b]], [[1 / size], [-high[j] / size]], -math.inf, 0.0)
        source, of_source, base = [*source, s], [*keep, own], next_base
    for index, part in zip(source, of_source, strict=True):
        for column, value in zip(index, gain @ part, strict=True):
            program.cost[column] += float(value)
    solver = program.solver(float(gain @ base) + shift, seconds)
    solver.run()
    status, info = solver.getModelStatus().name, solver.getInfo()
    if status == "kInfeasible":  # ball and box are never empty
        raise ArithmeticError("HiGHS calls a program infeasible that has a solution, the image itself.")
    bound = info.objective_function_value if not binaries else info.mip_dual_bound
    if bound > 1e-7 and status in ("kOptimal", "kTimeLimit"):
        return Answer(True, None, binaries)
    if (
        info.objective_function_value > 0
        or info.primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible
    ):
        return Answer(False, None, binaries)
    columns = np.array(solver.getSolution().col_value)
    d = scale * (columns[up] if down is None else columns[up] - columns[down])
    return Answer(False, np.clip(d, ball.lower, ball.upper), binaries)


def prove(module: nn.Module, image: Tensor, label: int, norm: Norm, distance: float, seconds: float = 120.0) -> Proof:
    """The distance from `image` (1, …), float64, to the nearest point in [0, 1]^n that is not of class `label`.

    Args:
        module: from images to logits, float64.
        image: one row.
        label: its class.
        norm: linf or l1.
        distance: to a point that is known, the shorter the better.
        seconds: limit on the processor time of all programs together.
    """
    began, p = time.process_time(), {"linf": math.inf, "l1": 1.0}[norm]
    layers, x = layers_of(module), image.double().flatten().numpy()
    weight, bias = layers[-1]
    gains, shifts = weight - weight[label], bias - bias[label]
    # The likeliest classes first: they shorten the distance for the others.
    with torch.no_grad():
        order = module(image).flatten().argsort(descending=True).tolist()
    waiting = [target for target in order if target != label]
    programs = most = 0
    reached: list[float] = []  # under which radius each class that ended has no point
    while waiting:
        left = seconds - (time.process_time() - began)
        if left <= 0:
            break
        radius = distance * (1 - GAP)
        ball = Ball.around(x, p, radius)
        known = ranges(layers, x, ball)
        answer = ask(layers, x, ball, known, gains[waiting[0]], float(shifts[waiting[0]]), left)
        programs, most = programs + 1, max(most, answer.binaries)
        if answer.none:
            reached.append(radius)
            del waiting[0]
        elif answer.way is None:
            break
        else:
            shorter = _polished(module, image, label, norm, answer.way)
            if not shorter < distance:
                raise ArithmeticError(f"A point at less than {radius} was found, and {shorter} is what comes of it.")
            distance = shorter
    spent = time.process_time() - began
    # A class that ended under a larger radius has ended under a smaller one, too.
    bound = distance * (1 - GAP) if not waiting else math.nan
    return Proof(distance, bound, not waiting, programs, most, spent)


def reaches(module: nn.Module, image: Tensor, label: int, norm: Norm, distance: float, seconds: float = 60.0) -> bool:
    """Whether the programs see the point at `distance`: some class is found in a ball that is 1e-4 larger."""
    p = {"linf": math.inf, "l1": 1.0}[norm]
    layers, x = layers_of(module), image.double().flatten().numpy()
    ball = Ball.around(x, p, distance * (1 + 1e-4))
    known = ranges(layers, x, ball)
    weight, bias = layers[-1]
    with torch.no_grad():
        order = module(image).flatten().argsort(descending=True).tolist()
    for target in (target for target in order if target != label):
        answer = ask(layers, x, ball, known, weight[target] - weight[label], float(bias[target] - bias[label]), seconds)
        if answer.way is not None:
            return True
    return False


def _polished(module: nn.Module, image: Tensor, label: int, norm: Norm, way: np.ndarray) -> float:
    """The distance of the nearest point that a walk from `image + way` finds."""
    point = image + torch.from_numpy(way).view_as(image)
    walk = FaceWalk(first=At(point=point.clamp(0, 1)))
    found = gw.nearest(module, image, torch.tensor([label]), norm=norm, method=walk, progress=False)
    return found.value.item()
