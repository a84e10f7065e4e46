"""Training: what it promises about robustness, cost, randomness, and the module it is given."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import gatewise as gw
from gatewise.adversary import Adversary
from gatewise.errors import InvalidInput
from gatewise.readers import read_images
from gatewise.training import shifted_and_mirrored, train, validate

RADIUS = 0.15
FAST = {"epochs": 1, "batch": 40, "optimiser": "adam", "progress": False}


def drawn(make, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return make()


def small_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(128, 10)
    ).eval()


class Every(nn.Module):
    """Batch norm, dropout, an in-place gate on the input, a frozen layer."""

    def __init__(self):
        super().__init__()
        self.first = nn.ReLU(inplace=True)
        self.convolution = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.2)
        self.frozen = nn.Linear(384, 384).requires_grad_(False)
        self.last = nn.Linear(384, 10)

    def forward(self, x):
        h = torch.relu(self.norm(self.convolution(self.first(x))))
        return self.last(torch.relu(self.frozen(self.drop(h.flatten(1)))))


@pytest.fixture(scope="module")
def digits():
    data = read_images("digits")
    return data.images[:1200], data.labels[:1200], data.images[1400:1700], data.labels[1400:1700]


@pytest.fixture
def few(digits):
    return digits[0][:90], digits[1][:90]


def parameters(module: nn.Module) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in module.state_dict().values()]


def same(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(parameters(one), parameters(other), strict=True))


# Robustness


@pytest.fixture(scope="module")
def trained(digits):
    """The same network from the same draw, by three ways of training: accuracies on digits not trained on, and what
    it cost.
    """
    images, labels, fresh, fresh_labels = digits
    adversary = Adversary(radius=RADIUS, budget=5)
    judge = Adversary(radius=RADIUS, method="apgd", loss="margin", budget=20)
    ways = {
        "normal": {"epochs": 12, "mode": "normal"},
        "pgd": {"epochs": 12, "mode": "adversarial"},
        "free": {"epochs": 9, "mode": "free", "replays": 4},
    }
    found = {}
    for name, way in ways.items():
        module = drawn(small_network)
        training = train(
            module, images, labels, adversary=adversary, batch=50, optimiser="adam", rate=5e-3, progress=False, **way
        )
        found[name] = training, *validate(module, fresh, fresh_labels, judge, progress=False)
    return found


def test_pgd_training_makes_robust_at_equal_epochs(trained):
    (_, clean, attacked), (_, robust_clean, robust_attacked) = trained["normal"], trained["pgd"]
    assert clean > 0.85
    assert robust_clean > 0.8
    assert robust_attacked > attacked + 0.15


def test_free_training_is_about_as_robust_for_fewer_gradients(trained):
    (_, _, normal), (pgd, _, by_pgd), (free, free_clean, by_free) = (trained[way] for way in ("normal", "pgd", "free"))
    assert free_clean > 0.8
    assert by_free > normal + 0.15
    assert by_free > by_pgd - 0.08
    assert free.backwards_per_image == 9 * 4
    assert pgd.backwards_per_image == 12 * (5 + 1)


def test_the_loss_falls(trained):
    for training, *_ in trained.values():
        assert training.losses[-1] < training.losses[0]
        assert training.accuracies[-1] > training.accuracies[0]
        assert training.seconds > 0


def test_validation_is_what_the_attack_finds(few):
    module, adversary = drawn(small_network), Adversary(radius=0.05, method="pgd", budget=6)
    train(module, *few, epochs=5, batch=30, optimiser="adam", progress=False)
    clean, attacked = validate(module, *few, adversary, progress=False)
    assert clean == (module(few[0]).argmax(1) == few[1]).double().mean()
    found = gw.attack(module, *few, radius=0.05, method="pgd", loss="ce", budget=6, progress=False)
    assert attacked == (~found.goal_met).double().mean()
    module[0].weight.grad = torch.ones_like(module[0].weight)
    assert validate(module.train(), *few, progress=False) == (clean, None)
    assert module.training
    assert module[0].weight.grad is not None


# Any attack, any set


@pytest.mark.parametrize(
    ("norm", "radius", "method"),
    [("linf", 0.1, "fgsm"), ("linf", 0.1, "apgd"), ("linf", 0.1, "adr-gd:step_size=0.2"), ("l2", 0.8, "pgd"),
     ("l1", 3.0, "restarts:member=pgd,times=2")],
)  # fmt: skip
def test_any_attack_trains(few, norm, radius, method):
    module = drawn(Every)
    training = train(
        module, *few, mode="adversarial", adversary=Adversary(radius=radius, norm=norm, method=method, budget=4), **FAST
    )
    assert 1 < training.backwards_per_image <= 5
    assert not same(module, drawn(Every))


@pytest.mark.parametrize(("norm", "radius"), [("linf", 0.1), ("l2", 0.8), ("l1", 3.0)])
def test_free_training_stays_inside_and_carries_its_perturbation(few, norm, radius):
    """The points trained on lie in the set; the first of a minibatch begins where the last minibatch ended."""
    met, module = [], drawn(small_network)
    module.register_forward_pre_hook(lambda part, args: met.append(args[0].detach().clone()) if part.training else None)
    adversary = Adversary(radius=radius, norm=norm)
    training = train(module, *few, mode="free", adversary=adversary, replays=3, **(FAST | {"epochs": 2, "batch": 45}))
    assert training.backwards_per_image == 6
    assert len(met) == 12
    for block in range(0, 12, 3):
        clean = few[0]
        nearest = torch.stack([clean[(clean - x).flatten(1).abs().sum(1).argmin()] for x in met[block]])
        for x in met[block : block + 3]:
            assert adversary.around(nearest).violation(x).max() == 0
        if block == 0:
            assert torch.equal(met[0], nearest)
        else:
            moved = (met[block] - nearest).flatten(1).abs().sum(1)
            assert (moved > 0).double().mean() > 0.9
        assert not torch.equal(met[block], met[block + 1])


def test_a_share_of_each_minibatch_is_attacked(few):
    met, module = [], drawn(small_network)
    module.register_forward_pre_hook(lambda part, args: met.append(args[0].detach().clone()) if part.training else None)
    adversary = Adversary(radius=0.1, method="fgsm")
    training = train(module, *few, mode="adversarial", adversary=adversary, share=0.5, **(FAST | {"batch": 30}))
    assert training.backwards_per_image == 1.5
    clean = {row.numpy().tobytes() for row in few[0]}
    for x in met:
        untouched = [row.numpy().tobytes() in clean for row in x]
        assert untouched[15:] == [True] * 15
        assert not any(untouched[:15])


# The same again


@pytest.mark.parametrize(
    "way",
    [{"mode": "normal"}, {"mode": "adversarial"}, {"mode": "free", "replays": 2}],
    ids=lambda way: way["mode"],
)
def test_same_seed_same_parameters(few, way):
    modules = [drawn(Every) for _ in range(3)]
    for module, seed in zip(modules, (3, 3, 4), strict=True):
        torch.rand(seed)  # the global state does not matter …
        before = torch.get_rng_state()
        train(module, *few, adversary=Adversary(radius=0.1, budget=2), seed=seed, **way, **FAST)
        assert torch.equal(torch.get_rng_state(), before)  # … and is left alone
    assert same(modules[0], modules[1])
    assert not same(modules[0], modules[2])


@pytest.mark.parametrize("method", ["fgsm", "pgd:random_start=true", "adr-gd"])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_radius_zero_is_normal_training_bit_for_bit(few, method, share):
    plain, attacked = drawn(Every), drawn(Every)
    train(plain, *few, **FAST)
    adversary = Adversary(radius=0.0, method=method, budget=4)
    train(attacked, *few, mode="adversarial", adversary=adversary, share=share, **FAST)
    assert same(plain, attacked)


def test_free_training_with_one_replay_and_no_radius_is_normal_training_bit_for_bit(few):
    plain, free = drawn(Every), drawn(Every)
    train(plain, *few, **FAST)
    train(free, *few, mode="free", adversary=Adversary(radius=0.0), replays=1, **FAST)
    assert same(plain, free)


# The module


def test_the_module_comes_back_in_the_mode_it_came_in(few):
    adversary = Adversary(radius=0.1, budget=2)
    for mode in (True, False):
        module = drawn(Every).train(mode)
        module.norm.eval()
        before = [part.training for part in module.modules()]
        frozen, statistics = module.frozen.weight.clone(), module.norm.running_mean.clone()
        train(module, *few, mode="adversarial", adversary=adversary, **FAST)
        assert [part.training for part in module.modules()] == before
        assert [parameter.requires_grad for parameter in module.frozen.parameters()] == [False, False]
        assert all(parameter.requires_grad for parameter in module.last.parameters())
        assert all(parameter.grad is None for parameter in module.parameters())
        assert torch.equal(module.frozen.weight, frozen)
        # In a module in training mode a part in evaluation mode is meant to be; in one in evaluation mode it is not.
        assert torch.equal(module.norm.running_mean, statistics) is mode


def test_the_module_comes_back_after_an_exception(few):
    class Breaks(Every):
        calls = 0

        def forward(self, x):
            self.calls += 1
            if self.calls > 8:
                raise KeyError("broken")
            return super().forward(x)

    module = Breaks().eval()
    with pytest.raises(KeyError):
        train(module, *few, mode="adversarial", adversary=Adversary(radius=0.1, budget=2), **FAST)
    assert not any(part.training for part in module.modules())
    assert all(parameter.requires_grad for parameter in module.last.parameters())
    assert all(parameter.grad is None for parameter in module.parameters())


def test_the_attack_sees_evaluation_mode_and_the_update_training_mode(few):
    """Batch norm's statistics are those of the updates alone: one batch counted for each."""
    module = drawn(Every)
    train(module, *few, mode="adversarial", adversary=Adversary(radius=0.1, budget=3), **FAST)
    assert module.norm.num_batches_tracked == 3


