"""Invert a network for a set of images or a class, method by method at equal passes; files and a summary out."""

from __future__ import annotations

import json
import statistics
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

from gatewise.catalogue import method_named
from gatewise.classification import check_images
from gatewise.classifier_run import passes
from gatewise.combinators import Restarts
from gatewise.errors import InvalidInput
from gatewise.flags import (
    check_bounds,
    check_deviations,
    check_methods,
    check_positive,
    flag,
    interval,
    numbers,
    required,
)
from gatewise.inversion import Inversion, Setting, of_class, of_features, of_generator, plain
from gatewise.measurements import measurement_named
from gatewise.problem import Problem
from gatewise.readers import read_device, read_images, read_model
from gatewise.report.folder import all_or_nothing, require_writable
from gatewise.report.gallery import Column, draw_gallery, require_matplotlib
from gatewise.report.inversion_table import inversion_table
from gatewise.report.progress import progress_bar
from gatewise.solve import minimize
from gatewise.zoo.normalise import normalised

DEFAULT_METHODS = ("adam", "gauss-newton")
_IMPRESSIONS, _SHOWN = 4, 8
_FIGURES = ("mse", "psnr", "ssim", "measured_error", "feature_error", "probability", "value")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `gatewise invert` is asked; the command line has one flag a field.

    Raises:
        InvalidInput: values that cannot be used.
    """

    model: str = required("ONNX file, .pt2 file, zoo:NAME, or module:callable")
    weights: str | None = flag("state dict for the model: .pt or .safetensors")
    data: str | None = flag("images to match: digits, mnist:test, cifar10:test, gtsrb:test, an .npz, or a folder")
    layer: str | None = flag("match the features of the images at this layer of the model (or at its output)")
    class_: int | None = flag("no data: an image of this class", parse=int)
    score: Literal["logit", "ce"] = flag(
        "what --class raises or lowers: its logit, or the cross-entropy", "logit", choices=("logit", "ce")
    )
    measure: str = flag(
        "what is seen of an image through a generator: none, mask:box=14, mask:keep=0.3, blur:sigma=2, "
        "downsample:factor=4 or projection:count=100",
        "none",
    )
    noise: float = flag("deviation of normal noise on what is measured", 0.0, parse=float)
    method: tuple[str, ...] = flag(
        "NAME[:key=value,…]; repeatable, all at the same budget (default: adam, gauss-newton)",
        DEFAULT_METHODS,
        repeat=True,
    )
    restarts: int = flag("runs from random starts; they share the budget", 1, parse=int)
    budget: int = flag("backward passes a row", 1000, parse=int)
    l2: float = flag("weight of the input's squared norm: a normal prior on latents", 0.0, parse=float)
    total_variation: float = flag("weight of the input image's total variation, a mean over pixels", 0.0, parse=float)
    latent_radius: float = flag("bound of a latent's entries, whose prior has deviation 1", 10.0, parse=float)
    start: Literal["random", "middle"] = flag(
        "a random point of the set (normal latents, uniform noise), or its middle (0, grey)",
        "random",
        choices=("random", "middle"),
    )
    output_range: tuple[float, float] | None = flag(
        "LO,HI of a generator's output, black and white (default -1,1 after tanh, else 0,1)", parse=interval
    )
    input_shape: tuple[float, ...] | None = flag(
        "shape of one input, such as 64,1,1 (default the model's)", parse=numbers
    )
    indices: str | None = flag("FILE.csv[:CLASS]: rows by position (first column), of that class column")
    count: int | None = flag("use the first COUNT rows; impressions of a class (default 4)", parse=int)
    seed: int = flag("seed of every random draw", 0, parse=int)
    bounds: tuple[float, float] = flag("LO,HI of a pixel, where the input is an image", (0.0, 1.0), parse=interval)
    mean: tuple[float, ...] | None = flag("subtracted from each channel inside the model", parse=numbers)
    std: tuple[float, ...] | None = flag("divides each channel inside the model", parse=numbers)
    batch: int = flag("rows solved together", 100, parse=int)
    device: str = flag("auto, cpu, cuda, …", "auto")
    out: str = flag("folder for summary.json, points.safetensors and gallery.png", "out")

    def __post_init__(self):
        check_positive(self, "restarts", "budget", "latent_radius", "count", "batch")
        check_deviations(self.std)
        if self.bounds is None:
            raise InvalidInput("An image that is searched for needs --bounds LO,HI.")
        check_bounds(self.bounds)
        for name in ("noise", "l2", "total_variation", "seed"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise InvalidInput(f"--{name.replace('_', '-')} must be at least 0, got {getattr(self, name)}.")
        check_methods(self.method)
        if self.class_ is not None and (self.data is not None or self.layer is not None):
            raise InvalidInput("--class needs no images; leave out --data and --layer, or --class.")
        if self.class_ is None and self.data is None:
            raise InvalidInput("There is nothing to match; give images by --data, or a class by --class.")
        if self.output_range is not None and not self.output_range[0] < self.output_range[1]:
            raise InvalidInput(f"--output-range must be LO,HI with LO below HI, got {self.output_range}.")
        if self.is_generator and self.total_variation:
            raise InvalidInput("--total-variation is that of an input image, and a generator's is a latent; use --l2.")
        if not self.is_generator and (self.measure != "none" or self.noise or self.output_range is not None):
            raise InvalidInput(
                "--measure, --noise and --output-range are for generators; leave out --layer and --class."
            )
        shape = self.input_shape or ()
        if any(length < 1 or length % 1 for length in shape):
            raise InvalidInput(f"--input-shape must be whole numbers such as 64,1,1, got {shape}.")

    @property
    def is_generator(self) -> bool:
        """Whether the input is a latent and the output an image."""
        return self.class_ is None and self.layer is None


def run(config: Config) -> dict[str, Any]:
    """Invert as the command does, write the folder, print the table, and return the summary.

    What the summary tells of each method, None where it does not apply: medians and means over the rows of `mse`
    (squared error a pixel of the whole image against the original, pixels in [0, 1]), `psnr` in dB, `ssim`;
    `measured_error`, the squared error of what was measured; `feature_error`, that of the features over their mean
    square; `success`, the share that is of the class, and its `probability`; `value`, the objective, priors included;
    `forwards_per_row` and `backwards_per_row`, passes; `seconds`; `max_violation` of the set. Nothing is written unless
    everything succeeds.

    Raises:
        GatewiseError: whatever is wrong, as one sentence.
    """
    require_writable(config.out)
    require_matplotlib()
    methods = {name: method_named(name) for name in config.method}
    if config.restarts > 1:
        methods = {name: Restarts(member=method, times=config.restarts) for name, method in methods.items()}
    task = _inversion(config)
    summary: dict[str, Any] = {"rows": len(task.start), **task.said, "budget": config.budget, "methods": {}}
    found: dict[str, tuple[Tensor, Tensor]] = {}
    columns = []
    with task.network.borrowed(), progress_bar() as bar:
        for name, method in methods.items():
            shown, results = bar.add_task(name, total=len(task.start)), []
            for rows in torch.arange(len(task.start)).split(config.batch):
                problem = Problem(task.network, task.domain, task.objective(rows))
                result = minimize(
                    problem,
                    method,
                    task.start[rows],
                    budget=config.budget,
                    seed=config.seed,
                    rows=task.index[rows].tolist(),
                    progress=False,
                )
                results.append(result)
                bar.advance(shown, len(rows))
            points = torch.cat([result.x for result in results])
            # Everything told of the points is read off the untouched module once more.
            output = plain(task.network, points, config.batch)
            pictures, figures = task.pictures(points, output), task.judge(points, output)
            figures["value"] = torch.cat([result.value for result in results])
            summary["methods"][name] = {
                **{f"{key}_{kind}": _of(figures, key, kind) for key in _FIGURES for kind in ("median", "mean")},
                "success": _of(figures, "success", "mean"),
                "forwards_per_row": passes(results, "forwards", len(points)),
                "backwards_per_row": passes(results, "backwards", len(points)),
                "seconds": sum(result.seconds for result in results),
                "max_violation": task.domain.violation(points).max().item(),
            }
            found[name] = points, pictures
            columns.append(_column(name, pictures, figures))
        before = task.pictures(task.start, plain(task.network, task.start, config.batch))
    _write(config, summary, task, before, found, columns)
    Console().print(inversion_table(summary))
    return summary


def _inversion(config: Config) -> Inversion:
    """The task, from the names of its model and data."""
    device = read_device(config.device)
    module = read_model(config.model, config.weights)
    if config.model.startswith("zoo:") and config.weights is None:
        warnings.warn(f"{config.model} has random weights; name trained ones by --weights.", stacklevel=1)
    known = getattr(module, "input_shape", None) if config.input_shape is None else config.input_shape
    module = normalised(module, config.mean, config.std).to(device)
    setting = Setting(
        l2=config.l2,
        total_variation=config.total_variation,
        start=config.start,
        seed=config.seed,
        batch=config.batch,
    )
    if config.layer is None and (known is None or None in known):
        raise InvalidInput(f"{config.model} does not say what it takes; give the shape of one input by --input-shape.")
    shape = [int(length) for length in known or () if length is not None]
    if config.class_ is not None:
        count = config.count or _IMPRESSIONS
        options = {"bounds": config.bounds, "score": config.score, "device": device}
        return of_class(module, config.class_, count, shape, setting, **options)
    assert config.data is not None
    data = read_images(config.data, count=config.count, indices=config.indices)
    images = data.images.to(device)
    if config.layer is not None:
        check_images(data.images, data.labels, config.bounds)
        return of_features(module, images, data.index, config.layer, setting, bounds=config.bounds)
    check_images(data.images, data.labels, (0.0, 1.0))
    inversion = of_generator(
        module,
        images,
        data.index,
        shape,
        setting,
        measurement=measurement_named(config.measure, config.seed),
        noise=config.noise,
        latent_radius=config.latent_radius,
        output_range=config.output_range,
    )
    inversion.said.update(measure=config.measure, noise=config.noise)
    return inversion


def _of(figures: dict[str, Tensor], key: str, kind: str) -> float | None:
    if key not in figures:
        return None
    values = figures[key].double().tolist()
    return statistics.median(values) if kind == "median" else statistics.fmean(values)


def _column(title: str, pictures: Tensor, figures: dict[str, Tensor]) -> Column:
    """What the gallery shows of a method; marked where an image is not of its class."""
    key = "mse" if "mse" in figures else "probability"
    captions = [f"{key} {value:.3g}" for value in figures[key].tolist()[:_SHOWN]]
    missed = figures["success"][:_SHOWN] == 0 if "success" in figures else torch.zeros(len(captions), dtype=torch.bool)
    return Column(title, pictures[:_SHOWN].cpu(), captions, missed.tolist())


def _write(
    config: Config,
    summary: dict[str, Any],
    task: Inversion,
    before: Tensor,
    found: dict[str, tuple[Tensor, Tensor]],
    columns: Sequence[Column],
) -> None:
    """summary.json, points.safetensors and gallery.png, all or none."""

    def bare(title: str, pictures: Tensor) -> Column:
        shown = pictures[:_SHOWN].cpu()
        return Column(title, shown, [""] * len(shown), [False] * len(shown))

    first = bare("start", before) if task.truth is None else bare("original", task.truth)
    between = [] if task.measured is None else [bare(config.measure, task.measured)]
    between += [] if task.truth is None else [bare("start", before)]
    tensors = {"index": task.index, "start": task.start}
    tensors |= {} if task.truth is None else {"original": task.truth}
    for name, (points, pictures) in found.items():
        tensors |= {name: points} | ({f"{name} image": pictures} if config.is_generator else {})
    with all_or_nothing(config.out) as scratch:
        (scratch / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, scratch / "points.safetensors")
        draw_gallery(scratch / "gallery.png", first, *columns, between=between)
