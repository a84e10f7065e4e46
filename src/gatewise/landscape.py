"""The landscape of an objective over a plane of inputs: exact linear regions, gradients, and how methods walk there."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from gatewise.classification import Norm, norm_exponent
from gatewise.domains import Box, Domain, Intersection, L2Ball, Polyhedron
from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.methods.base import Method
from gatewise.network import NetworkView, Plane, planar_regions
from gatewise.objectives import Negative, Objective
from gatewise.objectives.base import ObjectiveFunction, part_of
from gatewise.problem import Problem
from gatewise.report.landscape_scene import Scene
from gatewise.trajectory import follow

_ARROWS = 15  # gradients along a side of the window
_RING = 256  # points of a circle


def landscape(
    network: nn.Module | NetworkView,
    objective: ObjectiveFunction,
    plane: Plane,
    window: float,
    *,
    methods: Mapping[str, Method] | None = None,
    center: tuple[float, float] = (0.0, 0.0),
    start: tuple[float, float] | None = None,
    radius: float | None = None,
    norm: Norm = "linf",
    budget: int | None = 100,
    seed: int = 0,
    maximise: bool = False,
    level: float | None = None,
    title: str = "objective",
) -> Scene:
    """What an objective looks like over a square of a plane, and the ways that methods take from one point of it.

    Methods see the network on the plane, two inputs, and stay in the square and, with a radius, in the ball.

    Args:
        network: module or view, in float64.
        objective: `(x, y) -> (batch,)` of inputs (not coordinates) and outputs; an `Objective` with labels has one.
        plane: through input space, float64, on the network's device.
        window: side of the square, in input units.
        methods: by the names to be shown; each walks from the same start at the same budget.
        center: of the square, coordinates in the plane.
        start: of the methods, coordinates in the plane; None: the center.
        radius: of a ball around the center, whose edge is shown.
        norm: of that ball, in input space: linf or l2.
        budget: backward passes of each method.
        seed: of the methods' random streams.
        maximise: look for large values of the objective.
        level: a value whose contour is shown.
        title: of the objective.

    Raises:
        InvalidInput: a network that is not float64, a start outside the window, a norm without a ball here.
        UnsupportedNetwork: the network is not piecewise linear.
    """
    if plane.origin.dtype != torch.float64:
        raise InvalidInput(f"A landscape is drawn in float64, the plane is {plane.origin.dtype}; convert it.")
    view = plane.of(network if isinstance(network, NetworkView) else NetworkView(network))
    middle = torch.tensor([center], dtype=torch.float64, device=plane.origin.device)
    begin = middle if start is None else torch.tensor([start], dtype=torch.float64, device=middle.device)
    if (begin - middle).abs().max() > window / 2:
        raise InvalidInput(f"The start {start} lies outside the window, which reaches {window / 2:g} from its center.")
    regions = planar_regions(view, middle, window)
    shown = _OnPlane(plane, objective)
    rings, domain = _ball(plane, middle, window, radius, norm)
    problem = Problem(view, domain, Negative(shown) if maximise else shown)
    paths = {
        name: follow(problem, method, begin, budget=budget, seed=seed, regions=regions)
        for name, method in (methods or {}).items()
    }
    points = torch.from_numpy(regions.points).to(middle)
    ticks = (torch.arange(_ARROWS).to(middle) + 0.5) / _ARROWS * window - window / 2
    grid = torch.cartesian_prod(ticks, ticks) + middle
    return Scene(
        regions=regions,
        values=_repeated(shown, points, regions.outputs)(points, regions.outputs).double().cpu().numpy(),
        arrows=(grid.cpu().numpy(), _gradients(view, shown, grid)),
        paths=paths,
        rings=rings,
        level=level,
        objective=title,
        climbs=maximise,
        axes=plane.axes,
    )


@dataclass(frozen=True, eq=False)
class _OnPlane(Objective):
    """An objective of inputs, asked at coordinates."""

    plane: Plane
    objective: ObjectiveFunction

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        return self.objective(self.plane.at(x), y)

    def of_rows(self, rows: Tensor, x: Tensor, y: Tensor) -> _OnPlane:
        return _OnPlane(self.plane, part_of(self.objective, rows, self.plane.at(x), y))


def _repeated(objective: _OnPlane, x: Tensor, y: Tensor) -> Objective:
    """The objective of one row for each row of `x`; a plain function serves any number."""
    try:
        return objective.of_rows(torch.zeros(len(x), dtype=torch.int64, device=x.device), x[:1], y[:1])
    except UnsupportedProblem:
        return objective


def _gradients(view: NetworkView, objective: _OnPlane, points: Tensor) -> np.ndarray:
    """(k, 2)."""
    found = []
    for some in points.split(64):
        with torch.no_grad():
            outputs = view.plain(some)
        problem = Problem(view, Box(-math.inf, math.inf), _repeated(objective, some, outputs))
        found.append(problem.at(some).gradient())
    return torch.cat(found).cpu().numpy()


def _ball(
    plane: Plane, middle: Tensor, window: float, radius: float | None, norm: Norm
) -> tuple[dict[str, np.ndarray], Domain]:
    """The edge of a ball around the `middle` (1, 2) in the plane, a closed line (m, 2), by its name; and the set that
    methods keep to: the square, in the ball.
    """
    square = Box(middle[0] - window / 2, middle[0] + window / 2)
    if radius is None:
        return {}, square
    if not radius > 0:
        raise InvalidInput(f"The radius must be positive, got {radius:g}.")
    if norm_exponent(norm) == 1:
        raise InvalidInput("The l1 ball has too many faces to be drawn in a plane; choose linf or l2.")
    around, called = middle[0].cpu().numpy(), f"{norm} ball, radius {radius:g}"
    if norm_exponent(norm) == 2:
        angles = np.linspace(0, 2 * math.pi, _RING, endpoint=False)
        circle = around + radius * np.stack([np.cos(angles), np.sin(angles)], 1)
        return {called: circle}, Intersection(L2Ball(middle, radius), square)
    corners = around + _linf_corners(plane.directions.flatten(1).cpu().numpy(), radius)
    ways = np.roll(corners, -1, 0) - corners
    normals = np.stack([ways[:, 1], -ways[:, 0]], 1) / np.linalg.norm(ways, axis=1)[:, None]
    polygon = Polyhedron(torch.from_numpy(normals), torch.from_numpy((normals * corners).sum(1)))
    return {called: corners}, Intersection(polygon, square)


def _linf_corners(directions: np.ndarray, radius: float) -> np.ndarray:
    """The corners of `|a u + b v| <= radius` for `directions` u, v (2, n): (m, 2), counterclockwise.

    The set is the polar of the points (u_i, v_i): its corners are the sides of their convex hull with their opposites.
    """
    from scipy.spatial import ConvexHull

    points = np.concatenate([directions.T, -directions.T]) / radius
    hull = points[ConvexHull(points).vertices]
    after = np.roll(hull, -1, 0)
    corners = np.stack([after[:, 1] - hull[:, 1], hull[:, 0] - after[:, 0]], 1)
    return corners / (hull[:, 0] * after[:, 1] - hull[:, 1] * after[:, 0])[:, None]
