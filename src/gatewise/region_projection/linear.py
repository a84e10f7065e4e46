"""p = 1 and infinity: linear programs by HiGHS (Huangfu & Hall 2018), to which rows are added."""

from __future__ import annotations

import math
from functools import cached_property

import numpy as np

from gatewise.region_projection.region import Region
from gatewise.region_projection.statement import Asking, Listed, Outcome, Projection, Rows


class Linear(Region):
    """p = 1 and infinity, by a linear program that keeps rows and basis from target to target."""

    def __init__(self, faces: Listed, rows, limits, lower, upper, p: float):
        super().__init__(faces, rows, limits, lower, upper, p)
        self.index = np.empty(0, dtype=int)
        self.A, self.b = np.empty((0, len(lower))), np.empty(0)

    def bounds(self, cutoff: float) -> np.ndarray:
        """Distances to the half-spaces within the box, (targets,)."""
        return np.array([self._to_halfspace(row, -limit) for row, limit in zip(self.rows, self.limits, strict=True)])

    def _to_halfspace(self, row: np.ndarray, wanted: float) -> float:
        """The least `||d||` in the box with `-row @ d >= wanted`; the box's largest where there is none."""
        reach, size = np.where(row > 0, -self.lower, self.upper), np.abs(row)
        order = np.argsort(-size if self.p == 1 else reach)
        reach, size = reach[order], size[order]
        won = np.cumsum(size * reach)
        if self.p == 1:  # the coordinates that win most for their length go first
            norms = np.cumsum(reach)
        else:  # all go together, each to its end
            norms, won = reach, won + (size.sum() - np.cumsum(size)) * reach
        distance = np.interp(max(wanted, 0.0), np.append(0.0, won), np.append(0.0, norms))
        return float(distance) * (1 - 1e-12)

    @cached_property
    def program(self):
        """Without faces. p = 1: d = up - down, and `sum(up + down)`; p = inf: d and t, with `-t <= d <= t`."""
        import highspy

        n, one, program = len(self.lower), self.p == 1, highspy.Highs()
        precision = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
        for option, value in {"output_flag": False, "threads": 1, "presolve": "off", **precision}.items():
            program.setOptionValue(option, value)
        cost = np.ones(2 * n) if one else np.append(np.zeros(n), 1.0)
        low = np.zeros(2 * n) if one else np.append(self.lower, 0.0)
        high = np.append(self.upper, -self.lower if one else self.reach)
        none = np.empty(0, dtype=np.int32)
        program.addCols(len(cost), cost, low, high, 0, np.zeros(len(cost), dtype=np.int32), none, np.empty(0))
        if not one:
            ends = np.stack([np.tile(np.arange(n), 2), np.full(2 * n, n)], axis=1)
            _add_rows(program, ends, np.repeat([[1.0, -1.0], [-1.0, -1.0]], n, axis=0), np.zeros(2 * n))
        self._add_faces(program, self.rows, np.full(len(self.rows), math.inf))
        return program

    def _add_faces(self, program, A: np.ndarray, b: np.ndarray) -> None:
        values = np.append(A, -A, axis=1) if self.p == 1 else A
        _add_rows(program, np.broadcast_to(np.arange(values.shape[1]), values.shape), values, b)

    def solve(self, target: int, cutoff: float) -> Asking[Projection]:
        """The projection for one target, or why there is none nearer than `cutoff`."""
        row = target + (0 if self.p == 1 else 2 * len(self.lower))
        self.program.changeRowBounds(row, -math.inf, float(self.limits[target]))
        self.program.setOptionValue("objective_bound", cutoff)
        found = yield from self._run(target, row, cutoff)
        self.program.changeRowBounds(row, -math.inf, math.inf)
        return found

    def _run(self, target: int, row: int, cutoff: float) -> Asking[Projection]:
        n, bound, d, y = len(self.lower), 0.0, np.zeros(len(self.lower)), np.zeros(1 + len(self.index))
        for _ in range(self.rounds):
            self.program.run()
            status = self.program.getModelStatus().name
            if status in ("kInfeasible", "kUnboundedOrInfeasible"):
                return Projection(Outcome.EMPTY, math.inf)
            if status not in ("kOptimal", "kObjectiveBound"):
                break
            solution = self.program.getSolution()
            duals = -np.array(solution.row_dual) if solution.dual_valid else np.zeros(self.program.getNumRow())
            duals = np.maximum(duals, 0)
            y = np.append(duals[row], duals[row - target + len(self.rows) :])
            bound = max(bound, self._lagrangian(target, y))
            if bound >= cutoff:
                return Projection(Outcome.PRUNED, bound)
            if status == "kObjectiveBound":  # HiGHS ended here without multipliers that prove it
                self.program.setOptionValue("objective_bound", math.inf)
                continue
            columns = np.array(solution.col_value)
            d = np.clip(columns[:n] - columns[n:] if self.p == 1 else columns[:n], self.lower, self.upper)
            found = yield from self.violated(d, self.index)
            if not len(found):
                break
            A, b = (yield Rows(found)), self.faces.limits[found]
            self._add_faces(self.program, A, b)
            self.index, y = np.append(self.index, found), np.append(y, np.zeros(len(found)))
            self.A, self.b = np.append(self.A, A, axis=0), np.append(self.b, b)
        return (yield from self.certified(target, d, bound, self.index, y[1:], float(y[0])))

    def _lagrangian(self, target: int, y: np.ndarray) -> float:
        """Its least value in the box for multipliers `y` >= 0: a bound, whatever they are."""
        slopes = y[0] * self.rows[target] + y[1:] @ self.A
        constant = y[0] * self.limits[target] + y[1:] @ self.b
        if self.p == 1:
            return float(
                np.minimum(np.minimum(self.upper * (1 + slopes), self.lower * (slopes - 1)), 0).sum() - constant
            )
        # t - sum |slope| min(t, reach) is convex in t = ||d||: least at 0 or at one of its kinks.
        reach, size = np.where(slopes > 0, -self.lower, self.upper), np.abs(slopes)
        order = np.argsort(reach)
        reach, size = reach[order], size[order]
        kinks = reach - np.cumsum(size * reach) - (size.sum() - np.cumsum(size)) * reach
        return float(kinks.min(initial=0) - constant)


def _add_rows(program, index: np.ndarray, values: np.ndarray, high: np.ndarray) -> None:
    """Rows `values @ columns[index] <= high`, of as many entries each: (k, entries), (k, entries) and (k,)."""
    starts, low = np.arange(len(high), dtype=np.int32) * values.shape[1], np.full(len(high), -math.inf)
    program.addRows(len(high), low, high, values.size, starts, index.astype(np.int32).ravel(), values.ravel())
