"""Train a classifier: on its images, on adversarial ones, or on perturbations that come free with the training.

Sources: FGSM training, Goodfellow et al. (ICLR 2015, arXiv:1412.6572), with a random start Wong et al. (ICLR 2020,
arXiv:2001.03994); PGD training, Madry et al. (ICLR 2018, arXiv:1706.06083); free training, Algorithm 1 of Shafahi et
al. (NeurIPS 2019, arXiv:1904.12843).

Deviations: (1) the inner attack is any method run by the driver, which hands back the point of largest loss on the way
(misclassified points first), the start included, and not the last point. (2) It attacks the network in evaluation mode:
batch norm neither mixes the rows of a batch nor takes their statistics while the attack searches. Free training takes
both gradients from one pass, which is in training mode as in its paper. (3) An epoch is cut into minibatches whose
sizes differ by at most one, so that no small rest remains. (4) Free training steps by the set's own norm (signs in
linf, as in its paper) and cuts the perturbation by the pixel bounds at once.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.adversary import Adversary
from gatewise.classification import check_images, check_labels, plain_logits
from gatewise.errors import InvalidInput
from gatewise.geometry import per_row
from gatewise.methods.base import cosine_decay
from gatewise.network import NetworkView
from gatewise.report.progress import progress_bar

Mode = Literal["normal", "adversarial", "free"]
Optimiser = Literal["sgd", "adam"]
Schedule = Literal["cosine", "constant"]
DEFAULT_RATES: dict[str, float] = {"sgd": 0.05, "adam": 1e-3}
"""The first learning rate where none is given, by optimiser."""
DEFAULT_MOMENTUM = 0.9
DEFAULT_REPLAYS = 8
_MARGIN = 4  # pixels of zeros around an image before it is cropped back: the custom for 32 x 32 images


@dataclass(frozen=True)
class Training:
    """What a training run was.

    By epoch: `losses`, the mean cross-entropy, and `accuracies`, the share of points classified as their label, both
    on the points trained on, as they were met. `backwards_per_image` counts the gradients of every kind, of parameters
    and of pixels, that an image cost over all epochs; `seconds` the time.
    """

    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    backwards_per_image: float
    seconds: float


def train(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    mode: Mode = "normal",
    adversary: Adversary | None = None,
    share: float = 1.0,
    replays: int = DEFAULT_REPLAYS,
    epochs: int = 10,
    batch: int = 128,
    optimiser: Optimiser = "sgd",
    rate: float | None = None,
    momentum: float = DEFAULT_MOMENTUM,
    weight_decay: float = 0.0,
    schedule: Schedule = "cosine",
    augment: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> Training:
    """Train `module`'s parameters, in place, by the cross-entropy of its logits.

    Parameters that ask for no gradient stay as they are. A module in evaluation mode is put in training mode for the
    time; of one in training mode, parts in evaluation mode (frozen batch norm) stay so. Either way every part comes
    back in the mode that it came in, without gradients, also after an exception.

    Args:
        module: from images (batch, …) to logits (batch, classes >= 2).
        images: (N, …) float32 or float64, on the module's device, within the adversary's bounds.
        labels: (N,) int64.
        mode: normal; adversarial (each minibatch is attacked, then trained on); free (each minibatch is trained on
            `replays` times running, and each gradient moves the parameters and the perturbation at once; the
            perturbation is carried over replays and minibatches).
        adversary: for the last two.
        share: of each minibatch to attack, in (0, 1]; the rest is trained on as it is. For `adversarial`.
        replays: of each minibatch, for `free`: an epoch then makes so many updates for one.
        epochs: passes over the images.
        batch: images in a minibatch, at most.
        optimiser: sgd or adam.
        rate: the first learning rate; None takes `DEFAULT_RATES`.
        momentum: of sgd, in [0, 1).
        weight_decay: added to the gradient, times the parameter.
        schedule: cosine (from `rate` to 0, by update) or constant.
        augment: crop at random out of a margin of four pixels of zeros, and mirror half of the images, which must be
            (N, 3, 32, 32).
        seed: of order, augmentation, dropout and the attack's draws, at least 0. On the CPU the same seed gives the
            same parameters bit for bit; PyTorch's own random state is left as it was.
        progress: show a progress bar on a terminal.

    Raises:
        InvalidInput: images, labels or settings that cannot be used, or a loss that is no longer finite.
    """
    began = time.perf_counter()
    _check_choice("mode", mode, "normal", "adversarial", "free")
    _check_choice("optimiser", optimiser, *DEFAULT_RATES)
    _check_choice("schedule", schedule, "cosine", "constant")
    rate = DEFAULT_RATES[optimiser] if rate is None else rate
    _check_range("learning rate", rate, rate > 0, "a positive number")
    _check_range("momentum", momentum, 0 <= momentum < 1, "in [0, 1)")
    _check_range("weight decay", weight_decay, weight_decay >= 0, "at least 0")
    _check_range("share of each minibatch to attack", share, 0 < share <= 1, "in (0, 1]")
    _check_range("seed", seed, seed >= 0, "at least 0")
    for what, value in (("number of replays", replays), ("number of epochs", epochs), ("minibatch", batch)):
        _check_range(what, value, value >= 1, "at least 1")
    if mode != "normal" and adversary is None:
        raise InvalidInput(f"{mode.capitalize()} training needs an adversary, with its radius.")
    check_images(images, labels, None if adversary is None else adversary.bounds)
    if augment and images.shape[1:] != (3, 32, 32):
        raise InvalidInput(
            f"Augmentation crops and mirrors 32 x 32 colour images; these are {tuple(images.shape[1:])}."
        )
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not parameters:
        raise InvalidInput("The model has no parameter that asks for a gradient: there is nothing to train.")
    network = NetworkView(module)
    with _as_it_came(module):
        _evaluate_only(module)
        check_labels(labels, plain_logits(network, images[:1], 1).shape[1])

    per_epoch = math.ceil(len(images) / batch)
    updates = epochs * per_epoch * (replays if mode == "free" else 1)
    orders, shifts, layers, *attacks = _seeds(seed, 3 + epochs)
    order, shift = torch.Generator().manual_seed(orders), torch.Generator().manual_seed(shifts)
    descent = _Descent(
        module,
        torch.optim.SGD(parameters, lr=rate, momentum=momentum, weight_decay=weight_decay)
        if optimiser == "sgd"
        else torch.optim.Adam(parameters, lr=rate, weight_decay=weight_decay),
        lambda update: rate * (cosine_decay(update, updates) if schedule == "cosine" else 1.0),
    )
    carried = torch.zeros_like(images[: math.ceil(len(images) / per_epoch)])
    spent, losses, accuracies = 0.0, [], []
    with _as_it_came(module, drop_gradients=True), _own_draws(layers, images.device), progress_bar(progress) as bar:
        if not module.training:
            module.train()
        task = bar.add_task("training", total=updates)
        for epoch in range(epochs):
            descent.begin_epoch()
            for rows in torch.randperm(len(images), generator=order).tensor_split(per_epoch):
                names, rows = rows.tolist(), rows.to(images.device)
                pixels, truth = images[rows], labels[rows]
                if augment:
                    pixels = shifted_and_mirrored(pixels, shift)
                if mode == "free":
                    assert adversary is not None
                    spent += _replay(descent, adversary, pixels, truth, carried[: len(rows)], replays)
                else:
                    if mode == "adversarial":
                        assert adversary is not None
                        attacked = max(1, round(share * len(rows)))
                        spent += _perturb(network, adversary, pixels, truth, names[:attacked], attacks[epoch])
                    descent.update(pixels, truth)
                    spent += len(rows)
                bar.update(task, completed=descent.made, description=f"epoch {epoch + 1}/{epochs}")
            losses.append(descent.loss / descent.seen)
            accuracies.append(descent.right / descent.seen)
        if not all(bool(torch.isfinite(parameter).all()) for parameter in parameters):
            raise _diverged(rate)
    return Training(tuple(losses), tuple(accuracies), spent / len(images), time.perf_counter() - began)


def validate(
    module: nn.Module,
    images: Tensor,
    labels: Tensor,
    adversary: Adversary | None = None,
    *,
    batch: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> tuple[float, float | None]:
    """The shares of images classified as their label, and still so after the adversary's attack (None without one).

    The module runs in evaluation mode and comes back as it was. Images that are wrong from the start are not attacked;
    the attack on an image ends at its first success.

    Args:
        module: from images (batch, …) to logits (batch, classes >= 2).
        images: (N, …) float32 or float64, on the module's device.
        labels: (N,) int64.
        adversary: the attack.
        batch: images run together.
        seed: of the attack's draws.
        progress: show a progress bar on a terminal.

    Raises:
        InvalidInput: images or labels that cannot be used.
    """
    check_images(images, labels, None if adversary is None else adversary.bounds)
    network = NetworkView(module)
    with _as_it_came(module), progress_bar(progress) as bar:
        _evaluate_only(module)
        logits = plain_logits(network, images, batch)
        check_labels(labels, logits.shape[1])
        right = (logits.argmax(1) == labels).nonzero().flatten()
        clean = len(right) / len(images)
        if adversary is None:
            return clean, None
        task = bar.add_task("validation", total=len(right))
        standing = 0
        for rows in right.split(batch):
            found = adversary.attack(network, images[rows], labels[rows], rows.tolist(), seed, full_budget=False)
            standing += int((~found.goal_met).sum())
            bar.advance(task, len(rows))
    return clean, standing / len(images)


def shifted_and_mirrored(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each of `images` (batch, channels, height, width) moved by up to four pixels either way, zeros where nothing
    was, and mirrored left to right with probability one half. `generator` is on the CPU.
    """
    batch, _, height, width = images.shape
    down, right = torch.randint(2 * _MARGIN + 1, (2, batch, 1), generator=generator)
    mirrored = torch.randint(2, (batch, 1), generator=generator).bool()
    rows, across = down + torch.arange(height), torch.arange(width)
    columns = right + torch.where(mirrored, across.flip(0), across)
    which, rows, columns = (
        index.to(images.device) for index in (torch.arange(batch)[:, None, None], rows[:, :, None], columns[:, None, :])
    )
    return F.pad(images, [_MARGIN] * 4)[which, :, rows, columns].permute(0, 3, 1, 2).contiguous()


