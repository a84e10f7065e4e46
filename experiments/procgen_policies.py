"""Policies for Procgen's FruitBot and CoinRun, trained by PPO on 50 easy levels, for `policy_attacks.py`.

The network is `zoo:procgen-impala`; PPO is Stable-Baselines3's with the Procgen paper's settings, but in FruitBot
minibatches of 512 and 128 steps between updates. Training goes in stretches that end with a checkpoint, each with
seeds of its own: a run that was killed goes on at its last. There the likeliest action is played once on each of the
50 levels, and the weights that earn most so far are kept: those are the policy.

Run by: OMP_NUM_THREADS=1 .venv-procgen/bin/python experiments/procgen_policies.py --game coinrun [--steps 2000000]
    [--minutes 30] [--runs out/procgen] [--weights experiments/weights] [--quick]
`--minutes` of processor time end a run early, at a checkpoint. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from gatewise.agents.environments import play
from gatewise.agents.procgen import Game
from gatewise.agents.procgen_training import ImpalaFeatures, ManyGames, policy_weights
from gatewise.report.learning_curves import mean_and_interval
from gatewise.report.progress import progress_bar

LEVELS = 50
SEED = 0
COPIES = 64
STRETCH = 16 * COPIES * 128  # steps of the environment, a little over 130,000
PPO_SETTINGS: dict[str, Any] = {
    "n_steps": 128,
    "batch_size": 512,
    "n_epochs": 3,
    "learning_rate": 5e-4,
    "gamma": 0.999,
    "gae_lambda": 0.95,
    "ent_coef": 0.01,
    "clip_range": 0.2,
}
# The Procgen paper's; with the smaller updates above CoinRun's likeliest action got stuck before walls.
OF_GAME: dict[str, dict[str, Any]] = {"fruitbot": {}, "coinrun": {"n_steps": 256, "batch_size": 2048}}


def vectorised(game: str, copies: int, step: int) -> VecNormalize:
    """Games in step, their rewards divided by the deviation of the returns; seeds are those of the stretch."""
    games = VecMonitor(ManyGames(Game(game, LEVELS), copies, seed_of(step)))
    return VecNormalize(games, norm_obs=False, gamma=PPO_SETTINGS["gamma"])


def seed_of(step: int) -> int:
    return int(np.random.SeedSequence([SEED, step]).generate_state(1)[0]) >> 1


def built(game: str, settings: dict[str, Any], copies: int) -> PPO:
    """The agent before its first step."""
    network = {"features_extractor_class": ImpalaFeatures, "net_arch": [], "ortho_init": False}
    games = vectorised(game, copies, 0)
    return PPO("CnnPolicy", games, policy_kwargs=network, seed=SEED, device="cpu", **settings)


def judged(game: str, agent: PPO | None, levels: int) -> dict[str, Any]:
    """Returns of the likeliest action, or of random play (None), one episode a level."""
    draws = np.random.default_rng(SEED)

    def act(observations: np.ndarray, _: list[int]) -> np.ndarray:
        if agent is None:
            return draws.integers(15, size=len(observations))
        return agent.predict(observations, deterministic=True)[0]

    played = play(f"procgen:{game}?levels={LEVELS}", act, levels, 0, at_once=levels)
    returns = [sum(rewards) for rewards in played]
    return {"returns": returns, "length": float(np.mean([*map(len, played)]))} | mean_and_interval(returns)


class Advance(BaseCallback):
    """Moves the progress bar."""

    def __init__(self, told):
        super().__init__()
        self.told = told

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        self.told(self.num_timesteps)


def save(path: Path, content: dict[str, Any]) -> None:
    """As one file that appears whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, scratch := path.with_suffix(".part"))
    os.replace(scratch, path)


