"""What `Domain` promises, for every set of the list."""

import pytest
import torch

from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.geometry import per_row, row_norm

from .families import (
    BY_NAME,
    ROUNDING,
    ROWS,
    SHAPE,
    Data,
    every_dtype,
    every_family,
    inner,
    points,
    streams,
)

# Pairs without a formula come as near as Dykstra's algorithm does.
PAIR_ERROR = 1e-6


def error(family, dtype):
    return max(ROUNDING[dtype], 0 if family.has_support else PAIR_ERROR)


@every_dtype
@every_family
def test_projections_lie_inside_exactly(family, dtype):
    domain = family.make(dtype)
    for spread in (0.01, 1.0, 100.0):
        x = points(dtype, spread=spread)
        projected = domain.project(x)
        assert projected.dtype is dtype
        assert projected.shape == x.shape
        assert torch.equal(domain.violation(projected), torch.zeros(ROWS, dtype=torch.float64))


@every_dtype
@every_family
def test_rows_inside_come_back_bit_for_bit(family, dtype):
    domain = family.make(dtype)
    inside, outside = domain.sample(streams(), points(dtype)), points(dtype, spread=3.0)
    mixed = torch.where(per_row(torch.arange(ROWS) % 2 == 0, inside), inside, outside)
    projected = domain.project(mixed)
    assert torch.equal(projected[::2], inside[::2])
    assert torch.equal(domain.project(projected), projected)


@every_dtype
@every_family
def test_projection_is_nearest(family, dtype):
    # p is nearest to x exactly where <x - p, q - p> <= 0 for all q of the set.
    domain = family.make(dtype)
    x = points(dtype, seed=1)
    projected = domain.project(x)
    others = [domain.sample(streams(seed), x) for seed in range(10)]
    others += [domain.project(points(dtype, seed, spread)) for seed in range(5) for spread in (0.3, 1.0, 10.0)]
    for other in others:
        assert (inner(x - projected, other - projected) <= 10 * error(family, dtype)).all()


@every_family
def test_projection_never_spreads_points(family):
    domain = family.make()
    x, y = points(seed=2), points(seed=3)
    moved = row_norm(domain.project(x) - domain.project(y))
    assert (moved <= row_norm(x - y) + 10 * error(family, torch.float64)).all()


@every_dtype
@every_family
def test_a_row_alone_equals_the_row_among_others(family, dtype):
    row = 3
    together, alone = family.make(dtype), family.make(dtype, rows=[row])
    x, gradient = points(dtype), points(dtype, seed=5) - 0.5
    mine = slice(row, row + 1)
    assert torch.equal(together.project(x)[mine], alone.project(x[mine]))
    assert torch.equal(together.sample(streams(), x)[mine], alone.sample(streams(rows=[row]), x[mine]))
    assert torch.equal(together.steepest(gradient)[mine], alone.steepest(gradient[mine]))
    assert torch.equal(together.violation(x)[mine], alone.violation(x[mine]))
    assert torch.equal(together.size(x)[mine], alone.size(x[mine]))


@every_family
def test_steepest_is_the_best_step_of_length_one(family):
    domain, data = family.make(), Data(torch.float64, list(range(ROWS)))
    gradient = points(seed=6) - 0.5
    step = domain.steepest(gradient)
    tangent = "simplex" in family.name and family.norm(step, data).allclose(row_norm(step, 1))
    assert family.norm(step, data).allclose(torch.ones(ROWS, dtype=torch.float64))
    for seed in range(50):
        candidate = points(seed=seed) - 0.5
        # Directions with few entries are the best in the l1 norm, so that some are tried too.
        candidate = candidate * (candidate.abs() > 0.3 * (seed % 4))
        if tangent:
            candidate = candidate - candidate.mean((1, 2), keepdim=True)
        candidate = candidate / per_row(family.norm(candidate, data), candidate).clamp(min=1e-9)
        assert (inner(candidate, gradient) <= inner(step, gradient) + 1e-9).all()


@every_dtype
@every_family
def test_steepest_of_nothing_is_nothing(family, dtype):
    step = family.make(dtype).steepest(torch.zeros(ROWS, *SHAPE, dtype=dtype))
    assert torch.equal(step, torch.zeros_like(step))
    assert step.dtype is dtype


