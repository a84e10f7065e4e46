"""Feasibility without tolerance, at the scales and in the corners where rounding is at its worst."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from gatewise.domains import Box, Intersection, L1Ball, L2Ball, LinfBall, Polyhedron, Simplex
from gatewise.errors import InvalidInput
from gatewise.streams import RowStreams

from .families import every_dtype

BALLS = {LinfBall: np.inf, L2Ball: 2, L1Ball: 1}
every_ball = pytest.mark.parametrize("ball", BALLS, ids=lambda ball: ball.__name__)


def distance(x, center, ball):
    """The ball's norm by numpy, which sums in another order than torch."""
    difference = x.double().flatten(1).numpy() - center.double().flatten(1).numpy()
    return np.linalg.norm(difference[:, ::-1], ord=BALLS[ball], axis=1)


@every_dtype
@every_ball
@pytest.mark.parametrize("box", [None, Box(0.0, 1.0), Box(torch.zeros(300), 1.0)], ids=["alone", "box", "tensor-box"])
@pytest.mark.parametrize("radius", [8 / 255, 0.2, 1e-6, 1e-9, 3.0, 0.0])
def test_attack_sets(ball, box, radius, dtype):
    x = torch.rand(4, 300, dtype=dtype)
    x[1], x[2] = 0, 1
    domain = ball(x, radius) if box is None else Intersection(ball(x, radius), box)
    for start in (x + torch.randn_like(x), x + 1e3 * torch.randn_like(x), x + radius * torch.randn_like(x).sign()):
        projected = domain.project(start)
        sampled = domain.sample(RowStreams(0, range(4)), x)
        for point in (projected, sampled):
            assert (distance(point, x, ball) <= radius).all()
            assert (domain.violation(point) == 0).all()
            assert box is None or (point.min() >= 0 and point.max() <= 1)
        assert torch.equal(domain.project(projected), projected)
        if radius == 0:
            assert torch.equal(projected, x)
            assert torch.equal(sampled, x)


# Corners of [0, 1], numbers that vanish beside others, and numbers with a full mantissa.
ENTRIES = st.one_of(
    st.sampled_from([0.0, 1.0, 0.5, 1e-20, -1e-20, 1e-38, 1 / 3, -1 / 3, 0.1]),
    st.floats(-2, 2, width=32),
)
SCALES = st.sampled_from([1e-6, 1e-3, 8 / 255, 1.0, 1e6])
many = settings(derandomize=False, max_examples=4000, suppress_health_check=[HealthCheck.filter_too_much])
DTYPES = st.sampled_from([torch.float32, torch.float64])


@st.composite
def scenes(draw):
    """A dtype, a centre, a radius and a point, each at a scale of its own."""
    n, dtype = draw(st.integers(1, 6)), draw(DTYPES)

    def row():
        return torch.tensor([draw(st.lists(ENTRIES, min_size=n, max_size=n))], dtype=dtype) * draw(SCALES)

    return dtype, row(), abs(draw(ENTRIES)) * draw(SCALES), row()


@every_ball
@many
@given(scene=scenes())
def test_balls_at_any_scale(ball, scene):
    dtype, center, radius, x = scene
    domain = ball(center, radius)
    projected = domain.project(x)
    assert domain.violation(projected).item() == 0
    assert distance(projected, center, ball).item() <= radius
    if domain.violation(x).item() == 0:
        assert torch.equal(projected, x)
    assert torch.equal(domain.project(projected), projected)
    assert domain.violation(domain.sample(RowStreams(0, [0]), x)).item() == 0
    # No farther than the point reached by plain arithmetic, but for rounding.
    size = max(float(center.abs().max()), float(x.abs().max()), radius)
    whole = float(torch.linalg.vector_norm((x - center).double(), ord=BALLS[ball]))
    straight = center.double() + (x - center).double() * min(1.0, radius / max(whole, 1e-300))
    assert (x - projected).double().norm() <= (x.double() - straight).norm() + 64 * torch.finfo(dtype).eps * size


def meeting(build, x):
    """The set, unless it is empty for points such as `x`: draws of empty sets are passed over."""
    try:
        domain = build()
        domain.project(x)
    except InvalidInput:
        reject()
    return domain


