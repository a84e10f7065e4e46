"""Nearest points where they are known in closed form, and what is promised of them everywhere."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import gatewise as gw
from gatewise.errors import InvalidInput, UnsupportedProblem
from gatewise.nearest import Segments

N, ROWS, CLASSES = 12, 8, 4
DUAL = {"l2": 2.0, "linf": 1.0, "l1": math.inf}
EXACT = {"l2": "multi-targeted:member=ddn", "linf": "multi-targeted:member=fab", "l1": "multi-targeted:member=fmn"}


def linear(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> tuple[nn.Module, Tensor, Tensor]:
    """A linear classifier, images, and the classes that they are given."""
    torch.manual_seed(3)
    module = nn.Linear(N, CLASSES).eval().requires_grad_(False)
    module.weight *= scale
    images = torch.rand(ROWS, N)
    return module.to(dtype), images.to(dtype), module(images.to(dtype)).argmax(1)


def closed_form(module: nn.Module, images: Tensor, labels: Tensor, norm: str) -> Tensor:
    """The distance to the nearest class, without bounds, (rows,)."""
    logits, weight = module(images), module.weight
    gaps = logits.gather(1, labels[:, None]) - logits
    slopes = (weight[labels][:, None] - weight[None]).norm(p=DUAL[norm], dim=2)
    return (gaps / slopes).scatter(1, labels[:, None], math.inf).amin(1)


@pytest.mark.parametrize("norm", ["l2", "linf", "l1"])
def test_a_linear_classifier_gives_the_closed_form(norm):
    module, images, labels = linear()
    found = gw.nearest(module, images, labels, norm=norm, method=EXACT[norm], bounds=None, budget=450)
    exact = closed_form(module, images, labels, norm)
    assert found.goal_met.all()
    assert (found.value >= exact * (1 - 1e-12)).all()
    tolerance = 1e-6 if norm != "l1" else 1e-4  # steps of one entry at a time come near only slowly
    torch.testing.assert_close(found.value, exact, rtol=tolerance, atol=0)


SEARCHES = {
    "l2": ["ddn", "fmn", "fab", "deepfool", "pgd", "square"],
    "linf": ["fmn", "fab", "deepfool", "pgd"],
    "l1": ["fmn", "square"],
}


@pytest.mark.parametrize(("norm", "method"), [(norm, method) for norm, named in SEARCHES.items() for method in named])
def test_nothing_is_nearer_than_the_closed_form_and_all_lies_on_the_boundary(norm, method):
    module, images, labels = linear()
    found = gw.nearest(module, images, labels, norm=norm, method=method, budget=60)
    exact = closed_form(module, images, labels, norm)[found.goal_met]
    assert (found.value[found.goal_met] >= exact * (1 - 1e-12)).all()
    assert (module(found.x).argmax(1) != labels)[found.goal_met].all()
    assert found.value[~found.goal_met].isinf().all()
    assert torch.equal(found.x[~found.goal_met], images[~found.goal_met])
    assert not found.violation.any()
    assert found.x.min() >= 0
    assert found.x.max() <= 1
    some = found.goal_met.nonzero().flatten()
    if len(some):
        gap = Segments(gw.view(module), labels[some]).gap(images[some], found.x[some])
        assert gap.max() <= 2.5e-7


def test_it_is_drawn_to_the_boundary_from_where_the_method_left_it():
    module, images, labels = linear()
    method = gw.methods.DeepFool(step_size=2.0)
    problem = gw.Problem(
        gw.view(module), gw.Box(0.0, 1.0), gw.objectives.Distance(images), goal=gw.objectives.Margin(labels)
    )
    left = gw.minimize(problem, method, images)
    drawn = gw.nearest(module, images, labels, method=method)
    assert (drawn.value < 0.9 * left.value).any()
    assert (drawn.value <= left.value).all()
    assert drawn.backwards_per_row == left.backwards_per_row
    extra = drawn.forwards_per_row - left.forwards_per_row
    assert 20 < extra < 30  # one at the image, one at the point, one for each halving of the segment
    direction = (left.x - images) / left.value[:, None]
    torch.testing.assert_close((drawn.x - images) / drawn.value[:, None], direction, rtol=0, atol=1e-12)


def test_every_pass_is_counted():
    calls = 0

    class Counting(nn.Linear):
        def forward(self, input):
            nonlocal calls
            calls += len(input)
            return super().forward(input)

    module = Counting(N, CLASSES).double().eval()
    images = torch.rand(ROWS, N, dtype=torch.float64)
    labels = module(images).argmax(1)
    calls = 0
    found = gw.nearest(module, images, labels, method="ddn", budget=10)
    checks = 2  # the driver's last check of all rows, and that of the points drawn
    assert calls == found.forwards_per_row * ROWS + checks * ROWS
    assert found.backwards_per_row == 10


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_single_precision_points_hold_in_single_precision(scale):
    module, images, labels = linear(torch.float32, scale)
    found = gw.nearest(module, images, labels, method=EXACT["l2"], budget=450)
    assert found.x.dtype == torch.float32
    assert found.goal_met.all()
    assert not found.violation.any()
    alone = torch.cat([module(row[None]) for row in found.x])
    for logits in (module(found.x), alone):
        assert (logits.argmax(1) != labels).all()
    exact = closed_form(*linear(torch.float64, scale), "l2")
    assert (found.value.double() >= exact * (1 - 1e-5)).all()
    free = gw.nearest(module, images, labels, method=EXACT["l2"], budget=450, bounds=None)
    torch.testing.assert_close(free.value.double(), exact, rtol=3e-4, atol=0)


@pytest.mark.parametrize("method", ["ddn", "pgd:random_start=true", "deepfool", "multi-targeted:member=fab"])
def test_rows_that_are_wrong_already_keep_their_image(method):
    module, images, labels = linear()
    labels[::2] = (labels[::2] + 1) % CLASSES
    found = gw.nearest(module, images, labels, method=method, budget=30)
    assert torch.equal(found.x[::2], images[::2])
    assert (found.value[::2] == 0).all()
    assert found.goal_met[::2].all()
    assert all(status is gw.Status.GOAL_MET for status in found.status[::2])


def test_targets_are_reached_and_are_no_nearer_than_any_class():
    module, images, labels = linear()
    targets = (labels + 1) % CLASSES
    targets[0] = labels[0]
    aimed = gw.nearest(module, images, labels, targets=targets, method="ddn", budget=300, bounds=None)
    assert aimed.goal_met.all()
    assert (module(aimed.x).argmax(1) == targets).all()
    assert aimed.value[0] == 0
    assert torch.equal(aimed.x[0], images[0])
    exact = closed_form(module, images, labels, "l2")
    assert (aimed.value[1:] >= exact[1:] * (1 - 1e-12)).all()


def test_the_same_seed_gives_the_same_answer_whatever_the_batch():
    module, images, labels = linear()
    method = "restarts:member=(pgd:random_start=true),times=2"
    one, two = (gw.nearest(module, images, labels, method=method, budget=20, seed=5) for _ in range(2))
    assert torch.equal(one.x, two.x)
    assert torch.equal(one.value, two.value)
    some = torch.tensor([6, 2])
    apart = gw.nearest(module, images[some], labels[some], method=method, budget=20, seed=5, rows=some.tolist())
    torch.testing.assert_close(apart.x, one.x[some], rtol=0, atol=1e-6)


def test_a_network_that_never_changes_its_mind_gives_no_success():
    module = nn.Linear(N, CLASSES).double().eval().requires_grad_(False)
    module.weight.zero_()
    module.bias[2] = 100.0
    images = torch.rand(ROWS, N, dtype=torch.float64)
    found = gw.nearest(module, images, torch.full((ROWS,), 2), method="ddn", budget=10)
    assert not found.goal_met.any()
    assert found.value.isinf().all()
    assert torch.equal(found.x, images)
    assert found.status[0] is gw.Status.ZERO_GRADIENT


def test_a_pixel_on_a_bound_that_single_precision_does_not_hold_stays_inside():
    module, images, labels = linear(torch.float32)
    images = 0.1 * images
    images[:, 0] = 0.1  # in float32 that is above 0.1 itself
    labels = module(images).argmax(1)
    found = gw.nearest(module, images, labels, method="fmn", norm="linf", bounds=(0.0, 0.1), budget=30)
    assert not found.violation.any()
    assert found.x.double().max() <= 0.1


def test_what_cannot_be_done_is_said():
    module, images, labels = linear()
    with pytest.raises(InvalidInput, match="l3"):
        gw.nearest(module, images, labels, norm="l3")  # type: ignore[arg-type]
    with pytest.raises(UnsupportedProblem, match="fmn"):
        gw.nearest(module, images, labels, norm="linf", method="ddn")
    with pytest.raises(InvalidInput, match="bounds"):
        gw.nearest(module, images + 1, labels)
    with pytest.raises(InvalidInput, match="no images"):
        gw.nearest(module, images[:0], labels[:0])
