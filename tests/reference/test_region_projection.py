"""Projections onto linear regions against daqp (p = 2) and linprog (p = 1 and infinity), and their certificates."""

import math

import daqp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from gatewise.errors import InvalidInput
from gatewise.readers import read_images, read_weights
from gatewise.region_projection import Faces, Outcome, nearest
from gatewise.region_projection.region import Region

SEEDS = st.integers(0, 2**31 - 1)
NORMS = [1, 2, math.inf]
each_norm = pytest.mark.parametrize("p", NORMS)


def unit_rows(rng, m, n):
    rows = rng.normal(size=(m, n))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def random_problem(seed, faces=None):
    """Faces around a point of the box, some of which the origin violates, and three targets: arguments of `nearest`."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 13)), int(rng.integers(0, 40)) if faces is None else faces
    x = rng.random(n) * (rng.random(n) < 0.6)  # many coordinates at the bound, as in images
    lower, upper = -x, 1 - x
    inside = lower + rng.random(n) * (upper - lower)
    rows, signs = unit_rows(rng, m, n), rng.choice([-1.0, 1.0], m)
    limits = signs * (rows @ inside) + rng.exponential(0.3, m)
    targets = rng.normal(size=(3, n))
    return Faces(rows, limits, signs), targets, targets @ inside - 0.3 * rng.random(3), lower, upper


def norm(d, p):
    return float(np.linalg.norm(d, p))


def stacked(faces, target_row, target_limit):
    rows = faces.rows if faces.signs is None else faces.signs[:, None] * faces.rows
    size = np.linalg.norm(target_row) or 1.0
    return np.vstack([target_row / size, rows]), np.append(target_limit / size, faces.limits)


def reference_distance(p, faces, target_row, target_limit, lower, upper):
    """The distance as other solvers find it; `inf` for an empty set."""
    A, b = stacked(faces, target_row, target_limit)
    n = len(lower)
    if p == 2:
        below = np.append(lower, np.full(len(b), -1e30))
        d, _, flag, _ = daqp.solve(
            np.eye(n), np.zeros(n), A, np.append(upper, b), below, primal_tol=1e-11, eps_prox=-1.0
        )
        assert flag in (1, -1)
        return norm(d, 2) if flag == 1 else math.inf
    if p == 1:
        bounds = [*((0, high) for high in upper), *((0, -low) for low in lower)]
        found = linprog(np.ones(2 * n), A_ub=np.hstack([A, -A]), b_ub=b, bounds=bounds)
    else:
        ones, bounds = np.ones((n, 1)), [*zip(lower, upper, strict=True), (0, None)]
        A = np.vstack([np.hstack([A, 0 * A[:, :1]]), np.hstack([np.eye(n), -ones]), np.hstack([-np.eye(n), -ones])])
        found = linprog(np.append(np.zeros(n), 1.0), A_ub=A, b_ub=np.append(b, np.zeros(2 * n)), bounds=bounds)
    assert found.status in (0, 2)
    return float(found.fun) if found.status == 0 else math.inf


def all_targets(problem, p):
    faces, targets, limits, lower, upper = problem
    return [reference_distance(p, faces, *target, lower, upper) for target in zip(targets, limits, strict=True)]


def check(found, problem, p):
    """Every promise of solved and empty projections, against the other solvers."""
    faces, targets, limits, lower, upper = problem
    accuracy = 1e-8 if p == 2 else 1e-7  # linprog stops at 1e-7
    for target, (projection, distance) in enumerate(zip(found, all_targets(problem, p), strict=True)):
        assert projection.lower_bound <= distance + (1e-9 if p == 2 else 1e-7)
        if distance == math.inf:
            assert projection.status is Outcome.EMPTY
            assert projection.lower_bound == math.inf
            continue
        assert projection.status is Outcome.SOLVED
        assert projection.distance == pytest.approx(distance, rel=accuracy, abs=1e-9)
        assert projection.distance == pytest.approx(norm(projection.point, p), rel=1e-12)
        assert ((projection.point >= lower) & (projection.point <= upper)).all()
        A, b = stacked(faces, targets[target], limits[target])
        excess = A @ projection.point - b
        assert excess.max() <= projection.residual + 1e-12
        assert projection.residual <= 1e-8 * projection.distance + 1e-11
        assert abs(projection.gap) <= 1e-8 * projection.distance + 1e-11
        y = np.zeros(len(b))
        y[0], y[1 + projection.active] = projection.target_multiplier, projection.multipliers
        assert (y >= 0).all()
        assert abs(y @ excess) <= 1e-7 * projection.distance + 1e-10
        if p == 2:
            assert np.allclose(np.clip(-A.T @ y, lower, upper), projection.point, atol=1e-12)


@each_norm
@given(seed=SEEDS)
def test_distance_equals_a_general_solver(p, seed):
    problem = random_problem(seed)
    check(nearest(*problem, p=p, keep=math.inf), problem, p)


@each_norm
@pytest.mark.parametrize("seed", range(4))
def test_many_faces(p, seed):
    problem = random_problem(seed, faces=400)
    check(nearest(*problem, p=p, keep=math.inf), problem, p)


@each_norm
@given(seed=SEEDS)
def test_faces_that_repeat_vanish_or_meet_in_a_plane(p, seed):
    faces, targets, limits, lower, upper = random_problem(seed)
    rows, bounds = faces.signed(np.arange(len(faces.limits))), faces.limits
    rng = np.random.default_rng(seed)
    inside = lower + rng.random(len(lower)) * (upper - lower)
    plane = unit_rows(rng, 1, len(lower))
    rows = np.concatenate([rows, rows, np.zeros((2, len(lower))), plane, -plane])
    bounds = np.concatenate([bounds, bounds, [0.0, 1.0], plane @ inside, -plane @ inside])
    order = rng.permutation(len(bounds))
    problem = (Faces(np.ascontiguousarray(rows[order]), bounds[order]), targets, limits, lower, upper)
    check(nearest(*problem, p=p, keep=math.inf), problem, p)


@each_norm
@given(seed=SEEDS)
def test_coordinates_that_cannot_move(p, seed):
    faces, targets, limits, lower, upper = random_problem(seed)
    fixed = np.random.default_rng(seed).random(len(lower)) < 0.5
    lower[fixed] = upper[fixed] = 0
    problem = (faces, targets, limits, lower, upper)
    check(nearest(*problem, p=p, keep=math.inf), problem, p)


@each_norm
@given(seed=SEEDS)
def test_empty_sets(p, seed):
    faces, targets, limits, lower, upper = random_problem(seed)
    away = faces.signed(np.arange(len(faces.limits)))[:1] if len(faces.limits) else np.eye(1, len(lower))
    # A face and its opposite, with a gap between them.
    level = away @ (lower + upper) / 2
    rows = np.concatenate([faces.rows, away, -away])
    signs = np.append(faces.signs, [1.0, 1.0])
    problem = (Faces(rows, np.concatenate([faces.limits, level, -level - 0.01]), signs), targets, limits, lower, upper)
    check(nearest(*problem, p=p, keep=math.inf), problem, p)
    assert {projection.status for projection in nearest(*problem, p=p)} == {Outcome.EMPTY}


@each_norm
def test_rows_of_zeros_that_nothing_meets(p):
    _, _, _, lower, upper = random_problem(0)
    n = len(lower)
    never, always = Faces(np.zeros((1, n)), np.array([-0.1])), Faces(np.zeros((1, n)), np.array([0.0]))
    target, limit = np.zeros((1, n)), np.array([0.0])
    assert nearest(never, target, limit, lower, upper, p=p)[0].status is Outcome.EMPTY
    assert nearest(always, target, limit - 1, lower, upper, p=p)[0].status is Outcome.EMPTY
    found = nearest(always, target, limit, lower, upper, p=p)[0]
    assert (found.status, found.distance, found.lower_bound) == (Outcome.SOLVED, 0.0, 0.0)


@each_norm
@given(seed=SEEDS, share=st.floats(0.1, 2))
def test_pruned_only_what_is_not_nearer(p, seed, share):
    problem = random_problem(seed)
    distances = np.array(all_targets(problem, p))
    cutoff = share * float(np.median(distances[np.isfinite(distances)])) if np.isfinite(distances).any() else share
    found = nearest(*problem, cutoff=cutoff, p=p)
    best = min([cutoff, *(projection.distance for projection in found)])
    for projection, distance in zip(found, distances, strict=True):
        assert projection.lower_bound <= distance + (1e-9 if p == 2 else 1e-7)
        if projection.status is Outcome.PRUNED:
            assert projection.lower_bound >= best * (1 - 1e-8)
            assert distance >= best * (1 - 1e-7)
    if distances.min() < cutoff * (1 - 1e-6):
        assert best == pytest.approx(distances.min(), rel=1e-7)


@each_norm
def test_which_solutions_are_kept(p):
    problem = random_problem(7)
    distances = np.array(all_targets(problem, p))
    best, second = np.sort(distances)[:2]
    solved = {
        keep: [projection.status is Outcome.SOLVED for projection in nearest(*problem, p=p, keep=keep)]
        for keep in (1.0, 1.01 * second / best)
    }
    assert solved[1.0][int(distances.argmin())]
    assert (np.array(solved[1.01 * second / best]) >= (distances <= second)).all()
    assert all(projection.status is Outcome.SOLVED for projection in nearest(*problem, p=p, keep=math.inf))


def test_signs_are_the_rows_with_their_signs():
    faces, *rest = random_problem(3, faces=200)
    formed = Faces(faces.signed(np.arange(200)), faces.limits)
    for shared, copied in zip(nearest(faces, *rest), nearest(formed, *rest), strict=True):
        assert shared.status is copied.status
        assert shared.lower_bound == pytest.approx(copied.lower_bound, rel=1e-10)


@each_norm
def test_an_uncertified_point_says_so_and_its_bound_holds(p, monkeypatch):
    problem = random_problem(1, faces=300)
    monkeypatch.setattr(Region, "rounds", 1)
    found = nearest(*problem, p=p, keep=math.inf)
    assert Outcome.STALLED in {projection.status for projection in found}
    for projection, distance in zip(found, all_targets(problem, p), strict=True):
        assert projection.lower_bound <= distance + 1e-7
        assert projection.status is Outcome.SOLVED or projection.residual > 1e-8 * projection.distance


def test_refused():
    faces, targets, limits, lower, upper = random_problem(0)
    with pytest.raises(InvalidInput, match="do not go together"):
        nearest(faces, targets[:, 1:], limits, lower, upper)
    with pytest.raises(InvalidInput, match="do not go together"):
        nearest(faces, targets, limits[1:], lower, upper)
    with pytest.raises(InvalidInput, match="leaves 0 out"):
        nearest(faces, targets, limits, lower, upper - 1)
    with pytest.raises(InvalidInput, match="infinite"):
        nearest(faces, targets, limits, lower, upper + math.inf)
    with pytest.raises(InvalidInput, match="p is 3"):
        nearest(faces, targets, limits, lower, upper, p=3)


@pytest.fixture(scope="module")
def image_regions(data_folder):
    """Four regions of a trained 784-50-10 network around the ends of short random walks from test images."""
    weights = read_weights(data_folder / "models/mnist_mlp/n1.safetensors")
    W1, b1, W2, b2 = (weights[name].double().numpy() for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
    size = np.linalg.norm(W1, axis=1)
    images = read_images("mnist:test", count=4)
    problems, rng = [], np.random.default_rng(0)
    for image, label in zip(images.images, images.labels.tolist(), strict=True):
        x = image.double().numpy().ravel()
        y = np.clip(x + 0.05 * rng.normal(size=784), 0, 1)
        on = W1 @ y + b1 > 0
        signs = np.where(on, -1.0, 1.0)
        V, a = (W2 * on) @ W1, (W2 * on) @ b1 + b2
        others = np.delete(np.arange(10), label)
        logits = V @ x + a
        faces = Faces(W1 / size[:, None], -signs * (W1 @ x + b1) / size, signs)
        problems.append((faces, V[label] - V[others], logits[others] - logits[label], -x, 1 - x))
    return problems


def test_regions_of_a_trained_network(image_regions):
    for problem in image_regions:
        check(nearest(*problem, keep=math.inf), problem, 2)


@pytest.mark.parametrize("p", [1, math.inf])
def test_linear_programs_of_a_trained_network(image_regions, p):
    faces, targets, limits, lower, upper = image_regions[0]
    problem = (faces, targets[:2], limits[:2], lower, upper)
    check(nearest(*problem, p=p, keep=math.inf), problem, p)


def test_pruning_on_a_trained_network(image_regions):
    for problem in image_regions:
        distances = all_targets(problem, 2)
        found = nearest(*problem, cutoff=1.1 * min(distances))
        best = int(np.argmin(distances))
        assert found[best].status is Outcome.SOLVED
        assert found[best].distance == pytest.approx(min(distances), rel=1e-8)
        for projection, distance in zip(found, distances, strict=True):
            assert projection.lower_bound <= distance + 1e-9
            assert projection.status is Outcome.SOLVED or projection.lower_bound >= found[best].distance * (1 - 1e-9)
