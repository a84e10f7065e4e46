"""Inversion as data: what is to be found, where, from which start, and how it is judged.

A *generator*'s latent, so that what is measured of its output matches what was measured of an image (Bora, Jalal, Price
& Dimakis, "Compressed sensing using generative models", 2017). An image whose *features* at a layer match those of
another (Mahendran & Vedaldi, "Understanding deep image representations by inverting them", 2015). An image that a
classifier takes for a *class* (Simonyan, Vedaldi & Zisserman, "Deep inside convolutional networks", 2014).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gatewise.domains import Box, Domain, Latents
from gatewise.errors import InvalidInput
from gatewise.image_quality import mean_squared_error, peak_signal_to_noise, structural_similarity
from gatewise.measurements import Measurement
from gatewise.network import NetworkView
from gatewise.network.parts import UpToLayer, without_end
from gatewise.network.plain import plain_outputs
from gatewise.objectives import (
    CrossEntropy,
    Linear,
    ObjectiveFunction,
    Penalised,
    SquaredError,
    Sum,
    ToPixels,
    TotalVariation,
)
from gatewise.streams import RowStreams

OUTPUT = "output"
"""The layer that is the whole network."""
RANGES = {"none": (0.0, 1.0), "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0)}
"""Black and white of a generator's output, by what it ends in."""
# Starts and noise have seeds of their own: from the driver's streams a restart would draw its first start again.
_START, _NOISE = 2**40, 2**41


@dataclass(frozen=True, eq=False)
class Inversion:
    """What is to be found, on the network's device.

    `said` is what a summary tells of it; `start` (rows, …) in `domain`; `objective` of some rows, by their positions
    (n,) int64; `pictures` of points (rows, …) with the network's output there, as images; `judge` gives figures by
    name, (rows,) each, of the same; `index` (rows,) int64 the rows' names, on the CPU; `truth` and `measured` are
    pictures of what was looked at and of what was seen of it, or None.
    """

    said: dict[str, Any]
    network: NetworkView
    domain: Domain
    start: Tensor
    objective: Callable[[Tensor], ObjectiveFunction]
    pictures: Callable[[Tensor, Tensor], Tensor]
    judge: Callable[[Tensor, Tensor], dict[str, Tensor]]
    index: Tensor
    truth: Tensor | None = None
    measured: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What the three have in common.

    `l2` weighs the input's squared norm, `total_variation` that of an input image; the start is a random point of the
    set (standard normal latents, uniform noise) or its middle (0, grey).
    """

    l2: float = 0.0
    total_variation: float = 0.0
    start: Literal["random", "middle"] = "random"
    seed: int = 0
    batch: int = 100

    def begin(self, domain: Domain, index: Tensor, like: Tensor, middle: float) -> Tensor:
        """Starting points shaped as `like` (rows, …), each row's by its name alone."""
        if self.start == "random":
            return domain.sample(RowStreams(self.seed + _START, index.tolist()), like)
        return domain.project(torch.full_like(like, middle))

    def with_priors(self, mismatch: ObjectiveFunction, like: Tensor) -> ObjectiveFunction:
        """The objective of inputs shaped as `like` (rows, …)."""
        if self.total_variation:
            mismatch = Sum((mismatch, TotalVariation(self.total_variation)))
        return Penalised(mismatch, torch.zeros_like(like[0]), 2 * self.l2) if self.l2 else mismatch


def of_generator(
    module: nn.Module,
    images: Tensor,
    index: Tensor,
    shape: Sequence[int],
    setting: Setting,
    *,
    measurement: Measurement | None = None,
    noise: float = 0.0,
    latent_radius: float = 10.0,
    output_range: tuple[float, float] | None = None,
) -> Inversion:
    """Latents of the `shape` of one row whose output matches `images` (rows, …), pixels in [0, 1].

    A tanh or sigmoid at the generator's end is taken off and made part of the objective, so that the network ends in an
    affine map. `noise` is the deviation of normal draws that are added to what is measured.

    Raises:
        InvalidInput: a generator that takes no such latents or makes images of another size; a measurement that does
            not fit the images.
    """
    domain = Latents(latent_radius)
    start = setting.begin(domain, index, images.new_zeros(len(images), *shape), 0.0)
    whole = NetworkView(module)
    plain(whole, start[:1], 1)  # says what is wrong with the shape, if anything is
    with whole.borrowed():
        module, end = without_end(module, start[:2])
    network, every = NetworkView(module), torch.arange(len(images))
    low, high = RANGES[end] if output_range is None else output_range
    to_pixels = ToPixels(tuple(images.shape[1:]), end, low, high)
    measured = images if measurement is None else measurement(images)
    if noise:
        measured = measured + noise * RowStreams(setting.seed + _NOISE, index.tolist()).normal(measured)

    def mismatch(rows: Tensor) -> SquaredError:
        return SquaredError(measured[rows], measurement=measurement, output_map=to_pixels)

    def judge(points: Tensor, output: Tensor) -> dict[str, Tensor]:
        return _against(images, to_pixels(output)) | {"measured_error": mismatch(every)(points, output)}

    to_pixels(plain(network, start[:1], 1))  # says what is wrong with the images' size, if anything is
    return Inversion(
        {"task": "generator", "end": end, "output_range": [low, high]},
        network,
        domain,
        start,
        lambda rows: setting.with_priors(mismatch(rows), start),
        lambda points, output: to_pixels(output),
        judge,
        index,
        images,
        None if measurement is None else measurement.shown(measured, images.shape),
    )


