"""Images and labels by the names that the command line takes."""

from __future__ import annotations

import difflib
import functools
import gzip
import io
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from gatewise.errors import InvalidInput
from gatewise.readers.image_folder import LABELS_FILE, read_folder
from gatewise.readers.paths import require_file
from gatewise.readers.table import read_table

DATA_FOLDER = "GATEWISE_DATA"
"""The environment variable that names the folder of `mnist:`, `cifar10:` and `gtsrb:`."""


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images.

    `images` (N, …) float32 on the CPU, channels first, pixels in [0, 1] where the source holds bytes, else as stored
    (nothing is clipped); `labels` (N,) int64; `index` (N,) int64, the position of each row in its source, counted
    from 0.
    """

    images: Tensor
    labels: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def pixel_range(self) -> tuple[float, float]:
        """The smallest and the largest pixel."""
        return self.images.min().item(), self.images.max().item()


@dataclass(frozen=True)
class _Source:
    """Labels (N,) and a function from row numbers (n,) to pixels (n, …): bytes, or floats as stored."""

    labels: np.ndarray
    pixels: Callable[[np.ndarray], np.ndarray]


def read_images(name: str, count: int | None = None, indices: str | Sequence[int] | None = None) -> Images:
    """The images that `name` means, or some of them.

    Args:
        name: `digits` (scikit-learn's 8 x 8 digits); `mnist:test`, `mnist:train`, `cifar10:test`, `cifar10:train`,
            `gtsrb:test` or `gtsrb:train` from the folder that GATEWISE_DATA names; a `.npz` file with `images` (N, …)
            and `labels` (N,); or a folder of image files with a `labels.csv`. In a `.npz`, bytes are divided by 255 and
            floats are taken as they are (in float32), (N, H, W) becomes (N, 1, H, W), and (N, H, W, C) becomes
            (N, C, H, W) where C is 1 or 3 and H is not.
        count: at most so many rows, from the first on, after `indices`. None: all.
        indices: `FILE.csv` or `FILE.csv:CLASS`: the rows at the positions in the file's first column, in its order;
            with CLASS only those whose column `class` equals it. Or the positions themselves.

    Raises:
        InvalidInput: an unknown name (the sentence has the nearest one), a file that is missing, broken or holds
            something else, NaN or infinite pixels, negative labels, positions out of range, or nothing left to read.
    """
    source = _source(name)
    rows = _rows(name, len(source.labels), count, indices)
    labels = source.labels[rows]
    if labels.min() < 0:
        raise InvalidInput(f"{name} has the label {labels.min()}; labels are classes counted from 0.")
    pixels = source.pixels(rows)
    with np.errstate(over="ignore"):  # a float64 too large for float32 becomes an infinity, reported below
        images = np.ascontiguousarray(pixels, dtype=np.float32)
    if pixels.dtype == np.uint8:
        images /= 255
    finite = np.isfinite(images).reshape(len(images), -1).all(1)
    if not finite.all():
        raise InvalidInput(
            f"{name} has a NaN or an infinity (or more than float32 can hold) in the image at position "
            f"{rows[np.argmin(finite)]}; mend it or leave it out."
        )
    return Images(torch.from_numpy(images), torch.from_numpy(labels), torch.from_numpy(rows))


def _source(name: str) -> _Source:
    if name in _NAMED:
        return _NAMED[name]()
    if name.endswith(".npz"):
        path = require_file(name, "data file")
        with path.open("rb") as stream:
            return _npz(stream, path)
    if Path(name).is_dir():
        return _Source(*read_folder(Path(name)))
    nearest = difflib.get_close_matches(name, _NAMED, n=1, cutoff=0.0)[0]
    raise InvalidInput(
        f"There is no data set, .npz file or folder {name!r}; did you mean {nearest!r} (you can name "
        f"{', '.join(_NAMED)}, a .npz file, or a folder of images with a {LABELS_FILE})?"
    )


def _rows(name: str, total: int, count: int | None, indices: str | Sequence[int] | None) -> np.ndarray:
    """The row numbers (n,) int64 that are asked for, n > 0."""
    if count is not None and count < 1:
        raise InvalidInput(f"The count of images must be at least 1, got {count}.")
    if indices is None:
        rows = np.arange(total, dtype=np.int64)
    else:
        rows = _positions(indices) if isinstance(indices, str) else np.array(indices, dtype=np.int64)
    outside = rows[(rows < 0) | (rows >= total)]
    if len(outside):
        who = f"{indices} names" if isinstance(indices, str) else "The rows asked for name"
        raise InvalidInput(f"{who} position {outside[0]}, but {name} has positions 0 to {total - 1}.")
    if not len(rows):
        raise InvalidInput(f"{name} holds no images.")
    return rows[:count]


def _positions(indices: str) -> np.ndarray:
    path, chosen = indices, None
    if not Path(indices).is_file() and ":" in indices:
        path, _, chosen = indices.rpartition(":")
    table = read_table(path, "index file", integers_in=0)
    positions = np.array(table.integers(0), dtype=np.int64)
    if chosen is None:
        return positions
    if table.header is None or "class" not in table.header:
        raise InvalidInput(
            f"The index file {path} has no column named class to choose {chosen!r} by; add it, or leave out {chosen!r}."
        )
    classes = table.column(table.header.index("class"))
    wanted = np.array([entry == chosen for entry in classes])
    if not wanted.any():
        raise InvalidInput(
            f"The index file {path} has no row of class {chosen!r}; it has {', '.join(sorted(set(classes)))}."
        )
    return positions[wanted]


def _digits() -> _Source:
    try:
        from sklearn.datasets import load_digits
    except ImportError as problem:
        raise InvalidInput('The digits need scikit-learn; install it: pip install "gatewise[digits]".') from problem
    flat, labels = load_digits(return_X_y=True)
    images = flat.reshape(-1, 1, 8, 8) / 16  # 17 shades of grey
    return _Source(labels.astype(np.int64), lambda rows: images[rows])


def _mnist(part: str) -> _Source:
    images = _idx(_data_file(f"mnist/{part}-images-idx3-ubyte.gz"), axes=3)
    labels = _idx(_data_file(f"mnist/{part}-labels-idx1-ubyte.gz"), axes=1)
    if len(images) != len(labels):
        raise InvalidInput(f"MNIST has {len(images)} images but {len(labels)} labels; fetch its files again.")
    return _Source(labels.astype(np.int64), lambda rows: images[rows][:, None])


def _idx(path: Path, axes: int) -> np.ndarray:
    """The array of bytes in an idx file: a big-endian header (magic number, lengths), then the values."""
    try:
        with gzip.open(path) as stream:
            content = stream.read()
        magic, *lengths = struct.unpack_from(f">{axes + 1}i", content)
        values = np.frombuffer(content, np.uint8, offset=4 * (axes + 1)).reshape(lengths)
    except (OSError, EOFError, zlib.error, struct.error, ValueError) as problem:
        raise InvalidInput(f"The data file {path} is truncated or broken ({problem}); fetch it again.") from problem
    if magic != 0x800 + axes:
        raise InvalidInput(f"The data file {path} is not an idx file of bytes with {axes} axes; fetch it again.")
    return values


def _npz_xz(file: str) -> _Source:
    path = _data_file(file)
    try:
        with lzma.open(path) as stream:
            content = stream.read()
    except (OSError, EOFError, lzma.LZMAError) as problem:
        raise InvalidInput(f"The data file {path} is truncated or broken ({problem}); fetch it again.") from problem
    return _npz(io.BytesIO(content), path)


def _npz(stream: BinaryIO, path: Path) -> _Source:
    try:
        if not zipfile.is_zipfile(stream):
            raise InvalidInput(f"The data file {path} is truncated or not a .npz file; write it with numpy.savez.")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as arrays:
            if absent := [key for key in ("images", "labels") if key not in arrays]:
                raise InvalidInput(
                    f"The data file {path} has no {absent[0]!r} (it has {', '.join(arrays) or 'nothing'}); "
                    "write it with numpy.savez(file, images=…, labels=…)."
                )
            images, labels = arrays["images"], arrays["labels"]
    except InvalidInput:
        raise
    except Exception as problem:  # ValueError, BadZipFile, zlib.error, RuntimeError: whatever the parsers raise
        if "allow_pickle" in str(problem):
            raise InvalidInput(
                f"The data file {path} holds Python objects, which are not read because they could run code; "
                "store images and labels as arrays of numbers."
            ) from problem
        raise InvalidInput(f"The data file {path} is truncated or broken ({problem}); write it again.") from problem
    pixels = images.dtype == np.uint8 or np.issubdtype(images.dtype, np.floating)
    if not pixels or images.ndim < 2 or 0 in images.shape[1:]:
        raise InvalidInput(
            f"The images of {path} must be (N, …) of uint8 or floating-point numbers, got {images.dtype} of shape "
            f"{images.shape}."
        )
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
        raise InvalidInput(
            f"The labels of {path} must be (N,) whole numbers, got {labels.dtype} of shape {labels.shape}."
        )
    if len(images) != len(labels):
        raise InvalidInput(f"{path} has {len(images)} images but {len(labels)} labels; give one label for each image.")
    if images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        images = np.moveaxis(images, 3, 1)
    elif images.ndim == 3 and min(images.shape[1:]) > 1:
        images = images[:, None]
    return _Source(labels.astype(np.int64), lambda rows: images[rows])


def _data_file(file: str) -> Path:
    folder = os.environ.get(DATA_FOLDER)
    if not folder:
        raise InvalidInput(
            f"Reading {file} needs {DATA_FOLDER}: set it to the folder that holds mnist/, cifar10/ and gtsrb/."
        )
    path = Path(folder) / file
    if not path.is_file():
        raise InvalidInput(f"The folder {folder} has no {file}; set {DATA_FOLDER} to the folder that does.")
    return path


_NAMED: dict[str, Callable[[], _Source]] = {
    "digits": _digits,
    "mnist:test": functools.partial(_mnist, "t10k"),
    "mnist:train": functools.partial(_mnist, "train"),
    "cifar10:test": functools.partial(_npz_xz, "cifar10/cifar10_test_2k.npz.xz"),
    "cifar10:train": functools.partial(_npz_xz, "cifar10/cifar10_train_10k.npz.xz"),
    "gtsrb:test": functools.partial(_npz_xz, "gtsrb/gtsrb32_test_1075.npz.xz"),
    "gtsrb:train": functools.partial(_npz_xz, "gtsrb/gtsrb32_train_4300.npz.xz"),
}
