"""Local exact search: the gates nearest to switching as binaries, solved by a mixed-integer program around each point.

Within a trust region only the gates whose hyperplanes are near can switch. Those become variables, the others stay as
they are, and the network is a mixed-integer affine function (`gatewise.network.local`) that HiGHS minimises over the
set and the region (`gatewise.mixed_integer`). The true network judges the point; a better one is the next centre,
and neighbourhood and region follow what came of it. The answer is the same again as long as no program runs out of its
time.

Source: Croce & Hein, "A randomized gradient-free attack on ReLU networks" (GCPR 2018, arXiv:1811.11493), Algorithm 1.

Deviations: (1) A neighbourhood of linear regions at once, by a mixed-integer program, instead of one region after the
other by linear ones. (2) Regions beyond it are reached by the next centre, not at random. (3) Max-pools keep
their winners.

Legend: reach = estimated linf distance of a gate's hyperplane, `|h| / ||P||_1`, `||P||_1` taken as that of a normal
vector of norm `||P||_2`.
"""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from gatewise.geometry import per_row
from gatewise.methods.base import Method, Start, Steps, require_positive
from gatewise.network.hyperplanes import squared_norms
from gatewise.network.local import LocalPiece, local_piece
from gatewise.network.rules import Fixed
from gatewise.network.view import Trace
from gatewise.problem import Iterate, Problem

_SAMPLES = 8  # of ||P||^2


