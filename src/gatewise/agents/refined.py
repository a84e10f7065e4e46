"""Off-policy agents of Stable-Baselines3 whose exploring actions are sometimes refined by their own critic.

    from stable_baselines3 import TD3
    from gatewise.applications.action_refinement import Refinement, refined

    model = refined(TD3)("MlpPolicy", "HalfCheetah-v5", refinement=Refinement(method="adr-gd", share=0.25))

`refined` works for TD3, DDPG and SAC and whatever is derived from them. Losses, buffers, callbacks, saving and loading
are Stable-Baselines3's own.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gatewise.agents.critics import Refinement, refine
from gatewise.errors import InvalidInput


class ActionRefinement:
    """Mixin for off-policy algorithms of Stable-Baselines3, to stand before the algorithm among the bases.

    After the warm-up each environment's action is refined with probability `refinement.share`, all chosen ones
    together, from what the actor would do without noise. The draws come from a generator of its own: with a share of 0
    training is the plain algorithm's, bit for bit. The logger gets `refinement/share`, `q_gain` (mean rise of the asked
    critic's value), `backwards` (passes a refined action) and `seconds` (a call), since the last log.

    Args:
        refinement: how actions are refined; None is `Refinement()`.
    """

    refinement: Refinement
    tally: Tally
    """What refinement did since the agent was built; saved with it."""

    def __init__(self, *arguments: Any, refinement: Refinement | None = None, **keywords: Any):
        self.refinement = refinement or Refinement()
        self._coins = np.random.default_rng(keywords.get("seed"))
        self.tally = self._logged = Tally()
        super().__init__(*arguments, **keywords)

    def set_random_seed(self, seed: int | None = None) -> None:
        """Seed everything that Stable-Baselines3 does, and the draws of which actions are refined."""
        super().set_random_seed(seed)  # type: ignore[misc]
        if seed is not None:
            self._coins = np.random.default_rng(seed)

    def dump_logs(self) -> None:
        """Add the refinement's rows to what the algorithm logs."""
        for name, value in (self.tally - self._logged).means().items():
            self.logger.record(f"refinement/{name}", value)  # type: ignore[attr-defined]
        self._logged = self.tally
        super().dump_logs()  # type: ignore[misc]

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """The action for the environments and, scaled to [-1, 1], for the buffer; refined in some rows."""
        noise = None if action_noise is None else _LastDraw(action_noise)
        action, stored = super()._sample_action(learning_starts, noise, n_envs)  # type: ignore[misc]
        if self.num_timesteps < learning_starts:  # type: ignore[attr-defined]
            return action, stored
        chosen = np.flatnonzero(self._coins.random(n_envs) < self.refinement.share)
        if len(chosen):
            better = self._refined(chosen)
            if self.refinement.noisy and noise is not None:
                better = np.clip(better + np.broadcast_to(noise.last, stored.shape)[chosen], -1, 1)
            stored = stored.copy()
            stored[chosen] = better.reshape(-1, *stored.shape[1:])
            action = self.policy.unscale_action(stored)  # type: ignore[attr-defined]
        self.tally += Tally(steps=n_envs)
        return action, stored

    def _refined(self, rows: np.ndarray) -> np.ndarray:
        """Refined actions of some environments, scaled to [-1, 1], (rows, entries)."""
        began = time.perf_counter()
        policy: Any = self.policy  # type: ignore[attr-defined]
        observations, _ = policy.obs_to_tensor(self._last_obs)  # type: ignore[attr-defined]
        where = torch.from_numpy(rows).to(policy.device)
        states = (
            {k: o[where] for k, o in observations.items()} if isinstance(observations, dict) else observations[where]
        )
        with torch.no_grad():
            actions = policy._predict(states, deterministic=True).clamp(-1, 1).flatten(1)
        critic = policy.critic_target if self.refinement.critic == "target" else policy.critic
        names = (self.num_timesteps + rows).tolist()  # type: ignore[attr-defined]
        result = refine(critic, states, actions, self.refinement, seed=self.seed or 0, rows=names)  # type: ignore[attr-defined]
        self.tally += Tally(
            refined=len(rows),
            calls=1,
            seconds=time.perf_counter() - began,
            gain=float((result.value - result.history[0]).sum()),
            backwards=result.backwards_per_row * len(rows),
        )
        return result.x.cpu().numpy()


@dataclass(frozen=True)
class Tally:
    """What refinement did: steps looked at and actions refined, calls and their seconds, and over all refined actions
    the rises of Q and the backward passes.
    """

    steps: int = 0
    refined: int = 0
    calls: int = 0
    seconds: float = 0.0
    gain: float = 0.0
    backwards: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        """Both together."""
        return Tally(*map(operator.add, dataclasses.astuple(self), dataclasses.astuple(other)))

    def __sub__(self, other: Tally) -> Tally:
        """What came after another."""
        return Tally(*map(operator.sub, dataclasses.astuple(self), dataclasses.astuple(other)))

    def means(self) -> dict[str, float]:
        """Share of the actions refined; for each refined one, gain and backward passes; seconds a call."""
        told = {"share": self.refined / self.steps} if self.steps else {}
        if self.refined:
            told |= {"q_gain": self.gain / self.refined, "backwards": self.backwards / self.refined}
            told |= {"seconds": self.seconds / self.calls}
        return told


class _LastDraw:
    """An action noise that remembers what it drew last."""

    def __init__(self, noise: Any):
        self.noise = noise
        self.last = np.zeros(1)

    def __call__(self) -> np.ndarray:
        self.last = self.noise()
        return self.last


@functools.cache
def refined(algorithm: type[Any]) -> type[Any]:
    """`algorithm` (TD3, DDPG, SAC, or derived from them) with `ActionRefinement`; named Refined… and, for the first
    three, found by that name in `gatewise.agents.refined` when a saved model is loaded.

    Raises:
        InvalidInput: an algorithm without critics of actions.
    """
    from gatewise.agents.extras import stable_baselines

    if not (isinstance(algorithm, type) and issubclass(algorithm, (stable_baselines().TD3, stable_baselines().SAC))):
        said = getattr(algorithm, "__name__", algorithm)
        raise InvalidInput(f"{said} has no critic of continuous actions to refine by; take TD3, DDPG or SAC.")
    name = f"Refined{algorithm.__name__}"
    body = {"__module__": __name__, "__doc__": f"{algorithm.__name__} with `ActionRefinement`."}
    return type(name, (ActionRefinement, algorithm), body)


def __getattr__(name: str) -> type[Any]:
    """`RefinedTD3`, `RefinedDDPG` and `RefinedSAC`, made when they are asked for: Stable-Baselines3 is an extra."""
    if name in ("RefinedTD3", "RefinedDDPG", "RefinedSAC"):
        from gatewise.agents.extras import stable_baselines

        return refined(getattr(stable_baselines(), name.removeprefix("Refined")))
    raise AttributeError(f"module {__name__} has no attribute {name}")
