"""Training an off-policy agent in stretches, so that a run that was killed goes on as if it had not been.

A stretch begins with fresh environments and with seeds of its own, derived from the run's seed and the step, and ends
with a checkpoint: the agent with its optimisers, the replay buffer, and the evaluations so far. So the checkpoint holds
all that the next stretch depends on, and a run that is taken up again has the same numbers, bit for bit, as one that
was never interrupted. The price: an episode that is under way when a stretch ends is cut (its steps stay in the
buffer); where episodes have a fixed length that divides the stretch, none is.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gatewise.agents.critics import Refinement
from gatewise.agents.environments import make_environment, play
from gatewise.agents.extras import stable_baselines
from gatewise.agents.refined import refined

Evaluations = list[dict[str, Any]]
"""At each checkpoint: `step`, the `returns` of its episodes, processor `seconds` spent on training until then, and what
`refinement` did until then (`gatewise.agents.refined.Tally`)."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run: what is trained, on what, how long, and how it is judged.

    `noise` is the deviation of the exploration noise in actions scaled to [-1, 1] (SAC explores by itself and gets
    none); `stretch` the steps between two checkpoints, at each of which `episodes` episodes are played by the bare
    actor, deterministic, from the same starts in every run of the same `seed`.
    """

    algorithm: str
    environment: str
    steps: int
    seed: int = 0
    refinement: Refinement | None = None
    warm_up: int = 10_000
    stretch: int = 5_000
    episodes: int = 10
    noise: float = 0.1
    net: tuple[int, ...] = (400, 300)
    environments: int = 1
    rate: float | None = None
    batch: int = 256
    tensorboard: str | None = None

    def build(self) -> Any:
        """The agent before its first step."""
        package = stable_baselines()
        algorithm = getattr(package, self.algorithm.upper())
        options: dict[str, Any] = {} if self.rate is None else {"learning_rate": self.rate}
        if self.refinement is not None:
            algorithm, options = refined(algorithm), options | {"refinement": self.refinement}
        if self.algorithm != "sac":
            options["action_noise"] = self._noise()
        return algorithm(
            "MlpPolicy",
            self.vectorised(),
            learning_starts=self.warm_up,
            buffer_size=max(self.steps, self.batch),
            batch_size=self.batch,
            gradient_steps=-1,  # as many updates as steps, whatever the number of environments
            policy_kwargs={"net_arch": list(self.net)},
            seed=self.seed,
            device="cpu",
            tensorboard_log=self.tensorboard,
            **options,
        )

    def take_up(self, folder: Path, *, buffer: bool = True) -> Any:
        """The agent as a checkpoint left it; without its `buffer` where there is none, at the end of a run."""
        from stable_baselines3.common.save_util import load_from_pkl

        package = stable_baselines()
        kind = getattr(package, self.algorithm.upper())
        kind = kind if self.refinement is None else refined(kind)
        agent = kind.load(folder / "agent.zip", device="cpu", tensorboard_log=self.tensorboard)
        if buffer:
            agent.replay_buffer = load_from_pkl(folder / "buffer.pkl")
        return agent

    def vectorised(self) -> Any:
        """Fresh environments, in step."""
        from stable_baselines3.common.monitor import Monitor
        from stable_baselines3.common.vec_env import DummyVecEnv

        return DummyVecEnv([lambda: Monitor(make_environment(self.environment))] * self.environments)

    def _noise(self) -> Any:
        from stable_baselines3.common.noise import NormalActionNoise

        probe = make_environment(self.environment)
        entries = int(np.prod(probe.action_space.shape))
        probe.close()
        return NormalActionNoise(np.zeros(entries), np.full(entries, self.noise))


def train(run: Training, folder: Path, told: Callable[[Evaluations], object] = lambda _: None) -> Evaluations:
    """Train until `run.steps`, from the newest checkpoint in `folder` where there is one.

    Args:
        run: what is asked.
        folder: of this run alone; holds the newest checkpoint, and when all is done the agent alone.
        told: called with the evaluations so far, once at the beginning and after each that is made.

    Returns:
        The evaluations.
    """
    newest = _newest(folder)
    evaluations: Evaluations = [] if newest is None else json.loads((newest / "record.json").read_text())
    if evaluations and evaluations[-1]["step"] >= run.steps:
        told(evaluations)
        return evaluations
    agent = run.build() if newest is None else run.take_up(newest)
    if newest is None:
        evaluations.append(_evaluated(agent, run, 0.0))
    told(evaluations)
    while agent.num_timesteps < run.steps:
        began = time.process_time()
        agent.set_env(run.vectorised())  # forgets the last observation, so that learning begins with a reset
        agent.set_random_seed(_seed_of(run.seed, agent.num_timesteps))
        agent.learn(min(run.stretch, run.steps - agent.num_timesteps), reset_num_timesteps=False)
        evaluations.append(_evaluated(agent, run, evaluations[-1]["seconds"] + time.process_time() - began))
        _save(agent, evaluations, folder, done=agent.num_timesteps >= run.steps)
        told(evaluations)
    return evaluations


def _evaluated(agent: Any, run: Training, seconds: float) -> dict[str, Any]:
    played = play(
        run.environment,
        lambda observations, _: agent.predict(observations, deterministic=True)[0],
        run.episodes,
        _seed_of(run.seed, -1),
        at_once=run.episodes,
    )
    told = {
        "step": agent.num_timesteps,
        "returns": [round(sum(rewards), 6) for rewards in played],
        "seconds": round(seconds, 3),
    }
    return told if run.refinement is None else told | {"refinement": dataclasses.asdict(agent.tally)}


def _seed_of(seed: int, step: int) -> int:
    """Of the stretch that begins at a step; -1 for the episodes that judge."""
    return int(np.random.SeedSequence([seed, step + 1]).generate_state(1)[0]) >> 1


def _save(agent: Any, evaluations: Evaluations, folder: Path, *, done: bool) -> None:
    """The checkpoint as a folder that appears whole, by one renaming; then the older ones go."""
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / "writing"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    agent.save(scratch / "agent.zip")
    if not done:
        agent.save_replay_buffer(scratch / "buffer.pkl")
    (scratch / "record.json").write_text(json.dumps(evaluations))
    older = _checkpoints(folder)
    os.replace(scratch, folder / f"step-{agent.num_timesteps}")
    for checkpoint in older:
        shutil.rmtree(checkpoint)


def _newest(folder: Path) -> Path | None:
    return max(_checkpoints(folder), key=lambda path: int(path.name.removeprefix("step-")), default=None)


def _checkpoints(folder: Path) -> list[Path]:
    return [path for path in folder.glob("step-*") if path.is_dir()]
