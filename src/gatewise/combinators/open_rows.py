"""Members run on the rows that still stand, those that the driver has not closed, and told as if they ran on all."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gatewise.errors import UnsupportedProblem
from gatewise.methods.base import Method, Start, Steps
from gatewise.problem import Problem


@dataclass(eq=False)
class OpenRows:
    """Where all rows were last: `x` and `output` (batch, …), None before any run; and the backward passes that each row
    which stands has had, `spent`.
    """

    x: Tensor | None = None
    output: Tensor | None = None
    spent: float = 0.0

    def run(self, member: Method, problem: Problem, start: Start, told: Problem | None = None) -> Steps:
        """What `member` visits on the rows that stand now, with the values of `told` (None: of `problem`); the others
        stay where they were last. Where problem or set cannot be taken apart by rows, all rows run.
        """
        rows, part, begin = self._standing(problem, start)
        meter = problem.network.meter
        spent, before = self.spent, meter.backwards
        for here in member.iterate(part, begin):
            self.spent = spent + (meter.backwards - before) / len(rows)
            moved = meter.moved
            if moved is not None and len(moved) == len(rows) < len(start.points):
                meter.tell(torch.ones_like(start.points.flatten(1)[:, 0], dtype=torch.bool).index_copy(0, rows, moved))
            with torch.no_grad():
                output = problem.network(here.x) if here.output is None else here.output
                self.x = _spread(here.x, rows, self.x)
                self.output = _spread(output, rows, self.output)
                value = (told or problem).measure(self.x, self.output)
            nothing = torch.full_like(value, torch.nan)
            figures = {name: _spread(by_row, rows, nothing) for name, by_row in here.diagnostics.items()}
            yield replace(here, x=self.x, value=value, output=self.output, diagnostics=figures)
        self.spent = spent + (meter.backwards - before) / len(rows)

    def _standing(self, problem: Problem, start: Start) -> tuple[Tensor, Problem, Start]:
        every = torch.arange(len(start.points), device=start.points.device)
        if start.closed is None or self.x is None or self.output is None:
            return every, problem, start
        closed = start.closed
        rows = every[~closed()]
        if not 0 < len(rows) < len(every):
            return every, problem, start
        try:
            part = problem.of_rows(rows, self.x, self.output)
        except UnsupportedProblem:
            return every, problem, start
        streams = start.streams.of_rows(rows)
        return rows, part, replace(start, points=start.points[rows], streams=streams, closed=lambda: closed()[rows])


def _spread(part: Tensor, rows: Tensor, whole: Tensor | None) -> Tensor:
    """`part` (k, …) put into the rows `rows` of a copy of `whole`."""
    return part if whole is None or len(part) == len(whole) else whole.index_copy(0, rows, part)
