"""Linear and quadratic programs over `A x <= b`, one at a time in float64, by daqp's exact active-set method."""

from __future__ import annotations

import daqp
import numpy as np

from gatewise.errors import InvalidInput, UnsupportedProblem

OPTIMAL, INFEASIBLE, UNBOUNDED = 1, -1, -3
TOLERANCE = 1e-12


def maximise(objective: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray | None:
    """A maximiser of `<objective, x>` over `matrix x <= offset`, or None where the maximum is infinite.

    The linear program is solved by proximal steps that end at a vertex (Rockafellar 1976). Data should be of order
    one: unit rows, a unit objective, offsets not all tiny.

    Raises:
        InvalidInput: no x satisfies the constraints.
        UnsupportedProblem: the solver gave up.
    """
    x, flag = _solve(np.zeros((len(objective),) * 2), -objective, matrix, offset)
    return None if flag == UNBOUNDED else x


def nearest(point: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """The nearest x to `point` with `matrix x <= offset`, in 2-norm; errors as in `maximise`."""
    return _solve(np.eye(len(point)), -point, matrix, offset)[0]


def _solve(hessian: np.ndarray, slope: np.ndarray, matrix: np.ndarray, offset: np.ndarray) -> tuple[np.ndarray, int]:
    x, _, flag, _ = daqp.solve(
        hessian, slope, matrix, offset, np.full(len(offset), -1e30), primal_tol=TOLERANCE, eps_prox=-1.0
    )
    if flag == INFEASIBLE:
        raise InvalidInput("The polyhedron is empty: no point satisfies all its rows; relax its offset.")
    if flag not in (OPTIMAL, UNBOUNDED):
        raise UnsupportedProblem(
            f"daqp gave up on a program over the polyhedron (exit flag {flag}); rescale its rows, or drop redundant ones."
        )
    return x, flag