@dataclass
class _Around:
    """One row's neighbourhood."""

    radius: float
    gates: int
    most_gates: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class LocalMilp(Method):
    """Exact steps in a neighbourhood of linear regions, row by row."""

    name: ClassVar[str] = "local-milp"

    gates: int = 400
    """How many gates may switch at first; it grows and falls with what comes of it."""
    most_gates: int = 1200
    """The most. Each costs a backward pass, and the objective one more: a budget below that takes fewer gates."""
    radius: float = 0.2
    """Half the trust region's edge at first, in units of the set's size."""
    seconds: float = 5.0
    """Time for a program at first; up to eight times as much where time runs out with nothing found."""
    workers: int = 2
    """Programs solved at the same time."""
    nearest: int | None = None
    """How many rows a round takes, nearest to the goal first; None: all that stand."""
    steps: int | None = None
    """Programs a row; None: as many as the budget pays for, or until no neighbourhood is left."""

    def __post_init__(self):
        require_positive(
            gates=self.gates, most_gates=self.most_gates, radius=self.radius, seconds=self.seconds,
            workers=self.workers, nearest=self.nearest, steps=self.steps,
        )  # fmt: skip
        super().__post_init__()

    def iterate(self, problem: Problem, start: Start) -> Steps:
        """A program for each row that has not met the goal, nearest to it first; then again."""
        network, domain, x = problem.network, problem.domain, start.points
        size = domain.size(x)
        lower, upper = (edge.expand_as(x).flatten(1).double().cpu().numpy() for edge in domain.bounds(x))
        most = self.most_gates if start.budget is None else min(self.most_gates, start.budget - 1)
        around = [_Around(self.radius * float(edge), min(self.gates, most), most, self.seconds) for edge in size]
        moved = torch.ones(len(x), dtype=torch.bool, device=x.device)
        endless = start.budget is None and self.steps is None
        for _ in itertools.count() if endless else range(start.steps(self.steps, cost=most + 1)):
            here, value, gradients = _look(problem, x)
            standing = torch.ones_like(moved) if problem.goal is None else problem.goal(x, here.output) > 0
            alive = [r for r in value.argsort().tolist() if standing[r] and around[r].radius > 1e-3 * float(size[r])]
            alive = alive[: self.nearest]
            yield Iterate(x, value, here.output, ahead=(most + 1) * len(alive[: self.workers]))
            if not alive:
                return
            reach = self._reach(problem, here, start)
            for first in range(0, len(alive), self.workers):
                # A few rows at a time, so that a clock may end the run.
                rows, then = alive[first:][: self.workers], alive[first + self.workers :][: self.workers]
                pieces = [local_piece(network, here, _free(reach, r, around[r]), r, *gradients) for r in rows]
                claims = self._solve(pieces, lower[rows], upper[rows], [around[r] for r in rows], start)
                tried = x.clone()
                for r, piece, (point, _, _) in zip(rows, pieces, claims, strict=True):
                    moved[r] = bool(piece.objective_x.any() or piece.objective_s.any())
                    tried[r] = torch.from_numpy(point).to(x).view_as(x[r])
                tried = domain.project(tried)
                with torch.no_grad():
                    output = network(tried)
                    found = problem.measure(tried, output)
                network.meter.tell(moved)
                yield Iterate(tried, found, output, ahead=(most + 1) * len(then))
                better = found < value
                x = torch.where(per_row(better, x), tried, x)
                for r, (_, gain, proved) in zip(rows, claims, strict=True):
                    self._learn(around[r], gain, proved, better=bool(better[r]), size=float(size[r]))
        yield problem.at(x)

    def _solve(
        self, pieces: list[LocalPiece], lower: np.ndarray, upper: np.ndarray, around: list[_Around], start: Start
    ) -> list[tuple[np.ndarray, float, bool]]:
        """For each row the best point of its program, what it claims to gain, and whether it is proved the best."""
        left = max(start.seconds_left(), 0.1)

        def solved(piece: LocalPiece, low: np.ndarray, high: np.ndarray, around: _Around):
            low, high = np.maximum(low, piece.x - around.radius), np.minimum(high, piece.x + around.radius)
            program = piece.program(low, high)
            x, proved = program.solve(piece.x, min(around.seconds, left))
            gain = program.cost(piece.x) - program.cost(x)
            return x, (gain if gain > 1e-9 else 0.0), proved

        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(solved, pieces, lower, upper, around))

    def _learn(self, around: _Around, gain: float, proved: bool, *, better: bool, size: float) -> None:
        """After a gain, a little wider. After a gain that the true network does not confirm, more gates, or less room.
        After none, more of both where none is proved to be there, and less room where time ran out.
        """
        more_gates = min(2 * around.gates, around.most_gates)
        if gain > 0 and better:
            around.radius = min(1.2 * around.radius, size)
        elif gain > 0 and around.gates < more_gates:
            around.gates = more_gates
        elif gain > 0 or not proved:
            around.radius /= 2
            around.seconds = min(around.seconds if proved else 2 * around.seconds, 8 * self.seconds)
        elif around.gates < more_gates:
            around.radius = min(1.5 * around.radius, size)
            around.gates = more_gates
        else:
            around.radius = 0.0

    def _reach(self, problem: Problem, here: Trace, start: Start) -> list[Tensor | None]:
        """By gate, (batch, …); None for max-pools. Infinite, or NaN, where no input reaches the gate."""
        held = Fixed(here.pattern())
        draws = [squared_norms(problem.network, here, held, start.streams.normal(here.input)) for _ in range(_SAMPLES)]
        norms = [torch.stack(squares).mean(0).sqrt() for squares in zip(*draws, strict=True)][:-1]
        spread = math.sqrt(2 / math.pi * here.input[0].numel())
        return [
            None if gate.pool is not None else h.abs() / (spread * norm)
            for gate, h, norm in zip(here.gates, here.preactivations, norms, strict=True)
        ]


def _free(reach: list[Tensor | None], row: int, around: _Around) -> list[Tensor | None]:
    """The row's gates that may switch, bool by gate: those in the trust region, and of these the nearest."""
    every = torch.cat([d[row].flatten() for d in reach if d is not None] or [torch.empty(0)])
    near = every.argsort(stable=True)[: around.gates]
    chosen = torch.zeros_like(every, dtype=torch.bool).index_put((near,), every[near] <= around.radius)
    parts = iter(chosen.split([d[row].numel() for d in reach if d is not None]))
    # local_piece looks at this row alone.
    return [None if d is None else next(parts).view_as(d[row]).expand_as(d) for d in reach]


def _look(problem: Problem, x: Tensor) -> tuple[Trace, Tensor, tuple[Tensor, Tensor]]:
    """The run at x, the objective, and its gradients in the output and in x itself."""
    with torch.no_grad():
        here = problem.network.trace(x).require_rows()
    at_x, at_y = x.detach().clone().requires_grad_(), here.output.detach().clone().requires_grad_()
    with torch.enable_grad():
        value = problem.measure(at_x, at_y)
        by_y, by_x = torch.autograd.grad(value.sum(), [at_y, at_x], materialize_grads=True)
    return here, value.detach(), (by_y, by_x)
