"""Linear and quadratic programs over `A x <= b`, one at a time in float64, by daqp's exact active-set method.

Data should be of order one: unit rows of A, a unit objective. Tensors are float64 on the CPU.
"""

from __future__ import annotations

import daqp
import numpy as np
import torch
from torch import Tensor

from gatewise.errors import UnsupportedProblem

OPTIMAL, UNBOUNDED = 1, -3
TOLERANCE = 1e-12


def maximiser(objective: Tensor, matrix: Tensor, offset: Tensor) -> Tensor | None:
    """An x (n,) with the largest `<objective, x>` and `matrix x <= offset`; None where there is no largest.

    A linear program, solved by proximal steps that end at a vertex (Rockafellar, SIAM J. Control Optim. 1976).
    """
    n = len(objective)
    x, flag = _solve(np.zeros((n, n)), -objective, matrix, offset)
    return None if flag == UNBOUNDED else x


def nearest(point: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """The x (n,) nearest to `point` in 2-norm with `matrix x <= offset`."""
    return _solve(np.eye(len(point)), -point, matrix, offset)[0]


def inscribed_center(normals: Tensor, levels: Tensor) -> tuple[Tensor, bool]:
    """The centre of the largest ball in `normals x <= levels` (unit normals), and whether there is a largest.

    Where balls of any size fit, it is the centre of one; where none fits, the point that comes closest to a centre.
    """
    finite = levels[levels.isfinite()].abs()
    scale = float(finite.max()) if len(finite) and finite.max() > 0 else 1.0
    matrix = torch.cat([normals, torch.ones_like(normals[:, :1])], dim=1)
    radius = torch.zeros_like(matrix[0])
    radius[-1] = 1
    found = maximiser(radius, matrix, levels / scale)
    if found is not None:
        return scale * found[:-1], True
    capped = maximiser(radius, torch.cat([matrix, radius[None]]), torch.cat([levels / scale, radius[-1:]]))
    assert capped is not None
    return scale * capped[:-1], False


def _solve(hessian: np.ndarray, slope: Tensor, matrix: Tensor, offset: Tensor) -> tuple[Tensor, int]:
    above = offset.clamp(max=1e30).numpy()
    below = np.full_like(above, -1e30)
    x, _, flag, _ = daqp.solve(
        hessian, slope.numpy(), matrix.numpy(), above, below, primal_tol=TOLERANCE, eps_prox=-1.0
    )
    if flag not in (OPTIMAL, UNBOUNDED):
        raise UnsupportedProblem(
            f"daqp gave up on a program over the polyhedron (exit flag {flag}); rescale its rows, or drop "
            "redundant ones."
        )
    return torch.from_numpy(x), flag
