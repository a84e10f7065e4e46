"""Nearest adversarial points: how little an image has to change before it is not classified as its label any more."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gatewise.catalogue import method_named
from gatewise.classification import Norm, attack_goal, check_images, norm_exponent
from gatewise.domains import Box, Domain
from gatewise.geometry import per_row, row_norm
from gatewise.methods.base import Method
from gatewise.network import NetworkView
from gatewise.objectives import Distance
from gatewise.problem import Problem
from gatewise.result import Result, Status
from gatewise.solve import Standing, minimize

DEFAULT_METHOD = "ddn"
"""What `nearest` searches by where nobody says."""
_TOLERANCE = 1e-7  # relative width at which the search on the segment ends, or four units in the last place


def nearest(
    classifier: nn.Module | NetworkView,
    images: Tensor,
    labels: Tensor,
    *,
    norm: Norm = "l2",
    method: Method | str = DEFAULT_METHOD,
    targets: Tensor | None = None,
    bounds: tuple[float, float] | None = (0.0, 1.0),
    budget: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    rows: Sequence[int] | None = None,
    progress: bool = True,
) -> Result:
    """Search for the point nearest to each image that is not classified as its label (or is as its target).

    What the method finds is then drawn toward the image, by a binary search on the segment between them, until it lies
    on the boundary: within 1e-7 of the distance in float64, within rounding in float32. It comes to lie past the
    boundary by more than the rounding of the logits, so that it is misclassified whatever is computed beside it.

    Args:
        classifier: module from images (batch, …) to logits (batch, classes >= 2), in evaluation mode.
        images: (batch, …) float32 or float64, within `bounds`; the module takes the same dtype.
        labels: (batch,) int64.
        norm: of the distance: l2, linf or l1. Some methods know one norm only, and say so.
        method: a method, or its name with settings, such as "multi-targeted:member=ddn".
        targets: (batch,) int64 where each image is to be classified as a class of its own choice.
        bounds: smallest and largest value of a pixel, or None.
        budget: backward passes a row; None leaves it to the method.
        seconds: wall-clock limit of the method's search.
        seed: of every random draw.
        rows: names of the rows for their random streams.
        progress: show a progress bar on a terminal.

    Returns:
        A `Result`: `goal_met` says which rows were found, `value` is the distance, infinite in the others, whose `x` is
        the image. A row that is misclassified from the start (or is of its target class) keeps its image, bit for bit,
        at distance 0. The passes of the search on the segment are counted; `history` ends before it.

    Raises:
        InvalidInput: images or labels that cannot be used, or an unknown norm.
        UnsupportedProblem: a method that cannot search in this norm or without bounds.
    """
    began = time.perf_counter()
    network = classifier if isinstance(classifier, NetworkView) else NetworkView(classifier)
    p = norm_exponent(norm)
    check_images(images, labels, bounds)
    search = Segments(network, labels, targets)
    forwards = network.meter.forwards
    with network.borrowed():
        domain = Box(-math.inf, math.inf) if bounds is None else Box(*bounds)
        origin = domain.project(images)  # a bound that their dtype does not hold may lie a rounding inside them
        goal = attack_goal(labels, targets)
        found = minimize(
            Problem(network, domain, Distance(origin, p), goal),
            method_named(method) if isinstance(method, str) else method,
            origin,
            budget=budget,
            seconds=seconds,
            stop=_at_distance_zero,
            seed=seed,
            rows=rows,
            progress=progress,
        )
        drawn = search.drawn(origin, found.x, found.goal_met, domain)
        # A point is taken over only where a fresh pass of all rows together, as the driver's was, agrees with it.
        with torch.no_grad():
            agreed = goal(drawn, network.plain(drawn)) <= 0
        met = agreed | found.goal_met
        x = torch.where(per_row(agreed, drawn), drawn, torch.where(per_row(found.goal_met, drawn), found.x, origin))
    return dataclasses.replace(
        found,
        x=x,
        value=row_norm(x - origin, p).where(met, torch.inf),
        goal_met=met,
        violation=domain.violation(x),
        status=tuple(Status.GOAL_MET if one else status for one, status in zip(met, found.status, strict=True)),
        forwards_per_row=(network.meter.forwards - forwards) / len(x),
        seconds=time.perf_counter() - began,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Segments:
    """The segments from images to points that are classified otherwise, and where the boundary crosses them.

    `network`; `labels` (batch,) int64 of the images; `targets` (batch,) int64, or None. Every pass is a plain one of
    the network, and counted.
    """

    network: NetworkView
    labels: Tensor
    targets: Tensor | None = None

    def drawn(self, origin: Tensor, points: Tensor, met: Tensor, domain: Domain) -> Tensor:
        """The points (batch, …), those that have `met` (batch,) bool the goal drawn toward `origin` (batch, …) as far
        as they meet it by more than the rounding of the logits; the origin itself where it meets the goal.

        In every entry a drawn point lies between its origin and where it was: inside `domain`, a box, and no farther in
        any norm. Only one that met the goal within rounding is first moved outward, by 16 times the tolerance at most:
        whether it is misclassified would depend on the rows that are computed beside it.
        """
        drawn = points.clone()
        everything = torch.arange(len(points), device=points.device)
        at_origin = self._past(everything, origin)
        drawn[at_origin] = origin[at_origin]
        met = met & ~at_origin
        tolerance = max(_TOLERANCE, 4 * torch.finfo(points.dtype).eps)
        doubtful = everything[met]
        doubtful = doubtful[~self._past(doubtful, points[doubtful], clearly=True)]
        for stretch in (1, 4, 16):
            way = (1 + stretch * tolerance) * (points[doubtful] - origin[doubtful])
            beyond = domain.project(origin[doubtful] + way)
            clear = self._past(doubtful, beyond, clearly=True)
            drawn[doubtful[clear]] = beyond[clear]
            doubtful = doubtful[~clear]
        ends = drawn.clone()
        inside, outside = torch.zeros_like(points.flatten(1)[:, 0]), torch.ones_like(points.flatten(1)[:, 0])
        while len(rows := everything[met & (outside - inside > tolerance * outside)]):
            share = (inside[rows] + outside[rows]) / 2
            middle = _between(origin[rows], ends[rows], share)
            past = self._past(rows, middle, clearly=True)
            outside[rows], inside[rows] = share.where(past, outside[rows]), share.where(~past, inside[rows])
            drawn[rows[past]] = middle[past]
        return drawn

    def gap(self, origin: Tensor, points: Tensor) -> Tensor:
        """By which share of their distance the points (batch, …), which meet the goal, lie past the boundary on the way
        to `origin` (batch, …), at most: (batch,) float64, a power of two, at least the dtype's `eps`; 1 where no point
        on the way fails the goal.
        """
        gap = torch.full((len(points),), torch.finfo(points.dtype).eps, dtype=torch.float64, device=points.device)
        rows = torch.arange(len(points), device=points.device)
        while len(rows):
            share = (1 - gap[rows]).to(points.dtype)
            rows = rows[self._past(rows, _between(origin[rows], points[rows], share)) & (gap[rows] < 1)]
            gap[rows] *= 2
        return gap

    def _past(self, rows: Tensor, x: Tensor, clearly: bool = False) -> Tensor:
        """Whether `x` (n, …), points of the `rows` (n,), meet the goal, (n,) bool; `clearly`: by more than the rounding
        of the logits.
        """
        if not len(rows):
            return torch.zeros(0, dtype=torch.bool, device=x.device)
        goal = attack_goal(self.labels[rows], None if self.targets is None else self.targets[rows])
        with torch.no_grad():
            logits = self.network(x)
            rounding = 4 * torch.finfo(logits.dtype).eps * logits.abs().amax(1) if clearly else 0
            return goal(x, logits) <= -rounding


def _between(origin: Tensor, x: Tensor, share: Tensor) -> Tensor:
    """`share` (batch,) of the way from `origin` to `x` (batch, …); no entry is rounded out of the way."""
    return (origin + per_row(share, x) * (x - origin)).clamp(torch.minimum(origin, x), torch.maximum(origin, x))


def _at_distance_zero(standing: Standing) -> Tensor:
    """Stop rule: nothing is nearer than the image itself."""
    return standing.goal_met & (standing.value == 0)
