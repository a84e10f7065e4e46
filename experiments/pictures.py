"""What the scripts that draw the pictures of the docs share: figures, flags, and drawing those asked for."""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

Pictures = Mapping[str, Callable[[Path], dict[str, Any]]]
"""By name, what draws a picture into a file and tells its figures."""


def figure(wide: float, tall: float) -> Figure:
    """Of so many inches, its panels laid out by themselves."""
    made = Figure(figsize=(wide, tall), layout="constrained")
    FigureCanvasAgg(made)
    return made


def save(made: Figure, path: Path) -> None:
    """In 256 colours: a third of the size, and as good to look at."""
    whole = io.BytesIO()
    made.savefig(whole, format="png", dpi=110)
    few = Image.open(whole).convert("RGB").quantize(256, Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    few.save(path, optimize=True)


def flags(description: str, quick: str, out: str) -> argparse.Namespace:
    """What the command line says: `--quick` (which is `quick`), `--only` and `--out`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help=f"{quick}, for CI")
    parser.add_argument("--only", action="append", help="a picture by name; repeatable")
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser.parse_args()


def draw_all(pictures: Pictures, given: argparse.Namespace) -> None:
    """Draw them with one thread, and print what they tell as one JSON object."""
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    found = {
        name: draw(given.out / f"{name}.png") for name, draw in pictures.items() if name in (given.only or pictures)
    }
    print(json.dumps(found | {"seconds": round(time.perf_counter() - began, 1)}))
