"""Critical points of a smooth loss on a sphere: found from many starts, told apart, and classified.

From each start three descents along the sphere: of L, which ends at minima, of -L, which ends at maxima, and of
`||Gamma||² / 2`, which ends at critical points of any kind, saddles too. Their ends are polished by Newton steps on
the tangent space (MINRES: the tangent Hessian of a saddle is indefinite), kept where the tangent gradient vanishes, and
merged where two are one point. Nothing is a proof that all were found but an exact scan, which two inputs allow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gatewise.geometry import row_norm
from gatewise.sphere_dynamics import SphereLoss, matrix_free, tangential

Kind = Literal["minimum", "maximum", "saddle", "degenerate"]
Merit = Callable[[Tensor], tuple[Tensor, Tensor]]

_SAME = 1e-5  # of the radius: closer points are one
_FLAT = 1e-9  # of the largest gradient: a tangent gradient that counts as 0
_SINGULAR = 1e-9  # of the largest eigenvalue at any of the points: one that counts as 0


@dataclass(frozen=True, eq=False)
class CriticalPoints:
    """Critical points on a sphere, by L from the smallest on.

    `points` (k, size); `values` L (k,); `cosines` (k,), 1 or -1 up to rounding, but where dL itself vanishes;
    `eigenvalues` (k, 2), the smallest and the largest of Xi on tangent directions; `kinds`; `hits` (k,) int64, how many
    descents ended there.
    """

    points: Tensor
    values: Tensor
    cosines: Tensor
    eigenvalues: Tensor
    kinds: tuple[Kind, ...]
    hits: Tensor

    def of(self, kind: Kind) -> Tensor:
        """The points of one kind, (j, size)."""
        return self.points[[i for i, found in enumerate(self.kinds) if found == kind]]


def critical_points(
    loss: SphereLoss, *, starts: int = 64, seed: int = 0, steps: int = 300, saddles: bool = True
) -> CriticalPoints:
    """The critical points of L on the sphere that `starts` draws lead to.

    Args:
        loss: over the ball.
        starts: uniform draws on the sphere, from each of which all descents begin.
        seed: of the draws.
        steps: of each descent, at most.
        saddles: look for saddles, too: with two inputs there are none.
    """
    begin = loss.onto_sphere(loss.uniform(starts, seed))

    def down(x: Tensor) -> tuple[Tensor, Tensor]:
        state = loss.at(x)
        return state.value, state.tangent

    def up(x: Tensor) -> tuple[Tensor, Tensor]:
        state = loss.at(x)
        return -state.value, -state.tangent

    def level(x: Tensor) -> tuple[Tensor, Tensor]:
        tangent = loss.at(x).tangent
        return tangent.square().sum(1) / 2, loss.tangent_hessian(x)(tangent)

    merits = (down, up, level) if saddles and loss.size > 2 else (down, up)
    scale = float(row_norm(loss.gradient(begin)[1]).max())
    ends = torch.cat([_descend(loss, merit, begin, steps) for merit in merits])
    rough, hits = _merged(ends, torch.ones(len(ends), dtype=torch.int64), _SAME * loss.radius)
    polished = torch.cat([_polish(loss, point[None]) for point in rough])
    critical = row_norm(loss.at(polished).tangent) <= _FLAT * scale
    points, hits = _merged(polished[critical], hits[critical], _SAME * loss.radius)
    state = loss.at(points)
    order = state.value.argsort()
    points, hits = points[order], hits[order]
    eigenvalues = loss.extreme_eigenvalues(points) if len(points) else points.new_zeros(0, 2)
    slack = _SINGULAR * float(eigenvalues.abs().max()) if len(points) else 0.0
    return CriticalPoints(
        points,
        state.value[order],
        state.cosine[order],
        eigenvalues,
        tuple(_kind(low, high, slack) for low, high in eigenvalues.tolist()),
        hits,
    )


def _kind(low: float, high: float, slack: float) -> Kind:
    if low > slack:
        return "minimum"
    if high < -slack:
        return "maximum"
    return "saddle" if low < -slack and high > slack else "degenerate"


def _descend(loss: SphereLoss, merit: Merit, points: Tensor, steps: int) -> Tensor:
    """Gradient descent along the sphere from `points` (k, size), each row with a step of its own that grows while it
    serves and shrinks where it does not (Armijo 1966); no step is longer than a tenth of the radius.
    """
    value, slope = merit(points)
    longest = 0.1 * loss.radius
    eta = longest / row_norm(slope).clamp_min(1e-300)
    for _ in range(steps):
        length = row_norm(slope)
        eta = torch.minimum(eta, longest / length.clamp_min(1e-300))
        trial = loss.onto_sphere(points - eta[:, None] * slope)
        new_value, new_slope = merit(trial)
        better = new_value <= value - 0.1 * eta * length**2
        if not better.any() and bool((eta * length < 1e-12 * loss.radius).all()):
            break
        points, slope = (torch.where(better[:, None], a, b) for a, b in ((trial, points), (new_slope, slope)))
        value, eta = torch.where(better, new_value, value), torch.where(better, 1.5 * eta, eta / 3)
    return points


def _polish(loss: SphereLoss, point: Tensor, steps: int = 25) -> Tensor:
    """Newton steps on the tangent space from `point` (1, size), for as long as the tangent gradient shrinks."""
    from scipy.sparse.linalg import minres

    slope = loss.at(point).tangent
    for _ in range(steps):
        operator = matrix_free(loss.tangent_hessian(point), loss.size)
        found, _ = minres(operator, -slope[0].numpy(), rtol=1e-10, maxiter=min(4 * loss.size, 200))
        move = tangential(torch.from_numpy(found)[None], point)
        move = move * min(1.0, 0.1 * loss.radius / max(float(row_norm(move)), 1e-300))
        trial = loss.onto_sphere(point + move)
        new_slope = loss.at(trial).tangent
        if not float(row_norm(new_slope)) < float(row_norm(slope)):
            break
        point, slope = trial, new_slope
    return point


def _merged(points: Tensor, hits: Tensor, apart: float) -> tuple[Tensor, Tensor]:
    """The first of `points` (k, n) of each bunch no wider than `apart`, and the `hits` (k,) of the whole bunch."""
    kept: list[int] = []
    counts: list[int] = []
    for i, point in enumerate(points):
        near = row_norm(points[kept] - point) < apart
        if near.any():
            counts[int(near.int().argmax())] += int(hits[i])
        else:
            kept.append(i)
            counts.append(int(hits[i]))
    return points[kept], torch.tensor(counts, dtype=torch.int64)
