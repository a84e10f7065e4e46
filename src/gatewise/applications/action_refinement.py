"""Train an actor-critic agent plain and with refined actions, side by side, and compare.

`gatewise.agents.refined` has the mixin for algorithms of Stable-Baselines3 (also here: `refined`, `ActionRefinement`,
`Refinement`), `gatewise.agents.critics.refine` better actions for given states; `run` is the command.

Source: Yu & Gao (ICML 2024), Section 6.2 and Fig. 4.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from gatewise.agents.critics import Refinement, Twins
from gatewise.agents.environments import make_environment, require_continuous
from gatewise.agents.extras import stable_baselines
from gatewise.agents.refined import ActionRefinement, refined
from gatewise.agents.training import Evaluations, Training, train
from gatewise.errors import InvalidInput
from gatewise.flags import check_positive, flag, fraction, required
from gatewise.report.folder import replace_json, require_writable
from gatewise.report.gallery import require_matplotlib
from gatewise.report.learning_curves import curve, curves_table, draw_curves
from gatewise.report.progress import progress_bar

__all__ = ["ActionRefinement", "Config", "Refinement", "compare", "refined", "run"]

KINDS = ("plain", "refined")


def widths(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them."""
    return tuple(int(entry) for entry in text.split(","))


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `gatewise refine` is asked; the command line has one flag a field."""

    algo: Literal["td3", "ddpg", "sac"] = required("td3, ddpg or sac", choices=("td3", "ddpg", "sac"))
    env: str = required("a Gymnasium environment with continuous actions, such as HalfCheetah-v5")
    method: str = flag(
        "NAME[:key=value,…]; a bare adr-gd (the default) takes the paper's settings, preset=action-refinement", "adr-gd"
    )
    steps: int = flag("environment steps of each run", 100_000, parse=int)
    seeds: int = flag("runs of each kind, with seeds from --seed on", 3, parse=int)
    seed: int = flag("the first seed", 0, parse=int)
    share: float = flag("probability that an action is refined after the warm-up", Refinement.share, parse=fraction)
    radius: float = flag(
        "largest change of an entry of the action, scaled to [-1, 1]", Refinement.radius, parse=fraction
    )
    budget: int | None = flag("backward passes for each refined action (default: 100 steps of the method)", parse=int)
    critic: Literal["target", "online"] = flag("which critic is asked", Refinement.critic, choices=("target", "online"))
    twins: Twins = flag(
        "which of twin critics: the first, the smaller value, or the mean",
        Refinement.twins,
        choices=("first", "min", "mean"),
    )
    noisy: bool = flag("add the exploration noise to refined actions, too", False)
    warm_up: int = flag("random steps before learning", Training.warm_up, parse=int)
    noise: float = flag("deviation of the exploration noise, not for sac", Training.noise, parse=float)
    net: tuple[int, ...] = flag("widths of the hidden layers of actor and critics", Training.net, parse=widths)
    environments: int = flag("environments in step", 1, parse=int)
    stretch: int = flag("steps between two checkpoints and evaluations", Training.stretch, parse=int)
    episodes: int = flag("episodes of an evaluation, by the bare actor without noise", Training.episodes, parse=int)
    tensorboard: bool = flag("write TensorBoard logs to OUT/tensorboard", False)
    out: str = flag("folder for checkpoints, agents, summary.json and curves.png; names a run to go on with", "out")

    def __post_init__(self):
        check_positive(self, "steps", "seeds", "budget", "environments", "stretch", "episodes")
        if not min(self.net) > 0:
            raise InvalidInput("Every entry of --net must be positive.")
        if self.seed < 0 or self.warm_up < 0 or self.noise < 0:
            raise InvalidInput("--seed, --warm-up and --noise must be at least 0.")
        self.refinement()

    def refinement(self) -> Refinement:
        """How actions are refined; raises InvalidInput for values that cannot be used."""
        names = ("method", "share", "radius", "budget", "critic", "twins", "noisy")
        return Refinement(**{name: getattr(self, name) for name in names})


def run(config: Config) -> dict[str, Any]:
    """Train as the command does, with a checkpoint after every stretch, and return the summary.

    The same command goes on where it was interrupted and does nothing that is done. Both kinds begin, for each seed,
    with the same networks and random steps, and are judged by the same episodes.

    Raises:
        GatewiseError: whatever is wrong, as one sentence.
    """
    require_matplotlib()
    total = len(KINDS) * config.seeds * config.steps
    with progress_bar() as bar:
        task = bar.add_task(f"{config.algo} {config.env}", total=total)
        summary = compare(config, lambda told: bar.update(task, completed=told["steps_done"]))
    draw_curves(Path(config.out) / "curves.png", summary["curves"], f"{config.algo} in {config.env}")
    Console().print(curves_table(summary), highlight=False)
    return summary


def compare(config: Config, told: Callable[[dict[str, Any]], object] = lambda _: None) -> dict[str, Any]:
    """All runs of `config`, seed by seed, plain before refined; `summary.json` is written anew after every evaluation,
    and `told` to `told`.

    Raises:
        GatewiseError: whatever is wrong, as one sentence.
    """
    stable_baselines()
    probe = make_environment(config.env)
    require_continuous(probe, config.env)
    probe.close()
    require_writable(config.out)
    folder = Path(config.out)
    _claim(folder, config)
    runs: dict[str, dict[str, Evaluations]] = {kind: {} for kind in KINDS}

    def note(kind: str, seed: int, evaluations: Evaluations) -> None:
        runs[kind][str(seed)] = evaluations
        told(_summarise(config, runs, folder))

    for seed in range(config.seed, config.seed + config.seeds):
        for kind in KINDS:
            place = folder / "runs" / f"{kind}-{seed}"
            train(_training(config, seed, kind), place, functools.partial(note, kind, seed))
    return _summarise(config, runs, folder)


def _training(config: Config, seed: int, kind: str) -> Training:
    return Training(
        algorithm=config.algo,
        environment=config.env,
        steps=config.steps,
        seed=seed,
        refinement=config.refinement() if kind == "refined" else None,
        warm_up=config.warm_up,
        stretch=config.stretch,
        episodes=config.episodes,
        noise=config.noise,
        net=config.net,
        environments=config.environments,
        tensorboard=str(Path(config.out) / "tensorboard" / f"{kind}-{seed}") if config.tensorboard else None,
    )


def _claim(folder: Path, config: Config) -> None:
    """Write the settings, or check that they are those of the run that is there; raises InvalidInput where not."""
    settings = _settings(config)
    written = folder / "settings.json"
    if written.is_file():
        there = json.loads(written.read_text())
        differing = [f"--{name.replace('_', '-')}" for name in settings if there.get(name) != settings[name]]
        if differing:
            raise InvalidInput(
                f"{folder} has a run with other settings ({', '.join(differing)}); name another folder by --out."
            )
    else:
        folder.mkdir(parents=True, exist_ok=True)
        replace_json(written, settings)


def _settings(config: Config) -> dict[str, Any]:
    """What the results depend on, as JSON keeps it. More seeds may be asked for later."""
    told = dataclasses.asdict(config) | {"net": list(config.net), "method": repr(config.refinement().method)}
    return {name: value for name, value in told.items() if name not in ("out", "seeds", "tensorboard")}


def _summarise(config: Config, runs: dict[str, dict[str, Evaluations]], folder: Path) -> dict[str, Any]:
    """The summary, written to the folder: each run's evaluations, curves over the seeds, and seconds a run."""
    summary = {
        "settings": _settings(config) | {"method": config.method},
        "curves": {kind: curve(by_seed) for kind, by_seed in runs.items()},
        "seconds": {kind: _seconds(by_seed) for kind, by_seed in runs.items()},
        "steps_done": sum(one[-1]["step"] for by_seed in runs.values() for one in by_seed.values()),
        **runs,
        "torch": torch.__version__,
        "stable_baselines3": stable_baselines().__version__,
    }
    replace_json(folder / "summary.json", summary)
    return summary


def _seconds(by_seed: dict[str, Evaluations]) -> float | None:
    """Processor seconds of training a run, mean over the seeds that have got as far as the farthest."""
    farthest = max((one[-1]["step"] for one in by_seed.values()), default=0)
    spent = [one[-1]["seconds"] for one in by_seed.values() if one[-1]["step"] == farthest]
    return sum(spent) / len(spent) if spent else None
