"""Gymnasium environments by name, several in step, and episodes that are the same for everyone who plays them."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from gatewise.agents.extras import gymnasium
from gatewise.agents.procgen import PREFIX, make_game
from gatewise.errors import InvalidInput

_OPENGL = "MUJOCO_GL"
Actor = Callable[[np.ndarray, list[int]], Any]
"""Called with observations (batch, …) and the numbers of the episodes that they are of; gives actions, a row each."""


def make_environment(name: str, *, render: bool = False, **options: Any) -> Any:
    """A Gymnasium environment by its registered name, or `procgen:GAME` (`gatewise.agents.procgen`); with `render`, one
    whose `render()` gives RGB frames.

    Raises:
        InvalidInput: there is none of that name, or a package that it needs is missing.
    """
    gym = gymnasium()
    if render:
        options["render_mode"] = "rgb_array"
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into memory, without a display
    if name.startswith(PREFIX):
        return make_game(name, **options)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # newer versions, deprecated bindings of the simulators
            return gym.make(name, **options)
    except gym.error.Error as problem:
        raise InvalidInput(f"The environment {name} cannot be made: {_sentence(problem)}.") from problem
    except (ImportError, TypeError, ValueError, AttributeError) as problem:
        raise InvalidInput(f"The environment {name} cannot be made: {_sentence(problem)}.") from problem


def require_continuous(environment: Any, name: str) -> None:
    """Raise InvalidInput unless the environment takes actions from a box with finite bounds."""
    space = environment.action_space
    if not isinstance(space, gymnasium().spaces.Box):
        raise InvalidInput(
            f"{name} takes actions from {type(space).__name__}; refinement needs continuous ones, as in Pendulum-v1."
        )
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise InvalidInput(f"{name} has actions without finite bounds; wrap it in gymnasium.wrappers.ClipAction.")


def play(
    name: str,
    act: Actor,
    episodes: int,
    seed: int,
    *,
    at_once: int = 1,
    watch: Callable[[int, Any], object] | None = None,
    most: int | None = None,
    **options: Any,
) -> list[list[float]]:
    """The rewards of some episodes, step by step.

    Episode i begins with `reset(seed=seed + i)`, whoever acts: episodes of two policies are paired.

    Args:
        name: of the environment.
        act: called with observations (batch, …) and the numbers of the episodes that they are of; gives actions.
        episodes: how many.
        seed: of the first.
        at_once: environments in step, so that `act` sees so many observations together.
        watch: called before every step with the number of the episode and its environment.
        most: steps after which an episode is left.
        options: for `make_environment`.
    """
    rewards: list[list[float]] = [[] for _ in range(episodes)]
    waiting = iter(range(episodes))
    playing: dict[int, tuple[Any, np.ndarray]] = {}
    free = [make_environment(name, **options) for _ in range(min(at_once, episodes))]
    try:
        while True:
            while free and (episode := next(waiting, None)) is not None:
                environment = free.pop()
                playing[episode] = environment, environment.reset(seed=seed + episode)[0]
            if not playing:
                return rewards
            actions = act(np.stack([observation for _, observation in playing.values()]), list(playing))
            for (episode, (environment, _)), action in zip(list(playing.items()), actions, strict=True):
                if watch is not None:
                    watch(episode, environment)
                observation, reward, terminated, truncated, _ = environment.step(action)
                rewards[episode].append(float(reward))
                playing[episode] = environment, observation
                if terminated or truncated or len(rewards[episode]) == most:
                    free.append(playing.pop(episode)[0])
    finally:
        for environment in [*free, *(environment for environment, _ in playing.values())]:
            environment.close()


def require_drawing(name: str) -> None:
    """Raise InvalidInput, with the remedy, where frames of the environment cannot be drawn on this machine."""
    environment = make_environment(name, render=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the drawing library's own words on a missing display
            environment.reset(seed=0)
            frame = environment.render()
    except Exception as problem:  # whatever a missing display or driver makes the drawing library raise
        remedy = f"; set {_OPENGL}=egl or {_OPENGL}=osmesa" if _OPENGL not in os.environ else ""
        raise InvalidInput(f"{name} cannot be drawn here ({_sentence(problem)}){remedy}.") from problem
    finally:
        with contextlib.suppress(Exception):
            environment.close()
    if not (isinstance(frame, np.ndarray) and frame.ndim == 3):
        raise InvalidInput(f"{name} draws no RGB frames; choose an environment with render mode rgb_array.")


def _sentence(problem: BaseException) -> str:
    """The first line of what was said, without its full stop."""
    said = str(problem).strip().splitlines()
    return (said[0] if said else type(problem).__name__).rstrip(".")
