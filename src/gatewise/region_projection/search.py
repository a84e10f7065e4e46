"""The targets of a region, one after the other: the nearest half-spaces first, each ended by what is already found."""

from __future__ import annotations

import math

import numpy as np

from gatewise.errors import InvalidInput
from gatewise.region_projection.euclidean import Euclidean
from gatewise.region_projection.linear import Linear
from gatewise.region_projection.statement import Asking, Excess, Faces, Listed, Outcome, Projection


def nearest(
    faces: Faces,
    target_rows: np.ndarray,
    target_limits: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    cutoff: float = math.inf,
    p: float = 2,
    keep: float = 1.0,
) -> list[Projection]:
    """The shortest d in a region and a box, for the half-space of each target.

    Targets are solved in the order of bounds of their distances. After a solution at distance r the cutoff falls to
    `keep * r`, if that is less.

    Args:
        faces: m faces of the region, as seen from x. d = 0 may be beyond some.
        target_rows: (targets, n) float64 of any norms: target t wins where `target_rows[t] @ d <= target_limits[t]`.
        target_limits: (targets,) float64.
        lower: (n,) float64, finite, at most 0.
        upper: (n,) float64, finite, at least 0.
        cutoff: only distances below it are wanted.
        p: 1, 2 or `inf`.
        keep: at least 1: which multiple of the best solution is wanted too; `inf` leaves the cutoff alone.

    Returns:
        One projection a target, in the order of `target_rows`.

    Raises:
        InvalidInput: shapes that do not go together, a box that is infinite or leaves 0 out, or another p.
    """
    search = searching(faces, target_rows, target_limits, lower, upper, cutoff, p, keep)
    answer = None
    while True:
        try:
            asked = search.send(answer)  # type: ignore[arg-type]
        except StopIteration as ended:
            return ended.value
        answer = faces.excess(asked.d) if isinstance(asked, Excess) else faces.signed(asked.faces)


def searching(
    faces: Listed,
    target_rows: np.ndarray,
    target_limits: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    cutoff: float = math.inf,
    p: float = 2,
    keep: float = 1.0,
) -> Asking[list[Projection]]:
    """`nearest`, as a generator that asks for products and rows when it wants them: so that searches of many regions
    can be answered together, by whoever has the faces.
    """
    targets, n = target_rows.shape
    fits = faces.shape == (len(faces.limits), n) and lower.shape == upper.shape == (n,)
    if not fits or target_limits.shape != (targets,):
        raise InvalidInput(
            f"Rows of shape {faces.shape} with {faces.limits.shape} limits, targets of {target_rows.shape} with "
            f"{target_limits.shape} limits and a box of {lower.shape} do not go together; give (m, n) with (m,), "
            "(targets, n) with (targets,), and (n,)."
        )
    if not (lower <= 0).all() or not (upper >= 0).all() or not math.isfinite(float(upper.sum() - lower.sum())):
        raise InvalidInput("The box is infinite or leaves 0 out; give finite bounds of x, less x itself.")
    if p not in (1, 2, math.inf):
        raise InvalidInput(f"p is {p}; give 1, 2 or inf.")
    norms = np.sqrt(np.einsum("tn,tn->t", target_rows, target_rows))
    norms[norms == 0] = 1
    rows, limits = target_rows / norms[:, None], target_limits / norms
    search = (Euclidean if p == 2 else Linear)(faces, rows, limits, lower, upper, p)
    bounds = search.bounds(cutoff)
    found = [Projection(Outcome.PRUNED, bound) for bound in bounds.tolist()]
    for target in np.argsort(bounds).tolist():
        if bounds[target] < cutoff:
            found[target] = yield from search.solve(target, cutoff)
            cutoff = min(cutoff, keep * found[target].distance) if found[target].status is Outcome.SOLVED else cutoff
    return found
