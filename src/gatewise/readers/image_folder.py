"""Images from a folder of picture files with a table of labels."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gatewise.errors import InvalidInput
from gatewise.readers.paths import require_file
from gatewise.readers.table import read_table

LABELS_FILE = "labels.csv"


def read_folder(folder: Path) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """The labels of a folder's images, and a function that reads the images of some rows.

    `labels.csv` lists them, one line each, in the order of the rows: file (relative to the folder), label (whole
    number); with or without a header. Files are anything that Pillow opens with 8 bits a channel: grey ones give one
    channel, all others RGB.

    Returns:
        labels (N,) int64, and a function from row numbers (n,) to images (n, C, H, W) uint8.

    Raises:
        InvalidInput: Pillow is not installed, no `labels.csv`, a line that is not a file and a label; the function: a
            missing or broken image, see-through pixels, or images of different sizes.
    """
    _pillow()
    if not (folder / LABELS_FILE).is_file():
        raise InvalidInput(
            f"The folder {folder} has no {LABELS_FILE}; write one, with a line FILE,LABEL for each image."
        )
    table = read_table(folder / LABELS_FILE, "labels file", integers_in=1)
    files, labels = table.column(0), np.array(table.integers(1), dtype=np.int64)

    def read(rows: np.ndarray) -> np.ndarray:
        images: list[np.ndarray] = []
        for row in rows:
            image = _read_image(require_file(folder / files[row], "image"))
            if images and image.shape != images[0].shape:
                raise InvalidInput(
                    f"The images of {folder} differ in shape: {files[rows[0]]} is {images[0].shape}, {files[row]} is "
                    f"{image.shape} (channels, height, width); make them equal."
                )
            images.append(image)
        return np.stack(images)

    return labels, read


def _pillow() -> Any:
    try:
        import PIL.Image
    except ImportError as problem:
        raise InvalidInput('Reading image files needs Pillow; install it: pip install "gatewise[images]".') from problem
    return PIL.Image


def _read_image(path: Path) -> np.ndarray:
    """One image (C, H, W) uint8, C = 1 or 3."""
    try:
        with _pillow().open(path) as image:
            image.load()
    except Exception as problem:  # OSError for most, SyntaxError for some broken PNGs, DecompressionBombError
        raise InvalidInput(f"The image {path} is truncated or not an image ({problem}); replace it.") from problem
    if image.mode.startswith(("I", "F")):
        raise InvalidInput(f"The image {path} has more than 8 bits a channel (mode {image.mode}); save it with 8.")
    if image.has_transparency_data:
        # Dropping transparency shows whatever colour lies under it, unless nothing is see-through.
        image = image.convert("RGBA")
        if np.asarray(image)[..., 3].min() < 255:
            raise InvalidInput(f"The image {path} has see-through pixels; save it without transparency.")
    grey = image.mode in ("1", "L")
    pixels = np.asarray(image.convert("L" if grey else "RGB"))
    return pixels[None] if grey else np.moveaxis(pixels, -1, 0)