def of_features(
    module: nn.Module,
    images: Tensor,
    index: Tensor,
    layer: str,
    setting: Setting,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> Inversion:
    """Images in a box whose features at a `layer`, by its name in the module (or `OUTPUT`), match those of `images`.

    The mismatch is the features' squared error over their mean square, row by row.

    Raises:
        InvalidInput: no such layer, images that the module cannot take, or features that are all 0.
    """
    network, domain = NetworkView(module if layer == OUTPUT else UpToLayer(module, layer)), Box(*bounds)
    features = plain(network, images, setting.batch)
    size, every = features.flatten(1).square().mean(1), torch.arange(len(images))
    if not bool((size > 0).all()):
        raise InvalidInput(f"At {layer} an image has no features but 0; name another --layer.")

    def mismatch(rows: Tensor) -> SquaredError:
        return SquaredError(features[rows], weight=1 / size[rows])

    return Inversion(
        {"task": "features", "layer": layer},
        network,
        domain,
        setting.begin(domain, index, images, sum(bounds) / 2),
        lambda rows: setting.with_priors(mismatch(rows), images),
        lambda points, output: points,
        lambda points, output: _against(images, points) | {"feature_error": mismatch(every)(points, output)},
        index,
        images,
    )


def of_class(
    module: nn.Module,
    label: int,
    count: int,
    shape: Sequence[int],
    setting: Setting,
    *,
    bounds: tuple[float, float] = (0.0, 1.0),
    score: Literal["logit", "ce"] = "logit",
    device: torch.device | None = None,
) -> Inversion:
    """`count` images of the `shape` of one row, in a box, that raise the logit of class `label`, or lower its
    cross-entropy.

    Raises:
        InvalidInput: a module that takes no such images or has no such class.
    """
    network, domain, index = NetworkView(module), Box(*bounds), torch.arange(count)
    start = setting.begin(domain, index, torch.zeros(count, *shape, device=device), sum(bounds) / 2)
    logits = plain(network, start[:1], 1)
    if logits.ndim != 2 or not 0 <= label < logits.shape[1]:
        raise InvalidInput(
            f"--class {label} needs a classifier with that class; the model returns {tuple(logits.shape)} for an image."
        )
    raised = -torch.nn.functional.one_hot(torch.tensor(label, device=device), logits.shape[1]).to(logits)

    def objective(rows: Tensor) -> ObjectiveFunction:
        labels = torch.full((len(rows),), label, device=device)
        return setting.with_priors(Linear(raised) if score == "logit" else CrossEntropy(labels), start)

    def judge(points: Tensor, output: Tensor) -> dict[str, Tensor]:
        return {"success": (output.argmax(1) == label).float(), "probability": output.softmax(1)[:, label]}

    said = {"task": "class", "class": label, "score": score}
    return Inversion(said, network, domain, start, objective, lambda points, output: points, judge, index)


def plain(network: NetworkView, points: Tensor, batch: int) -> Tensor:
    """`plain_outputs`, with what to look at on the command line where it fails."""
    return plain_outputs(network, points, batch, remedy="; see --input-shape and --data.")


def _against(truth: Tensor, pictures: Tensor) -> dict[str, Tensor]:
    figures = {"mse": mean_squared_error(pictures, truth), "psnr": peak_signal_to_noise(pictures, truth)}
    return figures | ({"ssim": structural_similarity(pictures, truth)} if truth.ndim == 4 else {})
