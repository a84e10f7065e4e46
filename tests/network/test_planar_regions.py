"""Regions of a plane: exact polygons that fill the window, on which the network is affine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gatewise.errors import InvalidInput, UnsupportedNetwork
from gatewise.network import Plane, crossings, planar_regions, view

from .networks import Everything, Lambda, mlp, pooled

CENTER = torch.zeros(1, 2, dtype=torch.float64)


def _padded_pool():
    torch.manual_seed(0)
    return nn.Sequential(nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.Linear(9, 4), nn.ReLU()).double().eval()


def _pool_after_relu():
    """Where all entries of a window are off, they tie at 0."""
    torch.manual_seed(0)
    front = [nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*front, nn.Linear(12, 4), nn.ReLU()).double().eval()


NETWORKS = {
    "mlp": (lambda: mlp(5, 20, 20, 20, 3), (5,)),
    "leaky pooled": (pooled, (1, 6, 6)),
    "padded overlapping pool": (_padded_pool, (1, 6, 6)),
    "pool after relu": (_pool_after_relu, (1, 6, 6)),
    "residual and everything": (lambda: Everything().double().eval(), (2, 6, 6)),
}


def _on_a_plane(name: str, seed: int):
    build, shape = NETWORKS[name]
    origin = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return Plane.drawn(origin, seed).of(view(build()))


def _inside(regions, count: int = 3):
    """`count` points in each region, (R, count, 2), and which region."""
    rng = np.random.default_rng(0)
    return np.stack([rng.dirichlet(np.ones(len(p)), count) @ p for p in map(regions.polygon, range(len(regions)))])


def _check(lens, regions):
    """All that is promised of any network's regions."""
    assert regions.area_error <= 1e-12
    assert (regions.areas > 0).all()  # counterclockwise
    patterns = lens.pattern(torch.from_numpy(regions.centers))
    flat = torch.cat([gate.flatten(1).long() for gate in patterns], 1).numpy()
    assert len(np.unique(flat, axis=0)) == len(regions)  # no region is in two polygons
    points = _inside(regions)
    slopes, values = regions.affine()
    expected = lens.plain(torch.from_numpy(points).flatten(0, 1)).detach().flatten(1).view(*points.shape[:2], -1)
    offsets = points - regions.centers[:, None]
    affine = values[:, None] + np.einsum("rok,rpk->rpo", slopes, offsets)
    np.testing.assert_allclose(affine, expected.numpy(), rtol=0, atol=1e-9)


def _sides_are_shared(regions):
    """Each side inside is two polygons', once in each direction."""
    ways = list(zip(regions.corners.tolist(), regions.following.tolist(), regions.gates.tolist(), strict=True))
    inside = {(a, b) for a, b, gate in ways if gate >= 0}
    assert len(inside) == sum(gate >= 0 for *_, gate in ways)
    assert all((b, a) in inside for a, b in inside)


@pytest.mark.parametrize("name", NETWORKS)
def test_polygons_fill_the_window_and_the_network_is_affine_on_each(name):
    lens = _on_a_plane(name, seed=1)
    regions = planar_regions(lens, CENTER, 4.0)
    assert len(regions) > 20
    _check(lens, regions)
    _sides_are_shared(regions)


@given(
    st.sampled_from(sorted(NETWORKS)),
    st.integers(2, 1000),
    st.floats(0.01, 3.0),
    st.tuples(st.floats(-1, 1), st.floats(-1, 1)),
)
def test_so_do_they_in_any_plane_and_window(name, seed, window, middle):
    lens = _on_a_plane(name, seed)
    _check(lens, planar_regions(lens, torch.tensor([middle], dtype=torch.float64), window))


@pytest.mark.parametrize("name", NETWORKS)
def test_each_is_the_linear_region_around_its_center(name):
    lens = _on_a_plane(name, seed=2)
    regions = planar_regions(lens, CENTER, 1.0)
    objects = regions.linear_regions()
    for corner in range(3):
        numbers = regions.largest_triangles[:, corner]
        assert bool(objects.contains(torch.from_numpy(regions.points[numbers]), tolerance=1e-9).all())
    slopes, _ = regions.affine()
    fat = regions.areas > 1e-8
    np.testing.assert_allclose(objects.matrix().numpy()[fat], slopes[fat], atol=1e-6)


def test_they_are_what_linear_region_says():
    lens = view(mlp(2, 8, 6, 1))
    regions = planar_regions(lens, CENTER, 2.0)
    objects = regions.linear_regions()
    for row in range(len(regions)):
        assert objects.area(-1, 1, row) == pytest.approx(regions.areas[row], abs=1e-12)


@pytest.mark.parametrize("hidden", [1, 2, 5, 12])
def test_one_hidden_layer_makes_as_many_as_its_lines_do(hidden):
    """Lines in general position make 1 + n + n (n - 1) / 2 regions where all crossings are in the window."""
    network = mlp(2, hidden, 1, seed=3)
    regions = planar_regions(view(network), CENTER, 1e4)
    assert len(regions) == 1 + hidden + hidden * (hidden - 1) // 2
    _sides_are_shared(regions)
    line = network[0]
    middles = regions.points[regions.sides()[0]].mean(1)
    units = regions.sides()[1][:, 1]
    heights = middles @ line.weight.detach().numpy().T + line.bias.detach().numpy()
    np.testing.assert_allclose(heights[np.arange(len(units)), units], 0, atol=1e-9)


