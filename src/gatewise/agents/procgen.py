"""Procgen's games as Gymnasium environments, each episode a level that the seed names.

Source: Cobbe et al., "Leveraging procedural generation to benchmark reinforcement learning" (ICML 2020).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from gatewise.agents.extras import gymnasium
from gatewise.errors import InvalidInput

PREFIX = "procgen:"
_WAYS = "procgen:GAME?levels=200&start=0&mode=easy, such as procgen:fruitbot?levels=50"


@dataclass(frozen=True)
class Game:
    """A game and the levels that are played: `levels` of them from `start` on, `mode` easy or hard."""

    name: str
    levels: int = 200
    start: int = 0
    mode: str = "easy"

    @classmethod
    def named(cls, name: str) -> Game:
        """The game that `procgen:GAME?levels=…&start=…&mode=…` means.

        Raises:
            InvalidInput: an unknown game, an option that there is not, or a number that is none.
        """
        game, _, options = name.removeprefix(PREFIX).partition("?")
        given = dict(parse_qsl(options, keep_blank_values=True))
        if given.keys() - {"levels", "start", "mode"}:
            raise InvalidInput(f"{name!r} has an option that there is not; name the game as {_WAYS}.")
        try:
            levels, start = int(given.get("levels", cls.levels)), int(given.get("start", cls.start))
        except ValueError as problem:
            raise InvalidInput(f"Levels and start of {name!r} must be whole numbers; write {_WAYS}.") from problem
        mode = given.get("mode", cls.mode)
        if levels < 1 or start < 0 or mode not in ("easy", "hard"):
            raise InvalidInput(f"{name!r} needs levels >= 1, start >= 0 and mode easy or hard; write {_WAYS}.")
        if game not in (games := _procgen().env.ENV_NAMES):
            raise InvalidInput(f"Procgen has no game {game!r}; it has {', '.join(games)}.")
        return cls(game, levels, start, mode)

    def simulator(self, number: int, seed: int = 0, **options: Any) -> Any:
        """`number` copies in step, under gym3's interface; each draws its levels by `seed`."""
        return _procgen().ProcgenGym3Env(
            num=number,
            env_name=self.name,
            num_levels=self.levels,
            start_level=self.start,
            distribution_mode=self.mode,
            rand_seed=seed,
            num_threads=0,
            **options,
        )


def spaces_of_a_game() -> tuple[Any, Any]:
    """Of observations, screens (64, 64, 3) uint8, and of the 15 actions."""
    spaces = gymnasium().spaces
    return spaces.Box(0, 255, (64, 64, 3), np.uint8), spaces.Discrete(15)


def make_game(name: str, render_mode: str | None = None) -> Any:
    """A `gymnasium.Env` of the game that `name` means (`Game.named`).

    Observations are screens (64, 64, 3) uint8, there are 15 actions, `render` gives (512, 512, 3) uint8. After
    `reset(seed=s)` level `start + s mod levels` is played from its beginning: same seed, same course. The screen that
    comes with an episode's end is the level's first again; the game shows no last one.

    Raises:
        InvalidInput: a name that means none, or a package that is missing.
    """
    game, gym = Game.named(name), gymnasium()

    class OneGame(gym.Env):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012
        observation_space, action_space = spaces_of_a_game()

        def __init__(self):
            self.render_mode, self.simulator = render_mode, None

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
            super().reset(seed=seed)
            drawn = int(self.np_random.integers(game.levels)) if seed is None else seed % game.levels
            self.close()
            # The simulator goes on to a level that it draws; one of a single level draws that one.
            only = dataclasses.replace(game, levels=1, start=game.start + drawn)
            self.simulator = only.simulator(1, render_mode=render_mode)
            return self._seen(), {"level": only.start}

        def step(self, action: Any):
            assert self.simulator is not None, "reset comes first"
            self.simulator.act(np.array([action], np.int32))
            reward, _, first = self.simulator.observe()
            return self._seen(), float(reward[0]), bool(first[0]), False, {}

        def render(self):
            assert self.simulator is not None, "reset comes first"
            return self.simulator.get_info()[0]["rgb"].copy()

        def close(self):
            if self.simulator is not None:
                self.simulator.close()
                self.simulator = None

        def _seen(self) -> np.ndarray:
            return self.simulator.observe()[1]["rgb"][0].copy()  # type: ignore[union-attr]

    return OneGame()


def _procgen() -> ModuleType:
    try:
        with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():  # old gym says that it is old
            warnings.simplefilter("ignore")
            return importlib.import_module("procgen")
    except ModuleNotFoundError as missing:
        raise InvalidInput(
            "Procgen is not installed; it wants an older NumPy and so an environment of its own: make procgen, then "
            ".venv-procgen/bin/gatewise."
        ) from missing
