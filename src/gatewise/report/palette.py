"""The colours of pictures: the same thing has the same colour in all of them."""

from __future__ import annotations

from collections.abc import Iterable

METHODS = ("#c8374e", "#00738a", "#7a4ea3", "#d9860a", "#2b2d42", "#3a8f57", "#b0578d", "#6b705c")
"""Of methods, in order; told apart by colour-blind people, too (after Okabe & Ito)."""
SURFACE = ("#31556f", "#6d93a8", "#a9c2cb", "#dde5e2", "#f7f3e8", "#f3ddbb", "#e6ba86")
"""Of a surface, from low to high: light enough for lines on it."""
GATES = ("#22313f", "#5f7a8c", "#9a8f7d", "#8f9fa6", "#b5a58f", "#7d8a90")
"""Of the zero lines of a network's gates, from the first on."""
EDGE = "#1c1c1c"
"""Of the edge of a ball."""
LEVEL = "#0b0b0b"
"""Of a contour."""
ARROWS = "#3f4a52"
"""Of gradients."""


_OWN = ("gd", "adam", "pgd", "adr-gd", "gate-annealing", "apgd")  # methods with a colour of their own, in that order


def by_name(names: Iterable[str]) -> dict[str, str]:
    """A colour for each method, `NAME` or `NAME:settings`: its own where that is free, else the next that is."""
    names = list(names)
    free = list(METHODS) * (1 + len(names) // len(METHODS))
    found: dict[str, str] = {}
    for name in names:
        kind = name.partition(":")[0]
        own = METHODS[_OWN.index(kind)] if kind in _OWN else None
        if own in free and own not in found.values():
            found[name] = own
            free.remove(own)
    for name in names:
        if name not in found:
            found[name] = free.pop(0)
    return {name: found[name] for name in names}