def test_no_minibatch_is_a_small_rest(few):
    """41 images in minibatches of 40: 21 and 20, not 40 and 1, which batch norm would refuse or be spoilt by."""
    met, module = [], drawn(small_network)
    module.register_forward_pre_hook(lambda part, args: met.append(len(args[0])) if part.training else None)
    train(module, few[0][:41], few[1][:41], **FAST)
    assert met == [21, 20]


# Augmentation


def test_augmentation_moves_and_mirrors():
    image = torch.arange(1.0, 3 * 32 * 32 + 1).reshape(1, 3, 32, 32)
    batch = image.expand(400, -1, -1, -1)
    moved = shifted_and_mirrored(batch, torch.Generator().manual_seed(0))
    assert moved.shape == batch.shape
    padded = nn.functional.pad(image, [4] * 4)
    crops = {}
    for down in range(9):
        for right in range(9):
            crop = padded[0, :, down : down + 32, right : right + 32]
            crops[crop.numpy().tobytes()] = (down, right, False)
            crops[crop.flip(2).contiguous().numpy().tobytes()] = (down, right, True)
    seen = [crops[row.numpy().tobytes()] for row in moved]
    assert {down for down, _, _ in seen} == {right for _, right, _ in seen} == set(range(9))
    assert 0.4 < sum(mirrored for *_, mirrored in seen) / 400 < 0.6
    again = shifted_and_mirrored(batch, torch.Generator().manual_seed(0))
    assert torch.equal(moved, again)