def test_symmetric_networks_have_sides_that_coincide_and_lines_that_meet_in_one_point():
    fold = Lambda(lambda x: F.leaky_relu(x, 0.2).abs().sum(1, keepdim=True))
    assert len(planar_regions(view(fold), CENTER, 2.0)) == 4
    star = Lambda(lambda x: F.max_pool1d(torch.cat([x, -x, 0 * x], 1)[:, None], 5)[:, 0])
    regions = planar_regions(view(star), CENTER, 2.0)
    assert len(regions) == 4
    assert regions.area_error == 0
    clamped = Lambda(lambda x: x.clamp(-0.5, 0.5) + torch.minimum(x, x.flip(1)))
    regions = planar_regions(view(clamped), CENTER, 2.0)
    _check(view(clamped), regions)
    assert len(regions) == 12  # nine cells, three of which the diagonal parts


def test_a_linear_network_has_one_and_a_bias_free_one_meets_at_the_middle():
    linear = nn.Sequential(nn.Linear(2, 3)).double().eval()
    regions = planar_regions(view(linear), CENTER, 2.0)
    assert (len(regions), len(regions.points), regions.gates.max()) == (1, 4, -1)
    spokes = nn.Sequential(nn.Linear(2, 7, bias=False), nn.ReLU(), nn.Linear(7, 1)).double().eval()
    regions = planar_regions(view(spokes), CENTER, 2.0)
    assert len(regions) == 14
    _check(view(spokes), regions)


def test_crossings_of_a_path_are_counted_as_along_each_segment():
    lens = _on_a_plane("mlp", seed=5)
    regions = planar_regions(lens, CENTER, 2.0)
    path = np.random.default_rng(0).uniform(-1, 1, (12, 2))
    expected = [len(crossings(lens, torch.from_numpy(path[[i]]), torch.from_numpy(path[[i + 1]]))) for i in range(11)]
    assert regions.crossed(path).tolist() == [0, *expected]
    along_the_edge = np.array([[1.0, -0.9], [1.0, 0.9], [1.0, -0.9]])
    counts = regions.crossed(along_the_edge)
    assert counts[1] == counts[2] > 0


def test_a_corner_is_run_once():
    lens = _on_a_plane("mlp", seed=6)
    regions = planar_regions(lens, CENTER, 2.0)
    assert lens.meter.forwards <= len(regions.points) + 20


def test_work_in_blocks_changes_nothing(monkeypatch):
    lens = _on_a_plane("leaky pooled", seed=7)
    whole = planar_regions(lens, CENTER, 2.0)
    monkeypatch.setattr("gatewise.network.subdivision._HELD", 500)
    monkeypatch.setattr("gatewise.network.subdivision._RUN", 100)
    parts = planar_regions(lens, CENTER, 2.0)
    assert len(parts) == len(whole)
    np.testing.assert_allclose(np.sort(parts.areas), np.sort(whole.areas), atol=1e-12)
    _sides_are_shared(parts)


def test_planes_are_orthonormal_and_find_their_points_again():
    origin, one, other = torch.randn(3, 1, 4, 4, dtype=torch.float64)
    for plane in (Plane.drawn(origin, 1), Plane.through(origin, one, other)):
        gram = plane.directions.flatten(1) @ plane.directions.flatten(1).T
        torch.testing.assert_close(gram, torch.eye(2, dtype=torch.float64))
    torch.testing.assert_close(plane.at(plane.coordinates(torch.stack([one, other]))), torch.stack([one, other]))
    assert torch.equal(Plane.drawn(origin, 1).directions, Plane.drawn(origin, 1).directions)
    inputs = Plane.inputs(torch.zeros(2, dtype=torch.float64))
    assert torch.equal(inputs.at(CENTER + 0.3), CENTER + 0.3)


def test_the_module_on_a_plane_comes_back_as_it_was():
    network = mlp(4, 6, 2)
    lens = Plane.drawn(torch.zeros(4, dtype=torch.float64)).of(view(network))
    planar_regions(lens, CENTER, 1.0)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_what_has_no_regions_is_said():
    with pytest.raises(InvalidInput, match=r"Plane\.of"):
        planar_regions(view(mlp(4, 6, 2)), torch.zeros(1, 4, dtype=torch.float64), 1.0)
    with pytest.raises(InvalidInput, match="float64"):
        planar_regions(view(mlp(2, 6, 2, dtype=torch.float32)), CENTER.float(), 1.0)
    with pytest.raises(InvalidInput, match=r"\.double\(\)"):
        planar_regions(view(mlp(2, 6, 2, dtype=torch.float32)), CENTER, 1.0)
    with pytest.raises(InvalidInput, match="positive"):
        planar_regions(view(mlp(2, 6, 2)), CENTER, 0.0)
    with pytest.raises(InvalidInput, match="more than 5"):
        planar_regions(view(mlp(2, 30, 2)), CENTER, 10.0, most=5)
    with pytest.raises(UnsupportedNetwork, match="tanh"):
        planar_regions(view(nn.Sequential(nn.Linear(2, 3), nn.Tanh()).double().eval()), CENTER, 1.0)
    with pytest.raises(InvalidInput, match="one line"):
        Plane.through(CENTER[0], CENTER[0] + 1, CENTER[0] + 2)
    with pytest.raises(InvalidInput, match="one shape"):
        Plane.through(CENTER[0], CENTER[0] + 1, torch.ones(3, dtype=torch.float64))
    with pytest.raises(InvalidInput, match="there are two"):
        Plane.inputs(torch.zeros(3, dtype=torch.float64))
    with pytest.raises(InvalidInput, match="two entries"):
        Plane.drawn(torch.zeros(1, dtype=torch.float64))
