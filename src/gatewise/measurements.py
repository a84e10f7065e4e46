"""What is seen of an image: linear maps of images, each row by itself, for reconstruction from less than the whole."""

from __future__ import annotations

import abc
import dataclasses
import difflib
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gatewise.errors import InvalidInput


class Measurement(abc.ABC):
    """A linear map of images (batch, channels, height, width), the same for all rows, in their dtype and device."""

    @abc.abstractmethod
    def __call__(self, images: Tensor) -> Tensor:
        """What is measured, (batch, …); raises InvalidInput for images that it does not fit."""

    @abc.abstractmethod
    def shown(self, measured: Tensor, shape: torch.Size) -> Tensor:
        """What was `measured` (batch, …) as pictures of images of `shape`, to look at."""


@dataclass(frozen=True)
class CentreMask(Measurement):
    """All pixels but a centred square of `side` pixels: inpainting. (batch, entries seen)."""

    side: int

    def __post_init__(self):
        _check_whole(self.side, "mask:box")

    def __call__(self, images: Tensor) -> Tensor:
        """The pixels around the square."""
        return images.flatten(1)[:, self._seen(images.shape).to(images.device)]

    def shown(self, measured: Tensor, shape: torch.Size) -> Tensor:
        """Grey where nothing is seen."""
        return _put_back(measured, self._seen(shape), shape)

    def _seen(self, shape: torch.Size) -> Tensor:
        height, width = shape[-2:]
        if self.side >= min(height, width):
            raise InvalidInput(
                f"mask:box={self.side} hides images of {height} x {width} pixels; give a smaller square."
            )
        seen, top, left = torch.ones(shape[1:], dtype=torch.bool), (height - self.side) // 2, (width - self.side) // 2
        seen[:, top : top + self.side, left : left + self.side] = False
        return seen.flatten()


@dataclass(frozen=True)
class PixelMask(Measurement):
    """A random share `keep` of the pixels, all channels of them: (batch, entries seen)."""

    keep: float
    seed: int = 0

    def __post_init__(self):
        if not 0 < self.keep <= 1:
            raise InvalidInput(f"mask:keep must be above 0 and at most 1, got {self.keep:g}.")

    def __call__(self, images: Tensor) -> Tensor:
        """The pixels that are kept."""
        return images.flatten(1)[:, self._seen(images.shape).to(images.device)]

    def shown(self, measured: Tensor, shape: torch.Size) -> Tensor:
        """Grey where nothing is seen."""
        return _put_back(measured, self._seen(shape), shape)

    def _seen(self, shape: torch.Size) -> Tensor:
        order = torch.randperm(shape[-2:].numel(), generator=torch.Generator().manual_seed(self.seed))
        kept = order < max(1, round(self.keep * len(order)))
        return kept.expand(math.prod(shape[1:-2]), -1).flatten()


@dataclass(frozen=True)
class Blur(Measurement):
    """Each channel blurred by a Gaussian of deviation `sigma` in pixels, cut off at four; edges go on outward."""

    sigma: float

    def __post_init__(self):
        if not 0 < self.sigma < math.inf:
            raise InvalidInput(f"blur:sigma must be a positive number of pixels, got {self.sigma:g}.")

    def __call__(self, images: Tensor) -> Tensor:
        """Shaped as the images."""
        reach = math.ceil(4 * self.sigma)
        at = torch.arange(-reach, reach + 1, dtype=images.dtype, device=images.device)
        weights = torch.exp(-0.5 * (at / self.sigma) ** 2)
        weights = weights / weights.sum()
        flat = images.reshape(-1, 1, *images.shape[-2:])
        flat = F.conv2d(F.pad(flat, (reach, reach, 0, 0), mode="replicate"), weights.view(1, 1, 1, -1))
        flat = F.conv2d(F.pad(flat, (0, 0, reach, reach), mode="replicate"), weights.view(1, 1, -1, 1))
        return flat.reshape(images.shape)

    def shown(self, measured: Tensor, shape: torch.Size) -> Tensor:
        """As it is."""
        return measured


