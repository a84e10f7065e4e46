"""Train a classifier: normal, FGSM, PGD and free adversarial training, with any method as the attack inside.

`gatewise.training.train` is the library's form (module, images, labels in; the module trained in place), `run` the
command's (a `Config` in; weights and a summary out).
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from gatewise.adversary import Adversary
from gatewise.attack import Loss
from gatewise.classification import Norm
from gatewise.errors import InvalidInput
from gatewise.flags import (
    check_bounds,
    check_deviations,
    check_positive,
    check_seed,
    flag,
    fraction,
    interval,
    numbers,
    required,
)
from gatewise.readers import read_device, read_images, read_model
from gatewise.report.folder import all_or_nothing, require_writable
from gatewise.training import (
    DEFAULT_MOMENTUM,
    DEFAULT_RATES,
    DEFAULT_REPLAYS,
    Mode,
    Optimiser,
    Schedule,
    train,
    validate,
)
from gatewise.zoo.normalise import normalised


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `gatewise train` is asked; the command line has one flag a field."""

    model: str = required("zoo:NAME or module:callable")
    data: str = required("digits, mnist:train, cifar10:train, gtsrb:train, an .npz, or a folder of images")
    weights: str | None = flag("state dict to begin with: .pt or .safetensors (default: drawn by --seed)")
    mode: Mode = flag(
        "normal; adversarial: attack each minibatch, then train on it; free: replay each minibatch, one gradient for "
        "parameters and perturbation",
        "normal",
        choices=("normal", "adversarial", "free"),
    )
    radius: float | None = flag("radius of the ball around each image; 8/255 is understood", parse=fraction)
    norm: Norm = flag("norm of the ball", "linf", choices=("linf", "l2", "l1"))
    method: str = flag(
        "the attack, NAME[:key=value,…]: fgsm, pgd, adr-gd, …; free training only validates with it",
        Adversary.method,
    )
    attack_loss: Loss = flag(
        "what the attack raises: cross-entropy, margin or DLR", Adversary.loss, choices=("ce", "margin", "dlr")
    )
    attack_budget: int = flag("backward passes a row for each attack", Adversary.budget, parse=int)
    share: float | None = flag("share of each minibatch that is attacked (default 1)", parse=fraction)
    replays: int | None = flag(f"of each minibatch in free training (default {DEFAULT_REPLAYS})", parse=int)
    epochs: int = flag("passes over the images; free training makes --replays updates a minibatch", 10, parse=int)
    batch: int = flag("images in a minibatch", 128, parse=int)
    optimiser: Optimiser = flag("sgd or adam", "sgd", choices=("sgd", "adam"))
    rate: float | None = flag("first learning rate (default 0.05 for sgd, 0.001 for adam)", parse=float)
    momentum: float | None = flag(f"of sgd (default {DEFAULT_MOMENTUM})", parse=float)
    weight_decay: float = flag("times the parameter, added to its gradient", 0.0, parse=float)
    schedule: Schedule = flag("of the rate: cosine (to 0) or constant", "cosine", choices=("cosine", "constant"))
    augment: bool = flag("crop at random out of a margin and mirror half; for 32 x 32 colour images", False)
    count: int | None = flag("train on the first COUNT rows", parse=int)
    validation: str | None = flag("data to measure accuracies on, clean and attacked, named as --data")
    validation_count: int | None = flag("its first so many rows", parse=int)
    bounds: tuple[float, float] | None = flag("LO,HI of a pixel, or none", (0.0, 1.0), parse=interval)
    mean: tuple[float, ...] | None = flag("subtracted from each channel inside the model", parse=numbers)
    std: tuple[float, ...] | None = flag("divides each channel inside the model", parse=numbers)
    seed: int = flag("seed of every random draw: weights, order, augmentation, attacks", 0, parse=int)
    device: str = flag("auto, cpu, cuda, …", "auto")
    out: str = flag("folder for weights.safetensors and summary.json", "out")

    def __post_init__(self):
        check_positive(self, "attack_budget", "replays", "epochs", "batch", "rate", "count", "validation_count")
        check_deviations(self.std)
        check_bounds(self.bounds)
        check_seed(self.seed)
        if self.share is not None and not 0 < self.share <= 1:
            raise InvalidInput(f"--share must lie in (0, 1], got {self.share:g}.")
        if self.mode != "normal" and self.radius is None:
            raise InvalidInput(f"--mode {self.mode} needs --radius.")
        if self.share is not None and self.mode != "adversarial":
            raise InvalidInput("--share belongs to --mode adversarial; leave it out.")
        if self.replays is not None and self.mode != "free":
            raise InvalidInput("--replays belongs to --mode free; leave it out.")
        if self.momentum is not None and self.optimiser != "sgd":
            raise InvalidInput("--momentum belongs to --optimiser sgd; leave it out.")
        if self.validation_count is not None and self.validation is None:
            raise InvalidInput("--validation-count needs --validation.")
        if self.model.lower().endswith((".onnx", ".pt2")):
            raise InvalidInput(f"{self.model} is a finished network; name one to train as zoo:NAME or MODULE:CALLABLE.")


