"""What each set says of itself: its formulas, its edges, its sentences."""

import math

import pytest
import torch

from gatewise import domains
from gatewise.domains import Box, Domain, Intersection, L1Ball, L2Ball, LinfBall, Polyhedron, Simplex
from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.geometry import row_norm
from gatewise.streams import RowStreams

from .families import inner, points

X = torch.tensor([[0.2, 0.5, 0.9], [0.0, 1.0, 0.5]])
EYE = torch.eye(3)
NAN, INF = math.nan, math.inf


def test_the_public_face():
    assert domains.__all__ == sorted(domains.__all__)
    names = {"Box", "LinfBall", "L2Ball", "L1Ball", "Simplex", "Polyhedron", "Intersection", "Latents", "Domain"}
    assert names == set(domains.__all__)
    for name in domains.__all__:
        assert issubclass(getattr(domains, name), Domain)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: Box(1.0, 0.0), "swap or correct the bounds"),
        (lambda: Box(NAN, 0.0), "lower holds NaN"),
        (lambda: Box(0.0, torch.tensor([NAN])), "upper holds NaN"),
        (lambda: Box(INF, INF), "no number fits"),
        (lambda: Box(torch.zeros(2), torch.ones(3)), "do not go together"),
        (lambda: Box(0, torch.ones(3, dtype=torch.int64)), "float32 or float64"),
        (lambda: Box(0, torch.ones(3, dtype=torch.bfloat16)), "float32 or float64"),
        (lambda: Box("0", 1), "give a number"),
        (lambda: L2Ball(X, -1.0), "at least 0"),
        (lambda: L2Ball(X, NAN), "radius holds NaN"),
        (lambda: L2Ball(X, INF), "finite"),
        (lambda: L1Ball(X, torch.ones(3)), "one a row"),
        (lambda: L1Ball(X, torch.ones(2, 1)), "one a row"),
        (lambda: LinfBall(X[0], 1.0), "give it a batch axis"),
        (lambda: LinfBall(X * NAN, 1.0), "center holds NaN"),
        (lambda: LinfBall(X * INF, 1.0), "center holds"),
        (lambda: LinfBall(X.half(), 1.0), "float32 or float64"),
        (lambda: LinfBall([[0.1]], 1.0), "give a number"),
        (lambda: Simplex(0.0), "between 1e-30 and 1e30"),
        (lambda: Simplex(NAN), "total holds NaN"),
        (lambda: Simplex(torch.ones(2)), "one number"),
        (lambda: Polyhedron(EYE, torch.ones(2)), r"give \(m, n\)"),
        (lambda: Polyhedron(EYE[0], torch.ones(3)), r"give \(m, n\)"),
        (lambda: Polyhedron(EYE * NAN, torch.ones(3)), "matrix holds NaN"),
        (lambda: Polyhedron(EYE * 0, torch.ones(3)), "row of zeros"),
        (lambda: Polyhedron(EYE, torch.tensor([1.0, 1.0, -INF])), "-inf"),
        (lambda: Polyhedron(torch.cat([EYE, -EYE]), torch.tensor([1.0] * 3 + [-2.0] * 3)), "empty or flat"),
        (lambda: Polyhedron(torch.cat([EYE, -EYE]), torch.tensor([1.0] * 3 + [-1.0] * 3)), "empty or flat"),
        (lambda: Polyhedron(EYE, torch.ones(3), interior=torch.ones(3)), "not inside"),
        (lambda: Polyhedron(EYE, torch.ones(3), interior=torch.zeros(2)), "interior has shape"),
        (lambda: Polyhedron(EYE, torch.ones(2, 3), interior=torch.zeros(3, 3)), "interior has shape"),
        (lambda: Intersection(LinfBall(X, 0.1), Box(2, 3)), "the set is empty"),
        (lambda: Intersection(Box(2, 3), L2Ball(X, 0.1)), "in common"),
        (lambda: Intersection(L1Ball(X, 0.1), Box(2, 3)), "in common"),
        (lambda: Intersection(Box(0, 1), Box(2, 3)), "the set is empty"),
        (lambda: Intersection(LinfBall(X, 0.1), LinfBall(X + 1, 0.1)), "the set is empty"),
        (lambda: Intersection(LinfBall(X, 0.1), Box(torch.zeros(4), 1)), "do not go together"),
        (lambda: Intersection(L2Ball(X, 0.1), Box(torch.zeros(4), 1)), "do not go together"),
        (lambda: Intersection(Polyhedron(EYE, torch.ones(3)), Polyhedron(torch.eye(2), torch.ones(2))), "go together"),
        (lambda: Intersection(Simplex(), Box(0.5, 1)).project(X), "in common"),
        (lambda: Intersection(Simplex(), Box(0, 0.1)).project(X), "in common"),
        (lambda: Intersection(L2Ball(X, 0.1), L2Ball(X + 1, 0.1)).project(X), "in common"),
        (lambda: Intersection(L1Ball(X, 0.1), L1Ball(X + 1, 0.1)).project(X), "empty in some row"),
        (lambda: Intersection(Polyhedron(EYE, torch.ones(3)), Box(2, 3)).project(X), "empty or flat"),
        (lambda: LinfBall(X, 0.1).project(X[:, :2]), "does not fit points"),
        (lambda: L2Ball(X, torch.ones(2)).project(torch.cat([X, X])), "does not fit points"),
        (lambda: L2Ball(X[:1], torch.ones(2)).project(torch.cat([X, X])), "does not fit points"),
        (lambda: Box(0, 1).project(X.half()), "float32 or float64 points"),
        (lambda: Box(0, 1).project(X[0]), "add the batch axis"),
        (lambda: Polyhedron(EYE, torch.ones(2, 3)).project(torch.cat([X, X])), "does not fit points"),
    ],
)
def test_bad_input_is_one_clear_sentence(build, sentence):
    with pytest.raises(InvalidInput, match=sentence) as caught:
        build()
    text = str(caught.value)
    assert "\n" not in text
    assert text[0].isupper() or text.split()[0] in ("lower", "upper", "center", "radius", "matrix", "interior", "total")
    assert text.endswith(".")


