"""Each sign of failure is seen where it is planted, and none is seen where all is well."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gatewise
from gatewise.attack import attack_objective, ball_in_box
from gatewise.catalogue import method_named
from gatewise.classification import attack_goal
from gatewise.diagnostics import SENTENCES, compare, diagnose, unsettled
from gatewise.domains import Box
from gatewise.errors import InvalidInput
from gatewise.methods import Method
from gatewise.objectives import Distance
from gatewise.problem import Iterate, Problem
from gatewise.readers import read_images
from gatewise.result import Result, Status

RADII = {"linf": 0.1, "l2": 0.5, "l1": 2.0}


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """A network that was trained on digits, and the first of them that it gets right."""
    torch.manual_seed(0)
    data = read_images("digits", count=800)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(module(data.images), data.labels).backward()
        optimiser.step()
    right = (module(data.images).argmax(1) == data.labels).nonzero().flatten()[:40]
    return module.eval(), data.images[right], data.labels[right]


class Before(nn.Module):
    """A network behind a change of its input."""

    def __init__(self, change, network: nn.Module):
        super().__init__()
        self.change, self.network = change, network

    def forward(self, x):
        return self.network(self.change(x))


def problem(
    module: nn.Module, images: Tensor, labels: Tensor, norm: str = "linf", loss: str = "margin", radius=None
) -> Problem:
    return Problem(
        network=gatewise.view(module.eval()),
        domain=ball_in_box(images, norm, RADII[norm] if radius is None else radius, (0.0, 1.0)),
        objective=attack_objective(loss, labels, None),
        goal=attack_goal(labels, None),
    )


def names(findings) -> list[str]:
    assert all(finding.sentence == SENTENCES[finding.name] for finding in findings)
    assert all(finding.rows or finding.name == "random network" for finding in findings)
    return [finding.name for finding in findings]


def minimized(asked: Problem, method: str, images: Tensor, budget: int = 30) -> Result:
    return gatewise.minimize(asked, method_named(method), images, budget=budget, progress=False)


# --- where all is well


@pytest.mark.parametrize("loss", ["margin", "ce", "dlr"])
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("shrink", [1, 10])
def test_a_healthy_network_has_no_findings(digits, norm, loss, shrink):
    module, images, labels = digits
    asked = problem(module, images, labels, norm, loss, RADII[norm] / shrink)
    assert diagnose(asked, images) == ()


def test_nor_has_one_in_float64_or_at_radius_zero(digits):
    module, images, labels = digits
    assert diagnose(problem(module, images, labels, radius=0.0), images) == ()
    wide = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10)).double()
    assert diagnose(problem(wide, images.double(), wide(images.double()).argmax(1)), images.double()) == ()


@pytest.mark.parametrize("method", ["pgd", "apgd", "gate-reach", "adr-gd", "gate-annealing", "adam"])
@pytest.mark.parametrize("radius", [0.01, 0.03, 0.1])
def test_nor_has_a_healthy_run(digits, method, radius):
    module, images, labels = digits
    asked = problem(module, images, labels, radius=radius)
    result = minimized(asked, method, images)
    assert diagnose(asked, images, result) == ()
    assert not result.goal_met.all()


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize(
    ("name", "weights", "data", "shrink"),
    [
        ("adr-mnist-cnn", "adr_gd_mnist/mnist_pgd.pt", "mnist:test", 0.5),
        ("adr-mnist-cnn", "adr_gd_mnist/mnist_clean.pt", "mnist:test", 0.5),
        ("mnist-cnn-a", "mnist_cnn_a_adv/mnist_cnn_a_adv.pt", "mnist:test", 0.5),
        ("cifar10-resnet20", "cifar10_resnet20/resnet20.pt", "cifar10:test", 12),
    ],
)
def test_nor_have_published_networks(data_folder, name, weights, data, shrink, norm):
    from gatewise.readers import read_model

    module = read_model(f"zoo:{name}", str(data_folder / "models" / weights)).eval()
    some = read_images(data, count=12)
    asked = problem(module, some.images, module(some.images).argmax(1).detach(), norm, radius=RADII[norm] / shrink)
    assert diagnose(asked, some.images) == ()


def test_an_objective_of_the_input_alone_is_judged_by_the_goal(digits):
    """A distance has gradient 0 where it begins, and that is no failure."""
    module, images, labels = digits
    asked = dataclasses.replace(problem(module, images, labels), objective=Distance(images))
    assert diagnose(asked, images) == ()
    assert diagnose(dataclasses.replace(asked, goal=None), images) == ()
    rounded = dataclasses.replace(asked, network=gatewise.view(Before(torch.round, module).eval()))
    assert names(diagnose(rounded, images)) == ["zero gradient"]


def test_nothing_is_counted_drawn_or_changed(digits):
    module, images, labels = digits
    asked = problem(module, images, labels)
    before, stream = images.clone(), torch.get_rng_state()
    diagnose(asked, images)
    assert (asked.network.meter.forwards, asked.network.meter.backwards) == (0, 0)
    assert torch.equal(images, before)
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(parameter.requires_grad for parameter in module.parameters())


def test_it_takes_eleven_forward_passes_as_it_says(digits):
    module, images, labels = digits
    seen = []
    passed = Before(lambda x: seen.append(len(x)) or x, module)
    diagnose(problem(passed, images, labels), images)
    assert seen == [len(images)] * 11


def test_a_module_may_overwrite_its_input(digits):
    module, images, labels = digits
    asked = problem(Before(lambda x: x.mul_(2).sub_(0.5), module), images, labels, radius=0.05)
    before = images.clone()
    assert diagnose(asked, images) == ()
    assert torch.equal(images, before)


def test_a_row_is_judged_by_itself(digits):
    module, images, labels = digits
    jumpy = Before(lambda x: x + 0.01 * torch.sin(3e5 * x), module)
    (together,) = diagnose(problem(jumpy, images, labels), images)
    alone = [
        row
        for row in range(len(images))
        if diagnose(problem(jumpy, images[[row]], labels[[row]]), images[[row]], rows=[row])
    ]
    assert together.rows == tuple(alone)


def test_an_objective_of_another_shape_is_refused(digits):
    module, images, labels = digits
    asked = dataclasses.replace(problem(module, images, labels), objective=lambda x, y: y.sum())
    with pytest.raises(InvalidInput, match="one value a row"):
        diagnose(asked, images)


# --- random network


def always_dropping(x: Tensor) -> Tensor:
    return F.dropout(x, 0.2, training=True)


def noisy(x: Tensor) -> Tensor:
    return x + 0.01 * torch.randn_like(x)


@pytest.mark.parametrize("change", [always_dropping, noisy])
def test_randomness_in_the_forward_pass_is_seen(digits, change):
    module, images, labels = digits
    assert names(diagnose(problem(Before(change, module), images, labels), images)) == ["random network"]


def test_a_dropout_layer_is_off_and_so_not_seen(digits):
    module, images, labels = digits
    assert diagnose(problem(nn.Sequential(nn.Dropout(0.2), module).eval(), images, labels), images) == ()


# --- saturated loss, zero gradient


@pytest.mark.parametrize("scale", [20, 1000])
def test_huge_logits_saturate_the_cross_entropy_and_no_other_loss(digits, scale):
    module, images, labels = digits

    class Scaled(nn.Module):
        def forward(self, x):
            return scale * module(x)

    found = diagnose(problem(Scaled(), images, labels, loss="ce"), images)
    assert "saturated loss" in names(found)
    assert "masked gradient" not in names(found)
    losses = F.cross_entropy(scale * module(images), labels, reduction="none")
    (seen,) = (finding for finding in found if finding.name == "saturated loss")
    assert seen.rows == tuple((losses == 0).nonzero().flatten().tolist())
    for loss in ("margin", "dlr"):
        assert diagnose(problem(Scaled(), images, labels, loss=loss), images) == ()


def test_a_cross_entropy_that_is_to_fall_may_be_zero(digits):
    module, images, labels = digits
    asked = dataclasses.replace(problem(module, images, labels), objective=gatewise.objectives.CrossEntropy(labels))
    scaled = dataclasses.replace(asked, network=gatewise.view(Before(lambda x: 20 * x, module).eval()))
    assert "saturated loss" not in names(diagnose(scaled, images))


def detached(x: Tensor) -> Tensor:
    return x.detach()


def quantised(x: Tensor) -> Tensor:
    return (8 * x).round() / 8


@pytest.mark.parametrize("change", [detached, quantised])
def test_a_gradient_that_is_cut_off_is_seen(digits, change):
    module, images, labels = digits
    (found,) = diagnose(problem(Before(change, module), images, labels), images)
    assert found.name == "zero gradient"
    assert found.rows == tuple(range(len(images)))


# --- masked gradient


class Turned(torch.autograd.Function):
    """The identity with a backward pass of its own, which points the other way."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def shattered(x: Tensor) -> Tensor:
    """A ripple too fine to matter to the class, whose slope drowns that of the network."""
    return x + 0.01 * torch.sin(3e5 * x)