def test_augmentation_trains_on_colour_images():
    images, labels = torch.rand(20, 3, 32, 32), torch.arange(20) % 10
    module = nn.Sequential(nn.Conv2d(3, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    adversary = Adversary(radius=8 / 255, method="fgsm")
    training = train(module, images, labels, mode="adversarial", adversary=adversary, augment=True, **FAST)
    assert training.backwards_per_image == 2


# What cannot be used


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"mode": "fast"}, "mode 'fast'"),
        ({"mode": "free"}, "Free training needs an adversary"),
        ({"optimiser": "lbfgs"}, "optimiser"),
        ({"schedule": "step"}, "schedule"),
        ({"share": 0.0}, r"share .* \(0, 1\]"),
        ({"share": float("nan")}, "share"),
        ({"replays": 0}, "replays"),
        ({"epochs": 0}, "epochs"),
        ({"batch": 0}, "minibatch"),
        ({"rate": -1.0}, "learning rate"),
        ({"rate": float("inf")}, "learning rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1.0}, "weight decay"),
        ({"seed": -1}, "seed"),
        ({"augment": True}, "32 x 32 colour"),
    ],
)
def test_settings_that_cannot_be_used(few, change, said):
    module = drawn(small_network)
    with pytest.raises(InvalidInput, match=said):
        train(module, *few, **(FAST | change))
    assert same(module, drawn(small_network))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"radius": -0.1}, "radius"),
        ({"norm": "l3"}, "norm"),
        ({"method": "pdg"}, "did you mean 'pgd'"),
        ({"loss": "hinge"}, "loss"),
        ({"budget": 0}, "budget"),
    ],
)
def test_adversaries_that_cannot_be(change, said):
    with pytest.raises(InvalidInput, match=said):
        Adversary(**({"radius": 0.1} | change))


def test_modules_and_images_that_cannot_be_used(few):
    images, labels = few
    with pytest.raises(InvalidInput, match="nothing to train"):
        train(small_network().requires_grad_(False), images, labels, **FAST)
    with pytest.raises(InvalidInput, match="Label 9 does not exist in a model of 4 classes"):
        train(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), images, labels, **FAST)
    with pytest.raises(InvalidInput, match="cannot take images"):
        train(small_network(), images[:, :, :5], labels, **FAST)
    with pytest.raises(InvalidInput, match="outside the bounds"):
        train(small_network(), images * 2, labels, mode="free", adversary=Adversary(radius=0.1), **FAST)
    with pytest.raises(InvalidInput, match="cannot be run in training mode on 1 images"):
        train(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 10)), images[:1], labels[:1], **FAST)


@pytest.mark.parametrize("mode", ["normal", "adversarial"])
def test_divergence_is_said(few, mode):
    with pytest.raises(InvalidInput, match=r"diverged.* lower the rate"):
        train(
            drawn(small_network), *few, mode=mode, adversary=Adversary(radius=0.1, budget=1),
            epochs=30, batch=10, rate=1e30, schedule="constant", progress=False,
        )  # fmt: skip