@every_ball
@many
@given(scene=scenes(), lower=ENTRIES, width=st.sampled_from([0.0, 1e-6, 0.1, 1.0, 1e3, np.inf]))
def test_balls_in_boxes_at_any_scale(ball, scene, lower, width):
    _, center, radius, x = scene
    domain = meeting(lambda: Intersection(Box(lower, lower + width), ball(center, radius)), x)
    projected = domain.project(x)
    assert domain.violation(projected).item() == 0
    assert distance(projected, center, ball).item() <= radius
    assert projected.min().double().item() >= lower
    assert projected.max().double().item() <= lower + width
    if domain.violation(x).item() == 0:
        assert torch.equal(projected, x)
    assert torch.equal(domain.project(projected), projected)
    assert domain.violation(domain.sample(RowStreams(0, [0]), x)).item() == 0


@many
@given(scene=scenes(), total=st.sampled_from([1.0, 3.0, 2.0**-20, 0.75e6, 1e-6]))
def test_simplices_at_any_scale(scene, total):
    dtype, center, _, x = scene
    domain = Simplex(torch.tensor(total, dtype=dtype).item())
    for point in (x, center + x):
        projected = domain.project(point)
        assert domain.violation(projected).item() == 0
        assert float(np.sum(projected.double().numpy()[0, ::-1])) == domain.total
        assert projected.min() >= 0
        assert torch.equal(domain.project(projected), projected)


@many
@given(scene=scenes(), seed=st.integers(0, 20))
def test_polyhedra_at_any_scale(scene, seed):
    dtype, center, radius, x = scene
    n = x.shape[1]
    matrix = torch.randn(2 * n + 1, n, generator=torch.Generator().manual_seed(seed)).to(dtype)
    offset = (matrix.double() @ center[0].double()) + max(radius, 1e-3)
    domain = meeting(lambda: Polyhedron(matrix, offset), x)
    projected = domain.project(x)
    assert domain.violation(projected).item() == 0
    assert torch.equal(domain.project(projected), projected)


@every_dtype
def test_bounds_count_as_given(dtype):
    # The nearest float32 numbers to 0.1 and 0.2 lie above them.
    projected = Box(0.1, 0.2).project(torch.tensor([[-1.0, 1.0]], dtype=dtype))
    assert projected.double()[0, 0] >= 0.1
    assert projected.double()[0, 1] <= 0.2
    center = torch.tensor([[0.1, 0.7]], dtype=dtype)
    shifted = LinfBall(center, 0.2).project(center + 1)
    assert ((shifted.double() - center.double()) <= 0.2).all()
    assert ((torch.nextafter(shifted, shifted + 1).double() - center.double()) > 0.2).all()


@pytest.mark.parametrize(("dtype", "big"), [(torch.float32, 1e6), (torch.float64, 1e15)])
@every_ball
def test_a_centre_too_coarse_for_the_radius_comes_back(ball, dtype, big):
    center = torch.full((2, 5), big, dtype=dtype)
    assert torch.equal(ball(center, 1e-6).project(center + 1e3), center)
    assert torch.equal(ball(center, 1e-6).sample(RowStreams(0, [0, 1]), center), center)


def test_numbers_that_no_dtype_holds_are_told():
    with pytest.raises(InvalidInput, match="use float64 points"):
        Box(0.1, 0.1).project(torch.zeros(1, 2))
    assert Box(0.1, 0.1).project(torch.zeros(1, 2, dtype=torch.float64))[0, 0] == 0.1
    with pytest.raises(InvalidInput, match=r"give total=0\.10000000149"):
        Simplex(0.1).project(torch.zeros(1, 2))
    with pytest.raises(InvalidInput, match=r"give `center.float\(\)`"):
        L2Ball(torch.full((1, 2), 0.1, dtype=torch.float64), 1.0).project(torch.zeros(1, 2))


@every_dtype
def test_images_of_real_size(dtype):
    x = torch.rand(2, 3, 224, 224, dtype=dtype)
    for domain in (Intersection(L2Ball(x, 3.0), Box(0, 1)), Intersection(L1Ball(x, 255.0), Box(0, 1)), Simplex(64.0)):
        projected = domain.project(x + torch.randn_like(x))
        assert (domain.violation(projected) == 0).all()