@pytest.mark.parametrize("change", [Turned.apply, shattered])
def test_a_gradient_that_points_elsewhere_is_seen(digits, change):
    module, images, labels = digits
    (found,) = diagnose(problem(Before(change, module), images, labels), images)
    assert found.name == "masked gradient"
    assert len(found.rows) > len(images) / 2


def test_random_steps_that_beat_the_gradient_are_seen(digits):
    """The backward pass keeps the gradient of one dull pixel alone: right as far as it goes, and nearly nothing."""
    module, images, labels = digits

    def one_pixel(x):
        mask = torch.zeros_like(x)
        mask[..., 7, 0] = 1
        return x.detach() + mask * (x - x.detach())

    (found,) = diagnose(problem(Before(one_pixel, module), images, labels, norm="l2"), images)
    assert found.name == "masked gradient"
    assert len(found.rows) > len(images) / 2


# --- last far from best


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visits(Method):
    """Goes where it is told."""

    name = "visits"
    places: tuple[Tensor, ...] = ()

    def iterate(self, problem, start):
        for place in self.places:
            yield Iterate(place)


class FirstEntry(nn.Module):
    def forward(self, x):
        return x[:, :1]


def line(*values: float, goal=None) -> Result:
    places = tuple(torch.tensor([[value, 0.0]]) for value in values)
    asked = Problem(gatewise.view(FirstEntry().eval()), Box(-9.0, 9.0), lambda x, y: y[:, 0], goal)
    return gatewise.minimize(asked, Visits(places=places), places[0], progress=False)