@pytest.mark.parametrize(
    "ask",
    [
        lambda: Box(0, INF).size(X),
        lambda: Box(0, INF).support(X),
        lambda: Box(-INF, 1).sample(RowStreams(0, [0, 1]), X),
        lambda: L2Ball(X, 1.0).halfspaces(X),
        lambda: L2Ball(X, 1.0).bounds(X),
        lambda: L1Ball(X, 1.0).bounds(X),
        lambda: Simplex().bounds(X),
        lambda: Polyhedron(EYE, torch.ones(3)).bounds(X),
        lambda: Intersection(L2Ball(X, 1.0), Box(0, 1)).bounds(X),
        lambda: Polyhedron(EYE, torch.ones(3)).size(X),
        lambda: Polyhedron(EYE, torch.ones(3)).sample(RowStreams(0, [0, 1]), X),
        lambda: Polyhedron(torch.cat([EYE[:1], -EYE[:1]]), torch.ones(2)).sample(RowStreams(0, [0, 1]), X),
        lambda: Polyhedron(-EYE, torch.ones(3)).support(X + 0.1),
        lambda: Intersection(L2Ball(X, 1.0), Simplex()).support(X),
        lambda: Intersection(L1Ball(X, 1.0), Simplex()).support(X),
    ],
)
def test_what_a_set_cannot_answer_is_refused_with_a_remedy(ask):
    with pytest.raises(UnsupportedProblem, match=r"; .*\.$"):
        ask()


