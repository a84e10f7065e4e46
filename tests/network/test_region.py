"""Linear regions as objects, against the network itself and against matrices written out."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from gatewise.errors import InvalidInput, UnsupportedNetwork
from gatewise.network import crossings, view

from .networks import Everything, Lambda, matrices, mlp, pooled

NETWORKS = {
    "mlp": (mlp(4, 7, 6, 3), (4,)),
    "pooled": (pooled(), (1, 6, 6)),
    "padded pool": (nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(9, 4), nn.ReLU()).double(), (1, 6, 6)),
    "everything": (Everything().double().eval(), (2, 6, 6)),
}


def _points(shape, rows=3, seed=0):
    return torch.randn(rows, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(params=NETWORKS, ids=str)
def case(request):
    network, shape = NETWORKS[request.param]
    x = _points(shape)
    lens = view(network.eval())
    return lens, x, lens.region(x)


def test_inside_it_is_the_network(case):
    lens, x, region = case
    assert bool(region.contains(x).all())
    nearest = region.distances().where(region.distances() > 0, torch.inf).amin(1)
    step = _points(x.shape[1:], seed=1)
    inside = x + step * (0.9 * nearest / step.flatten(1).norm(dim=1)).view(-1, *[1] * (x.ndim - 1))
    assert bool(region.contains(inside).all())
    for mine, its in zip(lens.pattern(inside), region.pattern, strict=True):
        assert torch.equal(mine, its)
    torch.testing.assert_close(region.output(inside), lens.plain(inside).detach(), rtol=0, atol=1e-12)


def test_a_point_is_inside_exactly_where_its_pattern_is_the_same(case):
    lens, x, region = case
    for seed in range(2, 30):
        other = x + 0.05 * _points(x.shape[1:], seed=seed)
        same = [(a == b).flatten(1).all(1) for a, b in zip(lens.pattern(other), region.pattern, strict=True)]
        assert torch.equal(region.contains(other), torch.stack(same).all(0))


def test_products_and_matrices_agree(case):
    lens, x, region = case
    d = _points(x.shape[1:], seed=3)
    normals, matrix = region.normals(), region.matrix()
    assert normals.shape == (len(x), region.faces, x[0].numel())
    flat = d.flatten(1)[:, :, None]
    torch.testing.assert_close(region.push_faces(d), (normals @ flat)[..., 0], atol=1e-11, rtol=0)
    torch.testing.assert_close(region.push(d).flatten(1), (matrix @ flat)[..., 0], atol=1e-11, rtol=0)
    torch.testing.assert_close(region.norms, normals.norm(dim=2), atol=1e-11, rtol=0)
    weights = torch.randn_like(region.slacks(x))
    torch.testing.assert_close(
        region.pull_faces(weights).flatten(1), (weights[:, None] @ normals)[:, 0], atol=1e-11, rtol=0
    )
    pulled = region.pull(torch.ones_like(region.offset)).flatten(1)
    torch.testing.assert_close(pulled, matrix.sum(1), atol=1e-11, rtol=0)
    torch.testing.assert_close(region.offset + region.push(x), lens.plain(x).detach(), atol=1e-11, rtol=0)
    some = torch.randint(0, region.faces, (len(x), 5), generator=torch.Generator().manual_seed(0))
    expected = normals.gather(1, some[..., None].expand(-1, -1, normals.shape[2]))
    torch.testing.assert_close(region.normals(some), expected, atol=1e-12, rtol=0)


def test_matrices_written_out():
    network = mlp(4, 7, 6, 3)
    (first, second, last), (a, b, c) = matrices(network)
    x = _points((4,), rows=1)
    region = view(network).region(x)
    on = (first @ x[0] + a > 0).double()
    inner = second * on @ first
    on_too = (second * on @ (first @ x[0] + a) + b > 0).double()
    signs = torch.cat([on, on_too]) * 2 - 1
    torch.testing.assert_close(region.normals()[0], signs[:, None] * torch.cat([first, inner]))
    torch.testing.assert_close(region.matrix()[0], last * on_too @ inner)
    offset = last * on_too @ (second * on @ a + b) + c
    torch.testing.assert_close(region.offset[0], offset)


def test_across_a_face_is_the_neighbour(case):
    lens, x, region = case
    distances = region.distances()
    face = distances.where(distances > 0, torch.inf).argmin(1)
    normals = region.normals(face[:, None])[:, 0]
    # Just beyond the nearest face, straight toward it.
    way = -normals / normals.norm(dim=1, keepdim=True) * distances.gather(1, face[:, None]) * (1 + 1e-6)
    beyond = x + way.view_as(x)
    neighbour = region.across(face)
    assert bool(neighbour.contains(beyond).all())
    for mine, its in zip(lens.pattern(beyond), neighbour.pattern, strict=True):
        assert torch.equal(mine, its)
    back = neighbour.slacks(x).gather(1, face[:, None])[:, 0]
    pools = any(gate.pool is not None for gate in region.gates)
    assert bool((back < 0).all()) or pools  # a pool lists the lead over the new winner elsewhere
    stays = region.across(torch.full_like(face, -1))
    assert all(torch.equal(a, b) for a, b in zip(stays.pattern, region.pattern, strict=True))


@pytest.mark.parametrize("name", NETWORKS)
def test_crossings_are_where_the_pattern_changes(name):
    network, shape = NETWORKS[name]
    lens, start, end = view(network.eval()), _points(shape, 1, 5), 2 * _points(shape, 1, 6)
    shares = crossings(lens, start, end)
    assert len(shares) > 3
    assert (np.diff(shares) > 0).all()
    edges = np.concatenate([[0.0], shares, [1.0]])
    for low, high in pairwise(edges):
        if high - low < 1e-8:
            continue
        points = [start + (low + share * (high - low)) * (end - start) for share in (0.01, 0.5, 0.99)]
        first, *others = [torch.cat([p.flatten() for p in lens.pattern(point)]) for point in points]
        assert all(torch.equal(first, other) for other in others)
    around = [torch.cat([p.flatten() for p in lens.pattern(start + s * (end - start))]) for s in shares - 1e-9]
    beyond = [torch.cat([p.flatten() for p in lens.pattern(start + s * (end - start))]) for s in shares + 1e-9]
    assert all(not torch.equal(a, b) for a, b in zip(around, beyond, strict=True))
    there_and_back = 1 - crossings(lens, end, start)[::-1]
    np.testing.assert_allclose(shares, there_and_back, atol=1e-9)


def test_no_crossing_in_a_linear_network():
    lens = view(nn.Sequential(nn.Linear(3, 2)).double().eval())
    x = _points((3,), 1)
    assert len(crossings(lens, x, -x)) == 0
    assert view(nn.Sequential(nn.Linear(3, 2)).double().eval()).region(x).faces == 0


def test_polygons_of_a_plane_fill_the_square():
    network = mlp(2, 8, 6, 1)
    lens = view(network)
    grid = torch.linspace(-0.999, 0.999, 60, dtype=torch.float64)
    points = torch.cartesian_prod(grid, grid)
    patterns = torch.cat([p.flatten(1) for p in lens.pattern(points)], 1)
    _, first = np.unique(patterns.numpy(), axis=0, return_index=True)
    area = 0.0
    for index in first:
        region = lens.region(points[index : index + 1])
        corners = torch.from_numpy(region.polygon(-1, 1))
        inner = lens.region(region.point.expand(len(corners), -1))
        assert bool(inner.contains(corners, tolerance=1e-9).all())
        of_this = region.area(-1, 1)
        assert of_this > 0  # counterclockwise
        area += of_this
    assert area <= 4 + 1e-9
    assert area > 3.99  # what is missing are regions finer than the grid
    with pytest.raises(InvalidInput, match="two inputs"):
        view(mlp(3, 4, 1)).region(_points((3,), 1)).polygon(-1, 1)


def test_leaky_and_absolute_gates_have_one_face_each():
    lens = view(Lambda(lambda x: torch.nn.functional.leaky_relu(x, 0.2).abs().sum(1, keepdim=True)))
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    region = lens.region(x)
    assert region.faces == 4
    assert region.matrix()[0, 0].tolist() == pytest.approx([1.0, -0.2])


def test_what_cannot_be_a_region_is_said():
    pool = nn.Sequential(nn.AdaptiveMaxPool2d(2), nn.Flatten()).double().eval()
    with pytest.raises(UnsupportedNetwork, match="windows"):
        view(pool).region(_points((1, 5, 5)))
    region = view(mlp(4, 7, 3)).region(_points((4,)))
    with pytest.raises(InvalidInput, match="push_faces"):
        region.normals(memory=100)
    with pytest.raises(InvalidInput, match="float64"):
        crossings(view(mlp(4, 7, 3, dtype=torch.float32)), torch.zeros(1, 4), torch.ones(1, 4))


def test_passes_are_counted():
    lens = view(mlp(4, 7, 3))
    x = _points((4,))
    region = lens.region(x)
    assert (lens.meter.forwards, lens.meter.backwards) == (3, 0)
    region.slacks(x)
    assert lens.meter.forwards == 6
    region.pull_faces(torch.ones(3, 7, dtype=torch.float64))
    region.pull_faces(torch.ones(3, 7, dtype=torch.float64))
    assert lens.meter.backwards == 6
