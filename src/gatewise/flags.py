"""What a field of a `Config` tells the command line: its help, how its text is read, what it may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from fractions import Fraction
from typing import Any

from gatewise.errors import InvalidInput


def required(help: str, **more: Any) -> Any:
    """A field without a default; see `flag`."""
    return field(metadata={"help": help} | more)


def flag(help: str, default: Any = None, **more: Any) -> Any:
    """A field with a default and, for the command line, `help` and any of `parse` (from text to value; raises
    ValueError), `choices`, `repeat` (the flag may be given several times). A default of False makes a switch.
    """
    return field(default=default, metadata={"help": help} | more)


def fraction(text: str) -> float:
    """A number or a quotient of two: 0.2, 8/255."""
    return float(Fraction(text)) if "/" in text else float(text)


def interval(text: str) -> tuple[float, float] | None:
    """LO,HI, or none."""
    if text == "none":
        return None
    low, high = (float(entry) for entry in text.split(","))
    return low, high


def numbers(text: str) -> tuple[float, ...]:
    """Numbers with commas between them."""
    return tuple(float(entry) for entry in text.split(","))


def check_positive(config: object, *names: str) -> None:
    """Raise InvalidInput for the first of these fields that is not positive; None passes."""
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise InvalidInput(f"--{name.replace('_', '-')} must be positive, got {value}.")


def check_seed(seed: int) -> None:
    """Raise InvalidInput unless --seed is at least 0."""
    if seed < 0:
        raise InvalidInput(f"--seed must be at least 0, got {seed}.")


def check_methods(methods: Sequence[str]) -> None:
    """Raise InvalidInput where --method is given twice with the same text."""
    if len(set(methods)) < len(methods):
        raise InvalidInput("A method is named twice; give each --method once, or with different settings.")


def check_bounds(bounds: tuple[float, float] | None) -> None:
    """Raise InvalidInput unless the pixel bounds are LO,HI with LO below HI, or None."""
    if bounds is not None and not bounds[0] < bounds[1]:
        raise InvalidInput(f"--bounds must be LO,HI with LO below HI, got {bounds[0]:g},{bounds[1]:g}.")


def check_deviations(std: Sequence[float] | None) -> None:
    """Raise InvalidInput unless every entry of --std is positive."""
    if std is not None and not min(std) > 0:
        raise InvalidInput("Every entry of --std must be positive.")