def train(game: str, path: Path, steps: int, minutes: float, *, quick: bool) -> dict[str, Any]:
    """Train until `steps` or the minutes are over, from the checkpoint at `path` where there is one.

    Returns:
        The last checkpoint: all that the next stretch depends on, the `record`, and the `best` weights so far.
    """
    copies, stretch, levels = (4, 128, 2) if quick else (COPIES, STRETCH, LEVELS)
    agent = built(game, PPO_SETTINGS | ({"n_steps": 32, "batch_size": 64} if quick else OF_GAME[game]), copies)
    content: dict[str, Any] = {"record": [], "rewards": None}
    if path.is_file():
        content = torch.load(path, weights_only=True)
        agent.policy.load_state_dict(content["policy"])
        agent.policy.optimizer.load_state_dict(content["optimiser"])
        agent.num_timesteps = content["record"][-1]["step"]
    record = content["record"]
    with progress_bar() as bar:
        task = bar.add_task(game, total=steps, completed=agent.num_timesteps)
        spent = record[-1]["cpu_seconds"] if record else 0.0
        while agent.num_timesteps < steps and spent < 60 * minutes:
            began = time.process_time()
            games = vectorised(game, copies, agent.num_timesteps)
            if content["rewards"] is not None:
                games.ret_rms.mean, games.ret_rms.var, games.ret_rms.count = map(np.float64, content["rewards"])
            agent.set_env(games)  # forgets the last observation
            agent.set_random_seed(seed_of(agent.num_timesteps))
            advance = Advance(lambda done: bar.update(task, completed=done))
            agent.learn(stretch, callback=advance, reset_num_timesteps=False)
            spent += time.process_time() - began
            recent = [one["r"] for one in agent.ep_info_buffer or []]
            told = {"step": agent.num_timesteps, "cpu_seconds": round(spent, 1)}
            told |= {"sampled": float(np.mean(recent)) if recent else None} | judged(game, agent, levels)
            record.append(told)
            content |= {
                "policy": agent.policy.state_dict(),
                "optimiser": agent.policy.optimizer.state_dict(),
                "rewards": [float(games.ret_rms.mean), float(games.ret_rms.var), float(games.ret_rms.count)],
            }
            if told is best_of(record):
                content["best"] = copy.deepcopy(content["policy"])
            save(path, content)
            games.close()
            print(game, json.dumps({k: v for k, v in told.items() if k != "returns"}), file=sys.stderr, flush=True)
    return content


def best_of(record: list[dict[str, Any]]) -> dict[str, Any]:
    """The evaluation with the highest mean return, of equals the first."""
    return max(record, key=lambda one: one["mean"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--game", choices=("fruitbot", "coinrun"), required=True)
    parser.add_argument("--steps", type=int, default=2_000_000)
    parser.add_argument("--minutes", type=float, default=float("inf"))
    parser.add_argument("--runs", type=Path, default=Path("out/procgen"), help="folder of the checkpoints")
    parser.add_argument("--weights", type=Path, help="folder for procgen_GAME.safetensors and its .json")
    parser.add_argument("--quick", action="store_true", help="a few hundred steps of a few copies")
    asked = parser.parse_args()
    name = f"{asked.game}_quick" if asked.quick else asked.game
    steps = min(asked.steps, 256) if asked.quick else asked.steps
    content = train(asked.game, asked.runs / f"{name}.pt", steps, asked.minutes, quick=asked.quick)
    record = content["record"]
    best = best_of(record)
    told = {
        "game": asked.game,
        "levels": LEVELS,
        "seed": SEED,
        "steps_trained": record[-1]["step"],
        "step": best["step"],
        "cpu_seconds": record[-1]["cpu_seconds"],
        "policy": {key: best[key] for key in ("mean", "low", "high", "length", "returns")},
        "random": judged(asked.game, None, 2 if asked.quick else LEVELS),
    }
    if asked.weights is not None:
        asked.weights.mkdir(parents=True, exist_ok=True)
        file = asked.weights / f"procgen_{name}.safetensors"
        save_file(policy_weights(content["best"]), file)
        command = " ".join(["experiments/procgen_policies.py", *sys.argv[1:]])
        whole = {"network": "zoo:procgen-impala", "command": command}
        whole |= {"settings": PPO_SETTINGS | OF_GAME[asked.game] | {"copies": COPIES}} | told
        whole["curve"] = [{key: one[key] for key in ("step", "mean", "sampled", "cpu_seconds")} for one in record]
        whole |= {"torch": torch.__version__, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        file.with_suffix(".json").write_text(json.dumps(whole, indent=1) + "\n")
    means = {kind: told[kind]["mean"] for kind in ("policy", "random")}
    print(json.dumps({key: told[key] for key in ("game", "step", "cpu_seconds")} | means))
    return 0


if __name__ == "__main__":
    sys.exit(main())