@pytest.mark.parametrize(
    ("domain", "lower", "upper"),
    [
        (Box(-1, torch.tensor([1.0, INF, 2.0])), -1 + 0 * X, torch.tensor([1.0, INF, 2.0]).expand(2, 3)),
        (LinfBall(X, 0.25), X - 0.25, X + 0.25),
        (Intersection(LinfBall(X, 0.25), Box(0, 1)), (X - 0.25).clamp(min=0), (X + 0.25).clamp(max=1)),
        (Intersection(Box(0, 1), Box(0.5, 2)), 0.5 + 0 * X, 1 + 0 * X),
    ],
    ids=["box", "linf ball", "ball and box", "two boxes"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_boxes_give_bounds_that_lie_in_them_and_next_to_which_nothing_does(domain, lower, upper, dtype):
    edges = [edge.expand(X.shape) for edge in domain.bounds(X.to(dtype))]
    for found, expected, outside in zip(edges, (lower, upper), (-INF, INF), strict=True):
        assert found.dtype is dtype
        torch.testing.assert_close(found, expected.to(dtype), rtol=0, atol=1e-7)
        finite = found.isfinite()
        inside = found.where(finite, 0.0)
        assert not domain.violation(inside).any()
        beyond = torch.nextafter(inside, torch.full_like(inside, outside))
        for i in finite.all(0).nonzero().flatten().tolist():
            moved = inside.clone()
            moved[:, i] = beyond[:, i]
            assert domain.violation(moved).all()


def test_infinite_boxes_project_and_measure():
    box = Box(0.0, INF)
    assert torch.equal(box.project(X - 0.5), (X - 0.5).clamp(min=0))
    assert box.violation(X - 0.5).tolist() == pytest.approx([0.3, 0.5], abs=1e-6)
    assert torch.equal(box.steepest(X - 0.5), (X - 0.5).sign())
    assert torch.equal(Box(-INF, INF).project(X), X)


def test_violations_follow_their_formulas():
    center, x = points(torch.float32), points(torch.float32, seed=1, spread=3.0)
    difference = x.double() - center.double()
    for ball, p in ((LinfBall, INF), (L2Ball, 2), (L1Ball, 1)):
        assert torch.equal(ball(center, 0.1).violation(x), (row_norm(difference, p) - 0.1).clamp(min=0))
    assert torch.equal(
        Box(0.1, 0.6).violation(x), torch.maximum(0.1 - x.double(), x.double() - 0.6).flatten(1).amax(1).clamp(min=0)
    )
    total, least = x.double().flatten(1).sum(1), x.double().flatten(1).amin(1)
    assert torch.allclose(Simplex().violation(x), torch.maximum((total - 1).abs(), -least))
    both = Intersection(L2Ball(center, 5.0), Box(0.1, 0.6))
    assert torch.equal(both.violation(x), L2Ball(center, 5.0).violation(x).maximum(Box(0.1, 0.6).violation(x)))
    polyhedron = Polyhedron(2 * torch.eye(6), torch.ones(6))
    assert torch.allclose(polyhedron.violation(x), (x.double() - 0.5).flatten(1).amax(1).clamp(min=0))


def test_steepest_steps_by_hand():
    gradient = torch.tensor([[0.5, -2.0, 2.0], [0.0, 0.0, -1.0]])
    assert torch.equal(LinfBall(X, 1.0).steepest(gradient), gradient.sign())
    assert torch.equal(Box(0, 1).steepest(gradient), gradient.sign())
    assert torch.equal(
        Box(0, torch.tensor([1.0, 2.0, 4.0])).steepest(gradient), torch.tensor([[0.25, -0.5, 1.0], [0.0, 0.0, -1.0]])
    )
    assert torch.equal(L1Ball(X, 1.0).steepest(gradient), torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0]]))
    assert torch.allclose(L2Ball(X, 1.0).steepest(gradient), gradient / gradient.norm(dim=1, keepdim=True))
    assert torch.equal(Simplex().steepest(gradient), torch.tensor([[0.0, -0.5, 0.5], [0.5, 0.0, -0.5]]))
    assert torch.equal(Simplex().steepest(torch.ones(2, 3)), torch.zeros(2, 3))
    # The radius pays for two and a half changes through the whole range of an entry.
    assert torch.allclose(
        Intersection(L1Ball(X, 2.5), Box(0, 1)).steepest(torch.tensor([[1.0, -3.0, 2.0], [1.0, 0.0, 0.0]])),
        torch.tensor([[0.2, -0.4, 0.4], [0.4, 0.0, 0.0]]),
    )


def test_sizes():
    assert torch.equal(Box(0, torch.tensor([1.0, 2.0, 4.0])).size(X), torch.tensor([2.0, 2.0]))
    assert torch.equal(L2Ball(X, torch.tensor([0.5, 2.0])).size(X), torch.tensor([0.5, 2.0]))
    assert torch.equal(Simplex(3).size(X), torch.tensor([3.0, 3.0]))
    assert torch.equal(Intersection(Box(0, 1), LinfBall(X, 0.2)).size(X), torch.tensor([0.2, 0.2]))
    assert torch.equal(Intersection(Box(0, 1), Box(0.5, 2)).size(X), torch.tensor([0.25, 0.25]))
    assert torch.allclose(Polyhedron(torch.cat([EYE, -EYE]), torch.ones(6)).size(X), torch.ones(2))
    triangle = Polyhedron(torch.tensor([[-1.0, 0], [0, -1], [1, 1]]), torch.tensor([0.0, 0, 1]))
    assert torch.allclose(triangle.size(X[:, :2]), torch.tensor(1 / (2 + 2**0.5)))


def test_supports_by_hand():
    direction = torch.tensor([[1.0, -2.0, 3.0], [0.0, 0.0, -1.0]])
    assert torch.allclose(Box(-1, 2).support(direction), torch.tensor([2.0 + 2 + 6, 1.0]))
    at_center = (direction * X).sum(1)
    assert torch.allclose(LinfBall(X, 0.5).support(direction), at_center + torch.tensor([3.0, 0.5]))
    assert torch.allclose(L1Ball(X, 0.5).support(direction), at_center + torch.tensor([1.5, 0.5]))
    assert torch.allclose(L2Ball(X, 0.5).support(direction), at_center + 0.5 * torch.tensor([14**0.5, 1.0]))
    assert torch.allclose(Simplex(3).support(direction), torch.tensor([9.0, 0.0]))


