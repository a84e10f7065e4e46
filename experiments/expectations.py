"""Measured figures against the expected ones in `experiments/expected/NAME.toml`.

A file says when, on what machine and from which seeds its numbers come, then holds one table a mode:

    date = 2026-11-21
    hardware = "…"
    [figures]
    adr_gd_mean = { value = 52.3, tolerance = 0.02, kind = "relative" }  # |measured - value| <= tolerance |value|
    gap = { value = 0.001, kind = "at_most" }                            # measured <= value + tolerance
    gain = { value = 1.2, tolerance = 0.1, kind = "at_least" }           # measured >= value - tolerance
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path

EXPECTED = Path(__file__).with_name("expected")
KINDS = {
    "relative": lambda measured, value, tolerance: abs(measured - value) <= tolerance * abs(value),
    "at_most": lambda measured, value, tolerance: measured <= value + tolerance,
    "at_least": lambda measured, value, tolerance: measured >= value - tolerance,
}


def check(name: str, measured: Mapping[str, float], *, table: str = "figures", part: bool = False) -> list[str]:
    """One sentence for each expected figure that was missed; an empty list is a pass.

    Args:
        name: of the experiment, `experiments/expected/NAME.toml`.
        measured: figures by the keys of that file; others are ignored.
        table: which of its tables to hold them against, such as "figures" or "quick".
        part: a run of some of the figures: an expected figure that was not measured is no failure.
    """
    figures = tomllib.loads((EXPECTED / f"{name}.toml").read_text())[table]
    failures = []
    for key, figure in figures.items():
        value, tolerance, kind = figure["value"], figure.get("tolerance", 0.0), figure["kind"]
        if key not in measured:
            failures += [] if part else [f"{key}: expected {kind} {value:g}, not measured"]
        elif not KINDS[kind](measured[key], value, tolerance):
            failures.append(f"{key}: expected {kind} {value:g} (tolerance {tolerance:g}), measured {measured[key]:g}")
    return failures


def verdict(name: str, failures: Collection[str]) -> int:
    """Say on standard error whether the expectations were met; the exit code, 0 or 1."""
    for failure in failures:
        print(f"FAIL {name}: {failure}", file=sys.stderr)
    if not failures:
        print(f"PASS {name}: every expected figure was met.", file=sys.stderr)
    return int(bool(failures))
