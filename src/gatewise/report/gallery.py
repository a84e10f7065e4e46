"""The gallery of an attack or an inversion: original, each method's image and how it differs, with a caption each.

Laid out after Figure 6 of Yu & Gao (ICML 2024).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gatewise.errors import InvalidInput


@dataclass(frozen=True, eq=False)
class Column:
    """One column of pictures: `images` (rows, …), a caption under each, and which to mark (a changed class)."""

    title: str
    images: Tensor
    captions: Sequence[str]
    marked: Sequence[bool]


def require_matplotlib() -> None:
    """Raise InvalidInput where the gallery cannot be drawn: to be asked before long work."""
    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidInput('The gallery needs matplotlib: pip install "gatewise[images]".')


def draw_gallery(path: Path, clean: Column, *found: Column, between: Sequence[Column] = ()) -> None:
    """Write a picture with one line for each row: clean, then each method's image and its difference from the clean
    one.

    Args:
        path: PNG file to write.
        clean: the clean images.
        found: the methods' images, shaped as the clean ones. (rows, 1 or 3, height, width) are drawn as pictures,
            anything else as a strip of numbers.
        between: columns after the clean one that stand without a difference.

    Raises:
        InvalidInput: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows, columns = len(clean.images), 1 + len(between) + 2 * len(found)
    figure = Figure(figsize=(1.6 * columns, 1.75 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    changes = [_change(column.images - clean.images) for column in found]
    low, high = min(0.0, clean.images.min().item()), max(1.0, clean.images.max().item())
    for row, line in enumerate(grid):
        pictures = [(one.title, one.images[row], one.captions[row], one.marked[row]) for one in (clean, *between)]
        for column, change in zip(found, changes, strict=True):
            pictures.append((column.title, column.images[row], column.captions[row], column.marked[row]))
            pictures.append(("difference", change[row], "", False))
        for axes, (title, image, caption, marked) in zip(line, pictures, strict=True):
            picture = _picture(image if title == "difference" else (image - low) / (high - low)).clamp(0, 1)
            shade = "RdBu_r" if title == "difference" and picture.ndim == 2 else "gray"
            axes.imshow(picture.numpy(), cmap=shade, vmin=0, vmax=1)
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_xlabel(caption, fontsize=6, color="firebrick" if marked else "black")
            if row == 0:
                axes.set_title(title, fontsize=7)
    figure.savefig(path, dpi=130)


def _change(difference: Tensor) -> Tensor:
    """Differences scaled so that the row's largest fills the scale; unchanged is the middle."""
    largest = difference.flatten(1).abs().amax(1).clamp_min(torch.finfo(difference.dtype).tiny)
    return 0.5 + 0.5 * difference / largest.view(-1, *[1] * (difference.ndim - 1))


def _picture(image: Tensor) -> Tensor:
    """(height, width) or (height, width, 3)."""
    if image.ndim == 3 and image.shape[0] == 3:
        return image.permute(1, 2, 0)
    if image.ndim == 3 and image.shape[0] == 1:
        return image[0]
    return image.reshape(1, -1)
