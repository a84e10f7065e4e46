"""Landscapes from Python: surfaces, trajectories, overlays, and the pictures made of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gatewise.combinators import Restarts
from gatewise.domains import Box
from gatewise.errors import InvalidInput
from gatewise.landscape import landscape
from gatewise.methods import ActivationDescent, GradientDescent, ProjectedGradient
from gatewise.network import Plane, crossings, view
from gatewise.objectives import CrossEntropy, Margin
from gatewise.problem import Problem
from gatewise.report.landscape_picture import draw_landscape
from gatewise.report.value_curves import Curve, draw_value_curves, over_rows
from gatewise.trajectory import follow

METHODS = {"gd": GradientDescent(step_size=0.1), "adr-gd": ActivationDescent(step_size=0.1), "pgd": ProjectedGradient()}
IMAGE = torch.rand(1, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def _classifier():
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 12), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(12, 3)).double().eval()


def _scene(window=4.0, **options):
    network = _classifier()
    label = network(IMAGE[None]).argmax(1)
    given = {"methods": METHODS, "budget": 20, "level": 0.0, "title": "margin"} | options
    return network, label, landscape(network, Margin(label), Plane.drawn(IMAGE, 1), window, **given)


def test_values_are_the_objectives_and_gradients_lead_uphill():
    network, label, scene = _scene()
    plane = Plane.drawn(IMAGE, 1)
    points = torch.from_numpy(scene.regions.points)
    margins = Margin(label.expand(len(points)))(points, network(plane.at(points)))
    np.testing.assert_allclose(scene.values, margins.detach().numpy(), atol=1e-12)
    at, gradients = (torch.from_numpy(part) for part in scene.arrows)
    step = 1e-7 * gradients
    labels = label.expand(len(at))
    before, after = (Margin(labels)(z, network(plane.at(z))) for z in (at - step, at + step))
    rise = ((after - before) / 2).detach() / 1e-7
    assert (torch.isclose(rise, gradients.square().sum(1), rtol=1e-4).double().mean()) > 0.95  # the rest lies on a kink


def test_trajectories_tell_what_happened_at_each_step():
    network, label, scene = _scene()
    plane = Plane.drawn(IMAGE, 1)
    lens = plane.of(view(network))
    for name, path in scene.paths.items():
        points = torch.from_numpy(path.points)
        assert path.points[0].tolist() == [0, 0]
        assert np.abs(path.points).max() <= 2.0
        margins = Margin(label.expand(len(points)))(points, network(plane.at(points)))
        np.testing.assert_allclose(path.values, margins.detach().numpy(), atol=1e-12)
        np.testing.assert_array_equal(path.best, np.minimum.accumulate(path.values))
        patterns = torch.cat([gate.flatten(1).long() for gate in lens.pattern(points)], 1)
        switched = (patterns[1:] != patterns[:-1]).sum(1)
        assert path.flips.tolist() == [0, *switched.tolist()]
        for step in range(1, len(points)):
            assert path.crossed[step] == len(crossings(lens, points[[step - 1]], points[[step]]))
        assert path.backwards[0] == 0
        assert 18 <= path.backwards[-1] <= 20
        assert (np.diff(path.seconds) > 0).all()
        has_eta = name == "adr-gd"
        assert np.isfinite(path.agreement[:-1]).all() == has_eta
        if has_eta:
            assert path.agreement[0] == 1  # eta starts as the pattern
            assert path.agreement[:-1].min() >= 0


def test_agreement_is_counted_gate_by_gate_and_row_by_row():
    """Against the definition: eta above 1/2 where the true pre-activation is above 0."""
    from gatewise.network.relaxed import RelaxedGates

    network, x = _classifier(), torch.stack([IMAGE, IMAGE + 0.4, 1 - IMAGE])
    lens = view(network)
    with torch.no_grad():
        first = lens.trace(x)
        gates = RelaxedGates(first, first.switches, 2000.0)
        moved = x.flip(0) * 1.3
        compared = gates.compared()
        agreement = gates.agreement(gates.free(compared, lens.trace(moved, compared)))
    before, after = ([p for p in lens.pattern(z) if p.dtype == torch.bool] for z in (x, moved))
    same = torch.cat([(a == b).flatten(1) for a, b in zip(before, after, strict=True)], 1)
    torch.testing.assert_close(agreement, same.double().mean(1))
    assert agreement.min() < 1


def test_a_trajectory_needs_no_plane_and_members_are_seen_too():
    network = _classifier()
    label = network(IMAGE[None]).argmax(1)
    problem = Problem(view(network), Box(0.0, 1.0), Margin(label), goal=Margin(label))
    method = Restarts(member=ActivationDescent(), times=2)
    path = follow(problem, method, IMAGE[None], budget=12)
    assert path.points.shape == (len(path.values), 1, 5, 5)
    assert path.crossed.sum() > 0
    assert np.isfinite(path.agreement).any()
    with pytest.raises(InvalidInput, match="float64"):
        follow(problem, method, IMAGE[None].float())


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_ball_is_cut_by_the_plane_and_kept_to(norm):
    _, _, scene = _scene(radius=0.3, norm=norm)
    plane, order = Plane.drawn(IMAGE, 1), {"linf": np.inf, "l2": 2}[norm]
    (ring,) = scene.rings.values()
    moves = (plane.at(torch.from_numpy(ring)) - IMAGE).flatten(1).numpy()
    np.testing.assert_allclose(np.linalg.norm(moves, ord=order, axis=1), 0.3, rtol=1e-9)
    following = np.roll(ring, -1, 0)
    assert (ring[:, 0] * following[:, 1] - ring[:, 1] * following[:, 0]).min() > 0  # counterclockwise
    for path in scene.paths.values():
        moved = (plane.at(torch.from_numpy(path.points)) - IMAGE).flatten(1).numpy()
        assert np.linalg.norm(moved, ord=order, axis=1).max() <= 0.3 + 1e-9


def test_climbing_and_plain_functions():
    network = _classifier()
    label = network(IMAGE[None]).argmax(1)
    plane = Plane.drawn(IMAGE, 1)
    scene = landscape(network, CrossEntropy(label), plane, 2.0, methods=METHODS, budget=10, maximise=True)
    for path in scene.paths.values():
        assert scene.shown(path.best)[-1] >= scene.shown(path.values)[0] > 0
    scene = landscape(network, lambda x, y: y[:, 0] + x.flatten(1).sum(1), plane, 2.0)
    points = torch.from_numpy(scene.regions.points)
    expected = network(plane.at(points))[:, 0] + plane.at(points).flatten(1).sum(1)
    np.testing.assert_allclose(scene.values, expected.detach().numpy(), atol=1e-12)


def test_the_contour_is_where_the_margin_is_zero():
    network, label, scene = _scene(40.0, methods=None)
    ends = scene.contour().reshape(-1, 2)
    assert len(ends) > 4
    points = torch.from_numpy(ends)
    margins = Margin(label.expand(len(points)))(points, network(Plane.drawn(IMAGE, 1).at(points)))
    # But where a third class ties inside a triangle, the margin is affine there.
    assert (margins.abs() < 1e-9).double().mean() > 0.9


def test_what_cannot_be_drawn_is_said():
    network, label = _classifier(), torch.zeros(1, dtype=torch.int64)
    plane = Plane.drawn(IMAGE, 1)
    with pytest.raises(InvalidInput, match="float64"):
        landscape(network.float(), Margin(label), Plane.drawn(IMAGE.float(), 1), 1.0)
    network.double()
    with pytest.raises(InvalidInput, match="outside the window"):
        landscape(network, Margin(label), plane, 1.0, start=(0.6, 0.0))
    with pytest.raises(InvalidInput, match="l1 ball"):
        landscape(network, Margin(label), plane, 1.0, radius=0.1, norm="l1")
    with pytest.raises(InvalidInput, match="radius"):
        landscape(network, Margin(label), plane, 1.0, radius=-0.1)


def test_pictures_are_written(tmp_path):
    _, _, scene = _scene(radius=0.5)
    draw_landscape([tmp_path / "a.png", tmp_path / "a.svg"], scene)
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (tmp_path / "a.svg").read_text()
    curves = {name: [Curve(path.best, path.backwards, path.seconds)] * 2 for name, path in scene.paths.items()}
    draw_value_curves([tmp_path / "curves.png"], curves, "margin")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_bands_are_quartiles_of_what_rows_had_reached():
    spent = [np.array([0, 1, 2]), np.array([0, 2, 4]), np.array([0, 1, 4])]
    best = [np.array([5.0, 3.0, 1.0]), np.array([4.0, 4.0, 0.0]), np.array([9.0, 2.0, 2.0])]
    at, (_, median, _) = over_rows(spent, best)
    assert (at[0], at[-1]) == (0, 4)
    assert median[0] == 5
    assert median[np.searchsorted(at, 1.5)] == 3
    assert median[-1] == 1
