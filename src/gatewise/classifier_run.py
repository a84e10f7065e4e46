"""A command's run over a classifier's images: what it is asked, what it reads, in which pieces, and what it writes."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from gatewise.catalogue import method_named
from gatewise.classification import Norm, check_images, check_labels, plain_logits
from gatewise.combinators import MultiTargeted
from gatewise.errors import InvalidInput
from gatewise.flags import (
    check_bounds,
    check_deviations,
    check_methods,
    check_positive,
    check_seed,
    flag,
    interval,
    numbers,
    required,
)
from gatewise.methods.base import Method
from gatewise.network import NetworkView
from gatewise.objectives import Margin
from gatewise.readers import Images, read_device, read_images, read_model
from gatewise.report.folder import all_or_nothing
from gatewise.report.gallery import Column, draw_gallery
from gatewise.result import Result
from gatewise.zoo.normalise import normalised

_SHOWN = 8  # rows of the gallery


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """What a command on a classifier's images is asked; the command line has one flag a field.

    Raises:
        InvalidInput: values that cannot be used.
    """

    model: str = required("ONNX file, .pt2 file, zoo:NAME, or module:callable")
    data: str = required("digits, mnist:test, cifar10:test, gtsrb:test, an .npz, or a folder of images")
    weights: str | None = flag("state dict for the model: .pt or .safetensors")
    indices: str | None = flag("FILE.csv[:CLASS]: rows by position (first column), of that class column")
    norm: Norm = flag("linf, l2 or l1", "linf", choices=("linf", "l2", "l1"))
    method: tuple[str, ...] = flag("NAME[:key=value,…]; repeatable", (), repeat=True)
    target: int | None = flag("aim every image at this class", parse=int)
    targeted: Literal["next"] | None = flag("aim each image at class (label + 1) mod K", choices=("next",))
    budget: int | None = flag("backward passes a row", parse=int)
    seconds: float | None = flag("time for each method, from model loaded to points final", parse=float)
    count: int | None = flag("use the first COUNT rows", parse=int)
    seed: int = flag("seed of every random draw", 0, parse=int)
    bounds: tuple[float, float] | None = flag("LO,HI of a pixel, or none", (0.0, 1.0), parse=interval)
    mean: tuple[float, ...] | None = flag("subtracted from each channel inside the model", parse=numbers)
    std: tuple[float, ...] | None = flag("divides each channel inside the model", parse=numbers)
    batch: int = flag("rows solved together", 100, parse=int)
    device: str = flag("auto, cpu, cuda, …", "auto")
    out: str = flag("folder for summary.json, points.safetensors and gallery.png", "out")

    def __post_init__(self):
        check_positive(self, "budget", "seconds", "batch", "count")
        check_methods(self.method)
        if self.target is not None and self.targeted is not None:
            raise InvalidInput("--target and --targeted exclude each other; give one.")
        check_seed(self.seed)
        check_deviations(self.std)
        check_bounds(self.bounds)

    @property
    def is_targeted(self) -> bool:
        """Whether each image is to become a class that was named."""
        return self.target is not None or self.targeted is not None


@dataclass(frozen=True, eq=False)
class Rows:
    """A network and its images, on the network's device.

    `images` (rows, …); `labels` (rows,) int64; `targets` (rows,) int64, or None; `logits` (rows, classes) of the clean
    images; `correct` (rows,) bool, which are right at the start; `attacked` (rows,) bool, which of those are not of
    their target class already; `index` (rows,) int64 on the CPU, their positions in the data.
    """

    network: NetworkView
    images: Tensor
    labels: Tensor
    targets: Tensor | None
    logits: Tensor
    correct: Tensor
    attacked: Tensor
    index: Tensor

    def targets_of(self, rows: Tensor) -> Tensor | None:
        """The targets of some rows, where there are any."""
        return None if self.targets is None else self.targets[rows]


def named_methods(config: ClassifierConfig) -> dict[str, Method]:
    """The methods by what the user called them; raises InvalidInput for those that cannot be built, or aimed."""
    named = {name: method_named(name) for name in config.method}
    if config.is_targeted:
        for name, method in named.items():
            if isinstance(method, MultiTargeted):
                raise InvalidInput(f"{name} chooses its own targets; leave out --target and --targeted.")
    return named


def read_rows(
    config: ClassifierConfig, dtype: torch.dtype = torch.float32, positions: Sequence[int] | None = None
) -> Rows:
    """The network and the images of a run; the `positions` in the data are those given, else those of --indices.

    A network is made float64 where that is the `dtype`; for float32 it is left as it comes.

    Raises:
        InvalidInput: whatever is wrong with model, images, labels or targets.
    """
    device = read_device(config.device)
    network = _network(config, device)
    data = read_images(config.data, count=config.count, indices=config.indices if positions is None else positions)
    labels = data.labels.to(device)
    check_images(data.images, data.labels, config.bounds)
    images, logits = _run_in(dtype, network, data, device, config)
    targets = _targets(config, labels, logits)
    correct = Margin(labels)(images, logits) > 0
    attacked = correct if targets is None else correct & (targets != labels)
    return Rows(network, images, labels, targets, logits, correct, attacked, data.index)


def chunks(attacked: Tensor, config: ClassifierConfig) -> Iterator[tuple[Tensor, float | None]]:
    """The rows that are `attacked` (rows,) bool, some at a time, each chunk with its share of the time that is left."""
    deadline = None if config.seconds is None else time.perf_counter() + config.seconds
    left = attacked.nonzero().flatten()
    while len(left):
        rows = left[: config.batch]
        remaining = None if deadline is None else deadline - time.perf_counter()
        if remaining is not None and remaining <= 0:
            return
        yield rows, None if remaining is None else remaining * len(rows) / len(left)
        left = left[config.batch :]


def mean(values: Tensor) -> float | None:
    """None for no values at all."""
    return values.double().mean().item() if len(values) else None


def passes(results: Sequence[Result], kind: Literal["forwards", "backwards"], rows: int) -> float | None:
    """Passes of one kind a row, over `rows` rows."""
    return sum(getattr(result, f"{kind}_per_row") * len(result.x) for result in results) / rows if rows else None


@dataclass(frozen=True, eq=False)
class Found:
    """A method's points (rows, …), with the plain network's logits there (rows, classes) and one number a row (rows,),
    such as the loss; also the clean images.
    """

    points: Tensor
    logits: Tensor
    values: Tensor


def write(
    out: str, summary: Mapping[str, Any], rows: Rows, clean: Found, found: Mapping[str, Found], what: str
) -> None:
    """summary.json, points.safetensors and gallery.png in the folder `out`, all or none; `what` names the values in the
    picture.
    """
    everyone = torch.ones_like(rows.attacked)
    shown = (rows.attacked if bool(rows.attacked.any()) else everyone).nonzero().flatten()[:_SHOWN]
    columns = [_column(name, one, rows.labels, shown, what) for name, one in [("clean", clean), *found.items()]]
    with all_or_nothing(out) as scratch:
        (scratch / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        tensors = {"index": rows.index, "labels": rows.labels.cpu(), "clean": rows.images.cpu().contiguous()}
        tensors |= {name: entry.points.cpu().contiguous() for name, entry in found.items()}
        save_file(tensors, scratch / "points.safetensors")
        draw_gallery(scratch / "gallery.png", *columns)


def _network(config: ClassifierConfig, device: torch.device) -> NetworkView:
    module = read_model(config.model, config.weights)
    if config.model.startswith("zoo:") and config.weights is None:
        warnings.warn(f"{config.model} has random weights; name trained ones by --weights.", stacklevel=1)
    rows_per_run = getattr(module, "rows_per_run", None)
    return NetworkView(normalised(module, config.mean, config.std).to(device), rows_per_run=rows_per_run)


def _run_in(
    dtype: torch.dtype, network: NetworkView, data: Images, device: torch.device, config: ClassifierConfig
) -> tuple[Tensor, Tensor]:
    """The images and their plain logits in that dtype."""
    single = data.images.to(device)
    if dtype == torch.float32:
        return single, plain_logits(network, single, config.batch)
    try:
        network.module.double()
        # In float64 a bound such as 0.1 may lie inside the pixels that float32 rounded to it.
        images = single.double() if config.bounds is None else single.double().clamp(*config.bounds)
        logits = plain_logits(network, images, config.batch)
        if logits.dtype == dtype:
            return images, logits
        said = f"it returns {logits.dtype}"
    except (InvalidInput, RuntimeError, TypeError) as error:
        said = str(error).splitlines()[0].rstrip(".")
        try:
            network.module.float()
            plain_logits(network, single[:1], 1)
        except (InvalidInput, RuntimeError):
            raise error from None  # it is not the dtype
    raise InvalidInput(f"The model does not run in float64 ({said}); give --dtype float32.")


def _targets(config: ClassifierConfig, labels: Tensor, logits: Tensor) -> Tensor | None:
    classes = logits.shape[1]
    check_labels(labels, classes)
    if config.targeted == "next":
        return (labels + 1) % classes
    if config.target is None:
        return None
    if not 0 <= config.target < classes:
        raise InvalidInput(f"--target must lie between 0 and {classes - 1}, got {config.target}.")
    return torch.full_like(labels, config.target)


def _column(title: str, found: Found, labels: Tensor, shown: Tensor, what: str) -> Column:
    """What the gallery shows of a method: image, predicted class and value; marked where it is not the label."""
    classes, values = found.logits[shown].argmax(1), found.values[shown]
    captions = [
        f"{chosen}  {what} {value:.3g}" for chosen, value in zip(classes.tolist(), values.tolist(), strict=True)
    ]
    return Column(title, found.points[shown].cpu(), captions, (classes != labels[shown]).tolist())
