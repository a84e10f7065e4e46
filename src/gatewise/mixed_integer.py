"""Mixed-integer linear programs over gates, by HiGHS (Huangfu & Hall 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class GateProgram:
    """Minimise `cost_x @ x + cost_s @ s` with `z = by_x @ x + by_s @ s + constant`, `s = max(z, 0) + slope min(z, 0)`
    and `lower <= x <= upper`; row j of `by_s` is 0 from its own layer on.
    """

    lower: np.ndarray
    upper: np.ndarray
    by_x: np.ndarray
    by_s: np.ndarray
    constant: np.ndarray
    slope: np.ndarray
    layer: np.ndarray
    cost_x: np.ndarray
    cost_s: np.ndarray

    def ranges(self) -> tuple[np.ndarray, np.ndarray]:
        """Interval bounds of z, layer by layer."""
        low, high = _interval(self.by_x, self.lower, self.upper)
        low, high = low + self.constant, high + self.constant
        s_low, s_high = np.zeros_like(low), np.zeros_like(high)
        for layer in np.unique(self.layer):
            here, before = self.layer == layer, self.layer < layer
            if before.any():
                more_low, more_high = _interval(self.by_s[np.ix_(here, before)], s_low[before], s_high[before])
                low[here] += more_low
                high[here] += more_high
            s_low, s_high = self._outputs(low, high)
        return low, high

    def _outputs(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The ranges of s for those of z."""
        ends = np.stack([gate(low, self.slope), gate(high, self.slope)])
        bends = (self.slope < 0) & (low < 0) & (high > 0)  # |z| and the like are least at 0
        return np.where(bends, 0.0, ends.min(0)), ends.max(0)

    def solve(self, start: np.ndarray, seconds: float) -> tuple[np.ndarray, bool]:
        """The best x (n,) that HiGHS finds in `seconds` from the feasible `start` (n,), and whether none is better."""
        import highspy

        n, k = len(self.lower), len(self.constant)
        low, high = self.ranges()
        switching = np.flatnonzero((low < 0) & (high > 0) & (self.slope != 1))
        # Columns: x (n), z (k), s (k), one binary for each gate that can switch.
        z, s, binary = n + np.arange(k), n + k + np.arange(k), n + 2 * k + np.arange(len(switching))
        s_low, s_high = self._outputs(low, high)
        lower = np.concatenate([self.lower, low, s_low, np.zeros(len(switching))])
        upper = np.concatenate([self.upper, high, s_high, np.ones(len(switching))])
        rows = _Rows()
        for j in range(k):
            uses_x, uses_s = np.flatnonzero(self.by_x[j]), np.flatnonzero(self.by_s[j])
            columns = np.concatenate([[z[j]], uses_x, s[uses_s]])
            weights = np.concatenate([[1.0], -self.by_x[j, uses_x], -self.by_s[j, uses_s]])
            rows.add(columns, weights, self.constant[j], self.constant[j])
        for j in np.setdiff1d(np.arange(k), switching):
            rows.add([s[j], z[j]], [1.0, -1.0 if low[j] >= 0 else -self.slope[j]], 0.0, 0.0)
        for j, b in zip(switching, binary, strict=True):
            # m = (s - slope z) / (1 - slope) is max(z, 0): m >= 0, m >= z, m <= z - low (1 - b), m <= high b.
            share = 1 / (1 - self.slope[j])
            rows.add([s[j], z[j]], [share, -self.slope[j] * share], 0.0, np.inf)
            rows.add([s[j], z[j]], [share, -share], 0.0, np.inf)
            rows.add([s[j], z[j], b], [share, -share, -low[j]], -np.inf, -low[j])
            rows.add([s[j], z[j], b], [share, -self.slope[j] * share, -high[j]], -np.inf, 0.0)
        lp = highspy.HighsLp()
        lp.num_col_, lp.num_row_ = len(lower), len(rows.low)
        lp.col_cost_ = np.concatenate([self.cost_x, np.zeros(k), self.cost_s, np.zeros(len(switching))])
        lp.col_lower_, lp.col_upper_ = lower, upper
        lp.row_lower_, lp.row_upper_ = np.array(rows.low), np.array(rows.high)
        lp.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        lp.a_matrix_.start_ = np.array(rows.start)
        lp.a_matrix_.index_ = np.concatenate(rows.index) if rows.index else np.empty(0, dtype=int)
        lp.a_matrix_.value_ = np.concatenate(rows.value) if rows.value else np.empty(0)
        integer = [highspy.HighsVarType.kContinuous] * (n + 2 * k) + [highspy.HighsVarType.kInteger] * len(switching)
        lp.integrality_ = integer
        solver = highspy.Highs()
        for option, value in {"output_flag": False, "threads": 1, "time_limit": seconds}.items():
            solver.setOptionValue(option, value)
        solver.passModel(lp)
        at_z, at_s = self.at(start)
        solution = highspy.HighsSolution()
        solution.col_value = list(np.concatenate([start, at_z, at_s, (at_z[switching] > 0).astype(float)]))
        solver.setSolution(solution)
        solver.run()
        proved = solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
        if solver.getInfo().primal_solution_status != highspy.SolutionStatus.kSolutionStatusFeasible:
            return start, proved
        return np.array(solver.getSolution().col_value[:n]), proved

    def cost(self, x: np.ndarray) -> float:
        """The objective at x, up to its constant."""
        return float(self.cost_x @ x + self.cost_s @ self.at(x)[1])

    def at(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pre-activations z and outputs s at x, (k,) each."""
        z = self.by_x @ x + self.constant
        s = np.zeros_like(z)
        for layer in np.unique(self.layer):
            here = self.layer == layer
            z[here] += self.by_s[here] @ s
            s[here] = gate(z[here], self.slope[here])
        return z, s


class _Rows:
    def __init__(self):
        self.start, self.index, self.value, self.low, self.high = [0], [], [], [], []

    def add(self, index, value, low: float, high: float) -> None:
        self.index.append(np.asarray(index))
        self.value.append(np.asarray(value, dtype=float))
        self.start.append(self.start[-1] + len(self.index[-1]))
        self.low.append(low)
        self.high.append(high)


def gate(z: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """`max(z, 0) + slope min(z, 0)`."""
    return np.where(z > 0, z, slope * z)


def _interval(matrix: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The range of `matrix @ v` over `low <= v <= high`."""
    up, down = np.maximum(matrix, 0), np.minimum(matrix, 0)
    return up @ low + down @ high, up @ high + down @ low