def run(config: Config) -> dict[str, Any]:
    """Train as the command does, write the folder, print a line, and return the summary.

    `weights.safetensors` is the state dict of the network that `--model` names (without the normalisation of `--mean`
    and `--std`), on the CPU: what `gatewise attack --weights` reads. On the CPU the same config gives the same bytes.
    Nothing is written unless everything succeeds.

    Raises:
        GatewiseError: whatever is wrong, as one sentence.
    """
    began = time.perf_counter()
    require_writable(config.out)
    adversary = _adversary(config)
    device = read_device(config.device)
    images, labels = _rows(config.data, config.count, device)
    held_out = None if config.validation is None else _rows(config.validation, config.validation_count, device)
    network = _network(config)
    module = normalised(network, config.mean, config.std).to(device)
    settings = _settings(config)
    training = train(
        module,
        images,
        labels,
        mode=config.mode,
        adversary=adversary,
        share=settings["share"],
        replays=settings["replays"],
        epochs=config.epochs,
        batch=config.batch,
        optimiser=config.optimiser,
        rate=settings["rate"],
        momentum=settings["momentum"],
        weight_decay=config.weight_decay,
        schedule=config.schedule,
        augment=config.augment,
        seed=config.seed,
    )
    clean, attacked = (
        (None, None)
        if held_out is None
        else validate(module, *held_out, adversary, batch=config.batch, seed=config.seed)
    )
    summary = {
        "rows": len(labels),
        "train_loss": training.losses,
        "train_accuracy": training.accuracies,
        "backwards_per_image": training.backwards_per_image,
        "training_seconds": training.seconds,
        "validation_rows": None if held_out is None else len(held_out[1]),
        "clean_accuracy": clean,
        "adversarial_accuracy": attacked,
        "seconds": time.perf_counter() - began,
        "settings": settings,
        "torch": torch.__version__,
    }
    with all_or_nothing(config.out) as scratch:
        (scratch / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        # Clones, because tied weights share memory and safetensors keeps every tensor by itself.
        tensors = {name: tensor.cpu().clone().contiguous() for name, tensor in network.state_dict().items()}
        save_file(tensors, scratch / "weights.safetensors")
    Console().print(_line(summary, config), highlight=False)
    return summary


def _adversary(config: Config) -> Adversary | None:
    if config.radius is None:
        return None
    return Adversary(
        radius=config.radius,
        norm=config.norm,
        method=config.method,
        loss=config.attack_loss,
        budget=config.attack_budget,
        bounds=config.bounds,
    )


def _rows(name: str, count: int | None, device: torch.device) -> tuple[Tensor, Tensor]:
    data = read_images(name, count=count)
    return data.images.to(device), data.labels.to(device)


def _network(config: Config) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(config.seed)  # for a callable, which draws its own weights
        return read_model(config.model, config.weights, config.seed)


def _settings(config: Config) -> dict[str, Any]:
    """The config with its open defaults filled in."""
    defaults = {
        "share": 1.0,
        "replays": DEFAULT_REPLAYS,
        "rate": DEFAULT_RATES[config.optimiser],
        "momentum": DEFAULT_MOMENTUM,
    }
    given = dataclasses.asdict(config)
    return given | {name: value for name, value in defaults.items() if given[name] is None}


def _line(summary: dict[str, Any], config: Config) -> str:
    measured = [f"loss {summary['train_loss'][-1]:.4g}", f"training accuracy {summary['train_accuracy'][-1]:.1%}"]
    for name, key in (("clean", "clean_accuracy"), ("adversarial", "adversarial_accuracy")):
        if summary[key] is not None:
            measured.append(f"{name} accuracy {summary[key]:.1%}")
    measured.append(f"{summary['backwards_per_image']:.0f} backward passes an image")
    return f"{', '.join(measured)}, {summary['seconds']:.0f} s: {config.out}/weights.safetensors"