@dataclass(frozen=True)
class Downsampling(Measurement):
    """The mean over squares of `factor` x `factor` pixels: super-resolution. (batch, channels, height/f, width/f)."""

    factor: int

    def __post_init__(self):
        _check_whole(self.factor, "downsample:factor")

    def __call__(self, images: Tensor) -> Tensor:
        """The small images."""
        if any(length % self.factor for length in images.shape[-2:]):
            raise InvalidInput(
                f"downsample:factor={self.factor} does not divide images of {images.shape[-2]} x {images.shape[-1]} "
                "pixels; give a factor that does."
            )
        return F.avg_pool2d(images, self.factor)

    def shown(self, measured: Tensor, shape: torch.Size) -> Tensor:
        """Each square of one shade."""
        return measured.repeat_interleave(self.factor, -1).repeat_interleave(self.factor, -2)


@dataclass(frozen=True)
class RandomProjection(Measurement):
    """`count` products with normal draws of variance 1 / `count`: compressed sensing as in Bora et al. (2017)."""

    count: int
    seed: int = 0

    def __post_init__(self):
        _check_whole(self.count, "projection:count")

    def __call__(self, images: Tensor) -> Tensor:
        """(batch, count)."""
        return images.flatten(1) @ _normal_matrix(self.seed, self.count, images[0].numel()).to(images).T

    def shown(self, measured: Tensor, shape: torch.Size) -> Tensor:
        """The products spread back by the transposed matrix, cut to [0, 1]."""
        matrix = _normal_matrix(self.seed, self.count, math.prod(shape[1:])).to(measured)
        return (measured @ matrix).clamp(0, 1).reshape(len(measured), *shape[1:])


KINDS: dict[tuple[str, str], Callable[..., Measurement]] = {
    ("mask", "box"): CentreMask,
    ("mask", "keep"): PixelMask,
    ("blur", "sigma"): Blur,
    ("downsample", "factor"): Downsampling,
    ("projection", "count"): RandomProjection,
}
"""By the name and the setting that the command line knows them by."""


def measurement_named(text: str, seed: int = 0) -> Measurement | None:
    """The measurement that `none`, `mask:box=14`, `mask:keep=0.3`, `blur:sigma=2`, `downsample:factor=4` or
    `projection:count=100` describes; `seed` is that of the random ones.

    Raises:
        InvalidInput: another text, with the nearest one, or a value that cannot be.
    """
    if text == "none":
        return None
    (name, _, said) = text.partition(":")
    key, _, value = said.partition("=")
    known = [f"{kind}:{setting}=…" for kind, setting in KINDS]
    if (name, key) not in KINDS:
        near = difflib.get_close_matches(text, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}" if near else "there are"
        raise InvalidInput(
            f"There is no measurement {text!r}; {hint} (none, {', '.join(known)})?".replace("are (", "(")
        )
    kind = KINDS[name, key]
    first, *more = dataclasses.fields(kind)  # type: ignore[arg-type]
    try:
        number = int(value) if first.type == "int" else float(value)
    except ValueError:
        wanted = "a whole number" if first.type == "int" else "a number"
        raise InvalidInput(f"{name}:{key} takes {wanted}, got {value!r}.") from None
    return kind(number, seed) if more else kind(number)


@functools.lru_cache(maxsize=4)
def _normal_matrix(seed: int, count: int, entries: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(count, entries, generator=draw, dtype=torch.float64) / math.sqrt(count)


def _put_back(measured: Tensor, seen: Tensor, shape: torch.Size) -> Tensor:
    pictures = measured.new_full((len(measured), len(seen)), 0.5)
    pictures[:, seen] = measured
    return pictures.reshape(len(measured), *shape[1:])


def _check_whole(value: int, name: str) -> None:
    if not (isinstance(value, int) and value >= 1):
        raise InvalidInput(f"{name} must be a whole number of at least 1, got {value}.")
