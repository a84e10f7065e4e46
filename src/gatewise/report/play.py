"""Pictures of play: a strip of frames, and a moving picture of several scenes side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gatewise.errors import InvalidInput

_SHOWN = 8  # frames of the strip
_HEIGHT = 160  # of a frame in the strip, and at most in the moving picture twice that
_BAR = 16  # pixels above a frame for its words


@dataclass(frozen=True, eq=False)
class Scene:
    """An episode as it was seen: `frames`, each (height, width, 3) uint8, and the `returns` until then."""

    title: str
    frames: Sequence[np.ndarray]
    returns: Sequence[float]


def require_pillow() -> None:
    """Raise InvalidInput where no pictures can be written: to be asked before long work."""
    import importlib.util

    if importlib.util.find_spec("PIL") is None:
        raise InvalidInput('Pictures of play need Pillow: pip install "gatewise[images]".')


def draw_strip(path: str | Path, scenes: Sequence[Scene]) -> None:
    """A line of frames for each scene, the same steps in each, as a PNG; a scene that is over keeps its last frame."""
    from PIL import Image

    last = max(len(scene.frames) for scene in scenes) - 1
    steps = sorted({round(last * i / (_SHOWN - 1)) for i in range(_SHOWN)})
    rows = [[_titled(scene, step, _HEIGHT) for step in steps] for scene in scenes]
    width, height = rows[0][0].size
    strip = Image.new("RGB", (width * len(steps), height * len(rows)), "white")
    for row, pictures in enumerate(rows):
        for column, picture in enumerate(pictures):
            strip.paste(picture, (column * width, row * height))
    strip.save(path)


def write_gif(
    path: str | Path,
    scenes: Sequence[Scene],
    *,
    seconds_per_frame: float = 0.05,
    height: int = 2 * _HEIGHT,
    every: int = 1,
) -> None:
    """The scenes beside each other, `height` pixels high, as a GIF that runs for ever; of the frames `every`-th one."""
    from PIL import Image

    pictures = []
    for step in range(0, max(len(scene.frames) for scene in scenes), every):
        parts = [_titled(scene, step, height) for scene in scenes]
        together = Image.new("RGB", (sum(part.width for part in parts), parts[0].height), "white")
        left = 0
        for part in parts:
            together.paste(part, (left, 0))
            left += part.width
        pictures.append(together.quantize(64))
    first, *rest = pictures
    first.save(path, save_all=True, append_images=rest, duration=round(1000 * seconds_per_frame), loop=0)


def _titled(scene: Scene, step: int, height: int):
    """A frame with its scene's title, the step and the return until then above it."""
    from PIL import Image, ImageDraw

    step = min(step, len(scene.frames) - 1)
    frame = Image.fromarray(scene.frames[step])
    frame = frame.resize((max(1, round(frame.width * height / frame.height)), height))
    picture = Image.new("RGB", (frame.width, height + _BAR), "white")
    picture.paste(frame, (0, _BAR))
    earned = scene.returns[step - 1] if step else 0.0
    ImageDraw.Draw(picture).text((2, 2), f"{scene.title}  step {step}  return {earned:.4g}", fill="black")
    return picture
