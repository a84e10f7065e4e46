"""The quantities of the sphere against their definitions, and critical points against an exact scan of the circle."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

from gatewise.critical_points import critical_points
from gatewise.errors import InvalidInput
from gatewise.sphere_dynamics import SphereLoss, tangential, walk, widest_angle


def two_layers(size: int, width: int, seed: int, *, radius: float, scale: float = 1.0, y: float = 1.0) -> SphereLoss:
    """`-(y - f)²` of a two-layer softplus network at Xavier's initialisation, around an input of norm `scale`."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(width, size, generator=generator, dtype=torch.float64) / size**0.5
    a = (torch.randint(2, (width,), generator=generator) * 2 - 1).double() / width**0.5
    x = torch.randn(size, generator=generator, dtype=torch.float64)
    x = scale * x / x.norm()
    return SphereLoss(lambda d: -(y - torch.nn.functional.softplus((x + d) @ w.T) @ a).square(), radius, size)


def dense_hessian(loss: SphereLoss, point: Tensor) -> Tensor:
    return torch.autograd.functional.hessian(lambda d: loss.value(d[None])[0], point)  # pyright: ignore


@pytest.mark.parametrize("size", [3, 40])
def test_the_quantities_are_those_of_their_definitions(size):
    loss = two_layers(size, 30, 0, radius=2.0)
    points = loss.onto_sphere(loss.uniform(3, 0))
    state = loss.at(points)
    assert state.on_sphere.all()
    assert not loss.at(points / 2).on_sphere.any()
    for i, point in enumerate(points):
        multiplier = float(state.gradient[i] @ point) / (2 * 2.0**2)
        assert state.multiplier[i].item() == pytest.approx(multiplier)
        torch.testing.assert_close(state.tangent[i], state.gradient[i] - 2 * multiplier * point)
        assert abs(float(state.tangent[i] @ point)) < 1e-12
        bend = dense_hessian(loss, point) - 2 * multiplier * torch.eye(size).double()
        full = torch.linalg.eigvalsh(bend)[[0, -1]]
        basis = torch.linalg.svd(point[None])[2][1:]  # of the tangent space
        flat = torch.linalg.eigvalsh(basis @ bend @ basis.T)[[0, -1]]
        torch.testing.assert_close(loss.extreme_eigenvalues(point[None])[0], flat, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(loss.extreme_eigenvalues(point[None], tangent=False)[0], full, rtol=1e-6, atol=1e-8)


def test_the_tangent_hessian_is_how_the_loss_bends_along_great_circles():
    loss = two_layers(5, 20, 1, radius=1.5)
    point = loss.onto_sphere(loss.uniform(1, 0))
    way = tangential(torch.randn(1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64), point)
    way = way / way.norm() * 1.5

    def along(t: float) -> float:
        return float(loss.value(point * math.cos(t) + way * math.sin(t)))

    h = 1e-4
    second = (along(h) - 2 * along(0) + along(-h)) / h**2
    assert float((way * loss.tangent_hessian(point)(way)).sum()) == pytest.approx(second, rel=1e-5)


def test_walks_stay_in_the_ball_and_go_down_to_a_minimum():
    loss = two_layers(6, 200, 2, radius=0.3)
    way = walk(loss, loss.uniform(8, 0), [0.02] * 300)
    assert way.points.norm(dim=2).max() <= 0.3
    assert (way.values.diff(dim=0) <= 1e-12).all()
    assert way.on_sphere[-1].all()
    assert way.cosines[-1].max() < -1 + 1e-6
    assert way.first(way.on_sphere).max() < 300
    assert way.first(torch.zeros_like(way.on_sphere)).tolist() == [301] * 8
    assert way.slopes[-1].max() < 1e-3


def test_the_widest_angle():
    assert widest_angle(torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 3.0]])) == pytest.approx(math.pi / 2)


def scan(loss: SphereLoss, places: int = 20_000) -> tuple[list[float], list[float]]:
    """The angles of all minima and of all maxima on the circle: sign changes of dL/dt, each refined to 1e-13."""

    def on_circle(t: Tensor) -> Tensor:
        return loss.radius * torch.stack([t.cos(), t.sin()], 1)

    def slope(t: Tensor) -> Tensor:
        points = on_circle(t)
        normal = torch.stack([-points[:, 1], points[:, 0]], 1)
        return (loss.gradient(points)[1] * normal).sum(1)

    angles = torch.arange(places + 1, dtype=torch.float64) * (2 * math.pi / places) + 0.1234
    slopes = slope(angles)
    found: tuple[list[float], list[float]] = ([], [])
    for i in (slopes[:-1] * slopes[1:] < 0).nonzero().flatten().tolist():
        root = brentq(lambda t: float(slope(torch.tensor([t]).double())), float(angles[i]), float(angles[i + 1]))
        found[int(slopes[i] > 0)].append(root % (2 * math.pi))
    return sorted(found[0]), sorted(found[1])


@pytest.mark.parametrize("seed", range(20))
def test_all_critical_points_of_the_circle_are_found_and_none_is_invented(seed):
    scale = (0.1, 1.0, 10.0, 100.0)[seed % 4]
    loss = two_layers(2, 20, seed, radius=scale * (1.0, 3.0)[seed % 2], scale=scale)
    found = critical_points(loss, starts=100, seed=seed)
    assert set(found.kinds) <= {"minimum", "maximum"}
    for kind, exact in zip(("minimum", "maximum"), scan(loss), strict=True):
        angles = sorted(math.atan2(y, x) % (2 * math.pi) for x, y in found.of(kind).tolist())
        assert angles == pytest.approx(exact, abs=1e-6)
    where_the_target_is_met = loss.gradient(found.points)[1].norm(dim=1) < 1e-6
    assert ((found.cosines.abs() > 1 - 1e-9) | where_the_target_is_met).all()


def test_all_kinds_of_a_quadratic_form_are_found():
    """Its critical points on the sphere are the eigenvectors and their opposites."""
    weights = torch.tensor([1.0, 2.0, 4.0, 7.0], dtype=torch.float64)
    loss = SphereLoss(lambda d: (d.square() * weights).sum(1), 2.0, 4)
    found = critical_points(loss, starts=40)
    assert found.kinds == ("minimum",) * 2 + ("saddle",) * 4 + ("maximum",) * 2
    torch.testing.assert_close(found.values, 4 * weights.repeat_interleave(2))
    at_least = torch.tensor([[2.0, 12.0], [-2.0, 10.0], [-6.0, 6.0], [-12.0, -6.0]]).double().repeat_interleave(2, 0)
    torch.testing.assert_close(found.eigenvalues, at_least)
    assert found.hits.sum() <= 3 * 40
    assert critical_points(loss, starts=40).points.equal(found.points)


@pytest.mark.parametrize(("radius", "size"), [(0.0, 3), (math.inf, 3), (1.0, 1)])
def test_what_is_no_sphere_is_refused(radius, size):
    with pytest.raises(InvalidInput):
        SphereLoss(lambda d: d.sum(1), radius, size)