def test_equal_data_give_equal_sets_whatever_their_shape():
    x = points(torch.float32).sigmoid()
    for box in (
        Box(0, 1),
        Box(torch.zeros(2, 3), 1.0),
        Box(torch.zeros(5, 2, 3), torch.ones(3)),
        Box(torch.zeros(1), 1),
    ):
        for ball in (LinfBall, L2Ball, L1Ball):
            reference = Intersection(ball(x, 0.3), Box(0.0, 1.0)).project(x + 1)
            assert torch.equal(
                Intersection(ball(x, torch.full((5,), 0.3, dtype=torch.float64)), box).project(x + 1), reference
            )
            assert torch.equal(Intersection(box, ball(x, 0.3)).project(x + 1), reference)


@pytest.mark.parametrize("ball", [LinfBall, L2Ball, L1Ball])
def test_draws_are_uniform_in_the_ball(ball):
    # In three dimensions the radius of a uniform draw has the mean 3/4, and a coordinate its sign at random.
    like = torch.zeros(4000, 3)
    draws = ball(torch.zeros(1, 3), 2.0).sample(RowStreams(0, range(4000)), like)
    p = {LinfBall: INF, L2Ball: 2, L1Ball: 1}[ball]
    assert row_norm(draws, p).mean().item() == pytest.approx(1.5, abs=0.03)
    assert draws.mean(0).abs().max() < 0.06
    quarter = (row_norm(draws, p) < 1).double().mean().item()
    assert quarter == pytest.approx(1 / 8, abs=0.02)


def test_draws_are_uniform_in_the_simplex_and_a_polyhedron():
    draws = Simplex().sample(RowStreams(0, range(4000)), torch.zeros(4000, 3))
    assert torch.allclose(draws.mean(0), torch.full((3,), 1 / 3), atol=0.02)
    assert (draws[:, 0] > 0.5).double().mean().item() == pytest.approx(0.25, abs=0.02)
    triangle = Polyhedron(torch.tensor([[-1.0, 0], [0, -1], [1, 1]]), torch.tensor([0.0, 0, 1]))
    draws = triangle.sample(RowStreams(0, range(300)), torch.zeros(300, 2))
    assert torch.allclose(draws.mean(0), torch.full((2,), 1 / 3), atol=0.05)


HALFSPACE = Polyhedron(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([2.5]))
MIDDLE = torch.full((1, 3), 0.5)


@pytest.mark.parametrize(
    "members",
    [(HALFSPACE, Simplex()), (L1Ball(MIDDLE, 0.9), HALFSPACE), (L1Ball(MIDDLE, 0.7), L1Ball(MIDDLE + 0.1, 0.6))],
    ids=["simplex", "l1", "two-l1"],
)
def test_pairs_without_a_formula(members):
    domain = Intersection(*members)
    x = torch.cat([X, X - 1, 3 * X])
    projected = domain.project(x)
    assert (domain.violation(projected) == 0).all()
    assert torch.equal(domain.project(projected), projected)
    sampled = domain.sample(RowStreams(0, range(6)), x)
    assert (domain.violation(sampled) == 0).all()
    for q in (sampled, domain.project(-x)):
        assert (inner(x - projected, q - projected) <= 1e-5).all()


def test_an_interior_point_may_be_given():
    matrix, offset = torch.cat([EYE, -EYE]), torch.ones(6)
    given = Polyhedron(matrix, offset, interior=torch.tensor([0.5, 0.0, 0.0]))
    assert torch.allclose(given.size(X), torch.full((2,), 0.5))
    assert torch.allclose(given.project(X + 1), Polyhedron(matrix, offset).project(X + 1))
    assert torch.allclose(given.support(X - 0.4), Polyhedron(matrix, offset).support(X - 0.4))


def test_offsets_of_infinity_switch_constraints_off():
    loose = Polyhedron(torch.cat([EYE, -EYE, torch.ones(1, 3)]), torch.tensor([1.0] * 6 + [INF]))
    assert torch.allclose(loose.project(X + 1), (X + 1).clamp(max=1))
    assert torch.allclose(loose.support(X), X.sum(1))


def test_points_far_away_cost_no_digits():
    far = 1e8 * (points() - 0.5)
    for ball in (L2Ball, L1Ball):
        domain = ball(torch.zeros(1, 2, 3), 1e-3)
        near = domain.project(far)
        # The nearest point maximises the product with the direction to x, up to the square of the radius.
        assert torch.allclose(inner(near, far), domain.support(far), rtol=1e-9)


def test_gradients_do_not_flow_into_sets():
    center = X.clone().requires_grad_()
    assert not L2Ball(center, 1.0).project(X + 5).requires_grad