class _Descent:
    """The parameters' side: one update at a time, with the sums of the epoch."""

    def __init__(self, module: nn.Module, optimiser: torch.optim.Optimizer, rate: Callable[[int], float]):
        self.module, self.optimiser, self.rate = module, optimiser, rate
        self.made = 0
        self.begin_epoch()

    def begin_epoch(self) -> None:
        self.loss, self.right, self.seen = 0.0, 0, 0

    def update(self, x: Tensor, labels: Tensor) -> None:
        """One step of the parameters on `x` (batch, …). Where `x` asks for a gradient it gets its own on the way."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate(self.made)
        self.optimiser.zero_grad()
        logits = _run(self.module, x)
        loss = F.cross_entropy(logits, labels)
        if not math.isfinite(loss.item()):
            raise _diverged(self.rate(0))
        loss.backward()
        self.optimiser.step()
        self.made += 1
        self.loss += loss.item() * len(x)
        self.right += int((logits.argmax(1) == labels).sum())
        self.seen += len(x)


def _perturb(
    network: NetworkView, adversary: Adversary, pixels: Tensor, labels: Tensor, names: list[int], seed: int
) -> float:
    """Put the first rows of `pixels` (as many as there are names) at their adversarial points; returns the backward
    passes spent.
    """
    rows = slice(len(names))
    with _as_it_came(network.module):
        _evaluate_only(network.module)
        found = adversary.attack(network, pixels[rows], labels[rows], names, seed, full_budget=True)
    pixels[rows] = found.x
    return found.backwards_per_row * len(names)


def _replay(
    descent: _Descent, adversary: Adversary, pixels: Tensor, labels: Tensor, carried: Tensor, replays: int
) -> float:
    """Shafahi et al.'s inner loop. `carried` (batch, …) is the perturbation that the last minibatch left behind; it is
    moved in place. Returns the backward passes spent: one gives both gradients.
    """
    domain = adversary.around(pixels)
    x = domain.project(pixels + carried)
    size = per_row(domain.size(x), x)
    for _ in range(replays):
        leaf = x.detach().requires_grad_()
        descent.update(leaf, labels)
        assert leaf.grad is not None
        x = domain.project(x + size * domain.steepest(leaf.grad))
    carried.copy_(x - pixels)
    return float(replays * len(pixels))


def _run(module: nn.Module, x: Tensor) -> Tensor:
    """Logits in training mode; what PyTorch says of a batch that training mode refuses becomes a sentence."""
    try:
        # A copy, because a module may overwrite its input, which a leaf that asks for a gradient forbids.
        logits = module(x.clone())
    except (RuntimeError, ValueError) as error:
        raise InvalidInput(
            f"The model cannot be run in training mode on {len(x)} images: {str(error).splitlines()[0]}"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise InvalidInput("In training mode the model returns something else than logits (batch, classes).")
    return logits


@contextlib.contextmanager
def _as_it_came(module: nn.Module, drop_gradients: bool = False) -> Iterator[None]:
    """Give every part back in the mode that it came in; on demand the parameters without the gradients of training."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        if drop_gradients:
            for parameter in module.parameters():
                parameter.grad = None


def _evaluate_only(module: nn.Module) -> None:
    # The flags are set one by one, as the view does it: users override .eval() and .train().
    for part in module.modules():
        part.training = False


@contextlib.contextmanager
def _own_draws(seed: int, device: torch.device) -> Iterator[None]:
    """PyTorch's own random state (dropout draws from it) seeded for the time, and given back as it was."""
    accelerators = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=accelerators):
        torch.default_generator.manual_seed(seed)
        if accelerators:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def _seeds(seed: int, count: int) -> list[int]:
    """So many seeds that have nothing to do with each other; the first ones do not depend on `count`."""
    return [int(state >> np.uint64(1)) for state in np.random.SeedSequence(seed).generate_state(count, np.uint64)]


def _diverged(rate: float) -> InvalidInput:
    return InvalidInput(f"Training has diverged: the loss is no longer finite; lower the rate (it was {rate:g}).")


def _check_choice(what: str, value: str, *choices: str) -> None:
    if value not in choices:
        raise InvalidInput(f"There is no {what} {value!r}; choose {', '.join(choices)}.")


def _check_range(what: str, value: float, holds: bool, wanted: str) -> None:
    if not (holds and math.isfinite(value)):
        raise InvalidInput(f"The {what} must be {wanted}, got {value}.")
