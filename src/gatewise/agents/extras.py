"""The packages that agents need and gatewise itself does not: `pip install gatewise[rl]`."""

from __future__ import annotations

import importlib
from types import ModuleType

from gatewise.errors import InvalidInput


def stable_baselines() -> ModuleType:
    """The package `stable_baselines3`; raises InvalidInput where it is not installed."""
    return _package("stable_baselines3", "Stable-Baselines3")


def gymnasium() -> ModuleType:
    """The package `gymnasium`; raises InvalidInput where it is not installed."""
    return _package("gymnasium", "Gymnasium")


def _package(name: str, title: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as missing:
        raise InvalidInput(f"{title} is not installed; install gatewise[rl].") from missing