@every_dtype
@every_family
def test_support_is_the_maximum(family, dtype):
    domain = family.make(dtype)
    direction = points(dtype, seed=8) - 0.5
    if not family.has_support:
        with pytest.raises(UnsupportedProblem, match="intersect"):
            domain.support(direction)
        return
    support = domain.support(direction)
    assert support.dtype is dtype
    for seed in range(20):
        assert (inner(direction, domain.sample(streams(seed), direction)) <= support + ROUNDING[dtype]).all()
    # The nearest point to one far out in the direction comes close to the maximum: within (diameter^2 / distance).
    for distance in (1e2, 1e4):
        far = domain.project(points(dtype) + distance * direction)
        assert (inner(direction, far) <= support + ROUNDING[dtype]).all()
        assert (inner(direction, far) >= support - 50 / distance - ROUNDING[dtype] * 10).all()


@every_dtype
@every_family
def test_samples_lie_inside_and_differ(family, dtype):
    domain, like = family.make(dtype), points(dtype)
    first, second = domain.sample(streams(0), like), domain.sample(streams(1), like)
    assert first.dtype is dtype
    assert (domain.violation(first) == 0).all()
    assert (row_norm(first - second) > 0).all()
    assert torch.equal(first, domain.sample(streams(0), like))


@every_dtype
@every_family
def test_size_and_violation_have_the_promised_form(family, dtype):
    domain = family.make(dtype)
    x = points(dtype, spread=5.0)
    assert domain.size(x).shape == domain.violation(x).shape == (ROWS,)
    assert domain.size(x).dtype is dtype
    assert (domain.size(x) > 0).all()
    assert domain.violation(x).dtype is torch.float64
    assert (domain.violation(x) > 0).all()


@every_dtype
@every_family
def test_halfspaces_describe_the_set_or_refuse(family, dtype):
    domain, x = family.make(dtype), points(dtype)
    if "l2" in family.name or "l1" in family.name:
        with pytest.raises(UnsupportedProblem, match="use Box, LinfBall, Simplex or Polyhedron"):
            domain.halfspaces(x)
        return
    faces = domain.halfspaces(x)
    slack = 5 * ROUNDING[dtype]
    assert (faces.slack(domain.project(x)) >= -slack).all()
    outside = points(dtype, spread=2.0)
    assert ((faces.slack(outside) < -slack).any(1) == (domain.violation(outside) > slack)).all()
    multipliers = torch.rand(ROWS, faces.offset.shape[1], dtype=dtype)
    assert inner(faces.product(x), multipliers).allclose(inner(x, faces.transpose_product(multipliers)), atol=1e-4)


@every_family
def test_points_that_do_not_fit_are_refused(family):
    domain = family.make()
    bad = [torch.zeros(ROWS, *SHAPE, dtype=torch.float16), torch.zeros(ROWS, *SHAPE, dtype=torch.int64), torch.zeros(3)]
    if family.name not in ("box", "latents", "simplex", "simplex of total 3", "simplex and box"):
        bad.append(torch.zeros(ROWS, 7, dtype=torch.float64))
    for x in bad:
        for method in (domain.project, domain.violation, domain.size, domain.steepest):
            with pytest.raises(InvalidInput):
                method(x)


@pytest.mark.parametrize("entry", [torch.nan, torch.inf])
@every_family
def test_a_row_that_is_not_finite_spares_the_others(family, entry):
    domain, x = family.make(), points(spread=2.0)
    whole = domain.project(x)
    x[1, 0, 0] = entry
    projected = domain.project(x)
    assert torch.equal(projected[[0, 2, 3, 4]], whole[[0, 2, 3, 4]])
    if entry is torch.nan:
        assert not (domain.violation(projected)[1] <= 0)


@pytest.mark.parametrize("name", ["linf", "l2", "l1", "linf and box", "l2 and box", "l1 and box"])
def test_sets_do_not_change_when_their_data_do(name):
    data = Data(torch.float64, list(range(ROWS)))
    domain = BY_NAME[name].build(data)
    before = domain.project(points())
    data.center += 1
    assert torch.equal(domain.project(points()), before)