@pytest.mark.parametrize(
    ("values", "far"),
    [
        ((4.0, 2.0, 1.0), False),
        ((4.0, 1.0, 2.0), False),
        ((4.0, 1.0, 3.0), True),
        ((4.0, 5.0), True),
        ((4.0, 4.001), False),
        ((4.0,), False),
    ],
)
def test_more_than_half_of_the_gain_must_be_lost(values, far):
    result = line(*values)
    assert result.last_value.item() == pytest.approx(values[-1])
    assert unsettled(result).tolist() == [far]


def test_rows_that_are_broken_or_stopped_are_not_judged():
    ended = line(4.0, 1.0, 3.0)
    for status in (Status.TIME_SPENT, Status.STOPPED, Status.GOAL_MET):
        assert unsettled(dataclasses.replace(ended, status=(status,))).tolist() == [False]


def test_the_last_value_of_a_closed_row_is_where_it_was_closed():
    places = tuple(torch.tensor(values) for values in ([[3.0], [5.0]], [[-1.0], [4.0]], [[8.0], [6.0]]))
    asked = Problem(gatewise.view(FirstEntry().eval()), Box(-9.0, 9.0), lambda x, y: y[:, 0], lambda x, y: y[:, 0])
    result = gatewise.minimize(asked, Visits(places=places), places[0], progress=False)
    assert result.last_value.tolist() == [-1.0, 6.0]
    assert result.value.tolist() == [-1.0, 4.0]


def test_the_last_value_turns_its_sign_with_the_rest():
    places = tuple(torch.tensor([[value]]) for value in (1.0, 7.0, 2.0))
    asked = Problem(gatewise.view(FirstEntry().eval()), Box(-9.0, 9.0), lambda x, y: y[:, 0])
    result = gatewise.maximize(asked, Visits(places=places), places[0], progress=False)
    assert (result.value.item(), result.last_value.item()) == (7.0, 2.0)


def test_a_run_without_a_point_has_no_last_one():
    result = gatewise.minimize(
        Problem(gatewise.view(FirstEntry().eval()), Box(-9.0, 9.0), lambda x, y: y[:, 0]),
        Visits(),
        torch.zeros(2, 1),
        progress=False,
    )
    assert result.last_value.tolist() == [torch.inf, torch.inf]
    assert unsettled(result).tolist() == [False, False]


def test_constant_steps_that_are_too_long_are_seen():
    """A valley narrower than the step: the walk jumps from wall to wall, and its best point is on the way in."""
    torch.manual_seed(0)

    class Valley(nn.Module):
        def forward(self, x):
            height = (x - 0.52).abs().sum(1)
            return torch.stack([1 + height, torch.zeros_like(height)], 1)

    images, labels = torch.full((3, 4), 0.5) + 0.3 * torch.rand(3, 4), torch.zeros(3, dtype=torch.int64)
    asked = problem(Valley(), images, labels, radius=0.3)
    for step_size, seen in ((2.0, True), (0.02, False)):
        result = minimized(asked, f"gd:step_size={step_size}", images, budget=40)
        found = diagnose(asked, images, result)
        assert names(found) == (["last far from best"] if seen else [])
        assert diagnose(asked, images, result, settles=False) == ()


# --- black box beats white box


def test_square_beats_gradient_methods_on_a_network_that_hides_its_gradient(digits):
    module, images, labels = digits
    hidden = problem(Before(quantised, module), images, labels, radius=0.25)
    results = {name: minimized(hidden, name, images, budget=200) for name in ("pgd", "apgd", "square")}
    (found,) = compare(results)
    assert found.name == "black box beats white box"
    assert found.rows == tuple(results["square"].goal_met.nonzero().flatten().tolist())
    assert compare({"pgd": results["pgd"], "apgd": results["apgd"]}) == ()
    assert compare({"square": results["square"]}) == ()
    open_ = problem(module, images, labels, radius=0.25)
    assert compare({name: minimized(open_, name, images, budget=100) for name in ("pgd", "square")}) == ()
