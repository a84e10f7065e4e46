"""Attack a policy while it plays: each observation is moved inside a ball so that the action it would choose loses.

`PolicyAttack` moves a batch of observations, `run` is the command: clean and attacked episodes from the same starts.

Sources: Huang et al., "Adversarial attacks on neural network policies" (2017); Oikarinen et al., "Robust deep
reinforcement learning through adversarial loss" (NeurIPS 2021); Yu & Gao (ICML 2024), Section 6.3.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import time
import warnings
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from gatewise.agents.critics import ActionValue
from gatewise.agents.environments import Actor, make_environment, play, require_drawing
from gatewise.agents.policies import Policy, read_policy
from gatewise.attack import ball_in_box
from gatewise.catalogue import method_named
from gatewise.classification import Norm
from gatewise.domains import Box, Domain, Intersection
from gatewise.errors import InvalidInput
from gatewise.flags import check_bounds, check_methods, check_positive, flag, fraction, interval, required
from gatewise.methods import ActivationDescent
from gatewise.methods.base import Method
from gatewise.network import NetworkView
from gatewise.objectives import CrossEntropy, Linear, Margin, Objective, SquaredOutputDistance
from gatewise.problem import Problem
from gatewise.report.folder import all_or_nothing, require_writable
from gatewise.report.learning_curves import mean_and_interval
from gatewise.report.play import Scene, draw_strip, write_gif
from gatewise.report.policy_table import policy_table
from gatewise.report.progress import progress_bar
from gatewise.solve import goal_met, minimize, never
from gatewise.streams import RowStreams

Loss = Literal["ce", "margin", "distance", "q-gap"]
DEFAULT_METHODS = ("random", "fgsm", "pgd", "adr-gd", "gate-annealing")
_CHANGED = 0.1  # of half the action's range: from there on a continuous action counts as another one


@dataclass(frozen=True, kw_only=True)
class Config:
    """What `gatewise attack-policy` is asked; the command line has one flag a field."""

    policy: str = required(
        "ALGORITHM:FILE.zip of Stable-Baselines3, FILE.pt of actor and critic, zoo:NAME, or module:callable"
    )
    env: str = required("a Gymnasium environment, such as Hopper-v5, or procgen:GAME?levels=50")
    weights: str | None = flag("state dict for zoo:NAME or module:callable: .pt or .safetensors")
    radius: tuple[float, ...] = flag(
        "radius of the ball, 3/255 is understood; repeatable", (3 / 255, 5 / 255), parse=fraction, repeat=True
    )
    method: tuple[str, ...] = flag(
        "random (a random point of the ball), or NAME[:key=value,…]; repeatable (default: random, fgsm, pgd, adr-gd, "
        "gate-annealing); a bare adr-gd takes preset=policy-attack",
        DEFAULT_METHODS,
        repeat=True,
    )
    norm: Norm = flag("norm of the ball", "linf", choices=("linf", "l2", "l1"))
    unit: Literal["raw", "deviation"] = flag(
        "what the radius is measured in: the observation's own units, or each entry's standard deviation in clean play",
        "raw",
        choices=("raw", "deviation"),
    )
    loss: Loss | None = flag(
        "what is raised: ce or margin of the chosen action (discrete; default margin), distance from it (continuous; "
        "the default there), or q-gap: what the critic says that the new action loses in the true state",
        choices=("ce", "margin", "distance", "q-gap"),
    )
    bounds: tuple[float, float] | None = flag(
        "LO,HI of an entry of the observation, or none (default: 0,1 for images, else none)", parse=interval
    )
    budget: int = flag("backward passes an observation", 100, parse=int)
    full_budget: bool = flag("do not stop at the first change of action: spend the budget on raising the loss", False)
    episodes: int = flag("episodes of each kind, from the same starts", 20, parse=int)
    environments: int = flag("environments in step", 8, parse=int)
    frames: int = flag("steps of clean and attacked play shown in play.gif and strip.png; 0 for none", 200, parse=int)
    seed: int = flag("of the first episode and of every random draw", 0, parse=int)
    out: str = flag("folder for summary.json, play.gif and strip.png", "out")

    def __post_init__(self):
        check_positive(self, "budget", "episodes", "environments")
        check_bounds(self.bounds)
        if self.seed < 0 or self.frames < 0 or min(self.radius) < 0:
            raise InvalidInput("--seed, --frames and --radius must be at least 0.")
        if self.unit == "deviation" and self.norm != "linf":
            raise InvalidInput("--unit deviation makes the ball a box, so it goes with --norm linf only.")
        check_methods(self.method)


@dataclass(eq=False)
class PolicyAttack:
    """Moves observations so that the policy's action changes, and keeps count.

    Args:
        policy: whose action it is.
        method: None for a random point of the ball.
        radius: in the unit of `unit`.
        unit: a number for each entry of the observation that the radius is multiplied by, or None.
    """

    policy: Policy
    method: Method | None
    radius: float
    loss: Loss
    norm: Norm = "linf"
    unit: Tensor | None = None
    bounds: tuple[float, float] | None = None
    budget: int = 100
    full_budget: bool = False
    seed: int = 0
    changed: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    forwards: float = 0.0
    backwards: float = 0.0

    def __call__(self, observations: Tensor, rows: list[int]) -> tuple[Tensor, Tensor]:
        """The moved observations and the network's outputs there, for what the network is given (batch, …); `rows` name
        the random streams.
        """
        network = NetworkView(self.policy.network)
        with torch.no_grad():
            clean = network.plain(observations)
        domain = self._set_around(observations)
        if self.method is None:
            found = domain.sample(RowStreams(self.seed, rows), observations)
        else:
            # At the clean observation the distance has no gradient: every method begins at the same random point.
            start = (
                domain.sample(RowStreams(self.seed, rows), observations) if self.loss == "distance" else observations
            )
            problem = self._problem(network, domain, observations, clean)
            stop = never if self.full_budget or problem.goal is None else goal_met
            options: dict[str, Any] = {"budget": self.budget, "seed": self.seed, "rows": rows, "progress": False}
            result = minimize(problem, self.method, start, stop=stop, **options)
            found = result.x
            self.forwards += result.forwards_per_row * len(rows)
            self.backwards += result.backwards_per_row * len(rows)
        with torch.no_grad():
            outputs = network.plain(found)
        self._count(clean, outputs)
        return found, outputs

    def _set_around(self, observations: Tensor) -> Domain:
        if self.unit is None:
            return ball_in_box(observations, self.norm, self.radius, self.bounds)
        width = self.radius * self.unit
        ball = Box(observations.double() - width, observations.double() + width)
        return ball if self.bounds is None else Intersection(ball, Box(*self.bounds))

    def _problem(self, network: NetworkView, domain: Domain, observations: Tensor, clean: Tensor) -> Problem:
        """The loss to be raised, with its sign turned, and for discrete actions the change of action as goal."""
        if self.policy.is_discrete:
            chosen = clean.argmax(1)
            objective: Objective = -CrossEntropy(chosen) if self.loss == "ce" else Margin(chosen)
            return Problem(network, domain, objective, goal=Margin(chosen))
        if self.loss == "distance":
            return Problem(network, domain, -SquaredOutputDistance(clean))
        assert self.policy.critic is not None
        judged = NetworkView(Judged(self.policy, ActionValue(self.policy.critic, observations)))
        return Problem(judged, domain, Linear(torch.ones(1)))

    def _count(self, clean: Tensor, outputs: Tensor) -> None:
        if self.policy.is_discrete:
            self.changed += (clean.argmax(1) != outputs.argmax(1)).double().tolist()
            return
        change = (self.policy.scaled(outputs) - self.policy.scaled(clean)).abs().amax(1)
        self.changed += (change > _CHANGED).double().tolist()
        self.moved += change.double().tolist()


class Judged(nn.Module):
    """What the critic says, in the true state, of the action that the policy takes at an observation: (batch, 1)."""

    def __init__(self, policy: Policy, value: ActionValue):
        super().__init__()
        self.network, self.value, self._scaled = policy.network, value, policy.scaled
        self.training = False

    def forward(self, observations: Tensor) -> Tensor:
        """(batch, 1)."""
        return self.value(self._scaled(self.network(observations)))


def run(config: Config) -> dict[str, Any]:
    """Attack as the command does, write the folder, print the table, and return the summary.

    Nothing is written unless everything succeeds.

    Raises:
        GatewiseError: whatever is wrong, as one sentence.
    """
    require_writable(config.out)
    methods = {name: _method(name) for name in config.method}
    environment = make_environment(config.env)
    policy = read_policy(config.policy, environment, config.weights)
    environment.close()
    loss = _loss(config, policy)
    frames = _frames(config)
    with progress_bar() as bar:
        task = bar.add_task("clean", total=1 + len(methods) * len(config.radius))
        clean, deviation = _clean(config, policy)
        bar.advance(task)
        summary: dict[str, Any] = {
            "clean": {"returns": clean} | mean_and_interval(clean),
            "attacks": {},
            "settings": dataclasses.asdict(config) | {"loss": loss},
            "torch": torch.__version__,
        }
        attacks: dict[str, PolicyAttack] = {}
        for (name, method), radius in itertools.product(methods.items(), config.radius):
            bar.update(task, description=f"{name} {radius:.3g}")
            attacks[f"{name} {radius:.4g}"] = attack = PolicyAttack(
                policy,
                method,
                radius,
                loss,
                norm=config.norm,
                unit=deviation if config.unit == "deviation" else None,
                bounds=config.bounds if config.bounds or not policy.pixels else (0.0, 1.0),
                budget=config.budget,
                full_budget=config.full_budget,
                seed=config.seed,
            )
            summary["attacks"][f"{name} {radius:.4g}"] = _episodes(config, attack, name, clean)
            bar.advance(task)
    with all_or_nothing(config.out) as scratch:
        (scratch / "summary.json").write_text(json.dumps(summary, indent=1) + "\n")
        if frames:
            worst = min(attacks, key=lambda name: summary["attacks"][name]["mean"])
            acting = {"clean": unattacked(policy), worst: attacked(attacks[worst], config.episodes)}
            scenes = [scene(config.env, act, config.seed, frames, title) for title, act in acting.items()]
            draw_strip(scratch / "strip.png", scenes)
            write_gif(scratch / "play.gif", scenes)
    Console().print(policy_table(summary), highlight=False)
    return summary


def _method(name: str) -> Method | None:
    if name == "random":
        return None
    return ActivationDescent.preset("policy-attack") if name == "adr-gd" else method_named(name)


def _loss(config: Config, policy: Policy) -> Loss:
    loss = config.loss or ("margin" if policy.is_discrete else "distance")
    if policy.is_discrete and loss in ("distance", "q-gap"):
        raise InvalidInput(
            f"--loss {loss} is for continuous actions; for discrete ones take margin (of values: the Q-gap) or ce."
        )
    if not policy.is_discrete and loss in ("ce", "margin"):
        raise InvalidInput(f"--loss {loss} is for discrete actions; for continuous ones take distance or q-gap.")
    if loss == "q-gap" and policy.critic is None:
        raise InvalidInput("--loss q-gap needs a policy with a critic of actions (ddpg, td3, sac, FILE.pt).")
    return loss


def _frames(config: Config) -> int:
    """How many steps are to be drawn: none where the environment cannot be drawn here, which is said."""
    if not config.frames:
        return 0
    try:
        require_drawing(config.env)
    except InvalidInput as problem:
        warnings.warn(f"{problem} No pictures are made.", stacklevel=2)
        return 0
    return config.frames


def _clean(config: Config, policy: Policy) -> tuple[list[float], Tensor]:
    """The returns of clean play, and each entry's standard deviation along it, 1 where an entry does not move."""
    total, squares, count = 0.0, 0.0, 0

    def act(observations: np.ndarray, _: list[int]) -> np.ndarray:
        nonlocal total, squares, count
        given = policy.inputs(observations)
        total, squares, count = (
            total + given.double().sum(0),
            squares + given.double().square().sum(0),
            count + len(given),
        )
        with torch.no_grad():
            return policy.actions(policy.network(given))

    rewards = play(config.env, act, config.episodes, config.seed, at_once=config.environments)
    mean = total / count
    deviation = (squares / count - mean * mean).clamp_min(0).sqrt()  # type: ignore[union-attr]
    return [sum(one) for one in rewards], torch.where(deviation > 0, deviation, 1.0)


def _episodes(config: Config, attack: PolicyAttack, name: str, clean: list[float]) -> dict[str, Any]:
    """Episodes under an attack, beside the clean ones from the same starts."""
    began = time.process_time()
    rewards = play(
        config.env, attacked(attack, config.episodes), config.episodes, config.seed, at_once=config.environments
    )
    seconds = time.process_time() - began
    returns = [sum(one) for one in rewards]
    steps = sum(map(len, rewards))
    fall = mean_and_interval([before - after for before, after in zip(clean, returns, strict=True)])
    return {
        "method": name,
        "radius": attack.radius,
        "returns": returns,
        **mean_and_interval(returns),
        "fall": fall,
        "success": math.fsum(attack.changed) / steps,
        "action_change": math.fsum(attack.moved) / steps if attack.moved else None,
        "steps": steps,
        "forwards_per_step": attack.forwards / steps,
        "backwards_per_step": attack.backwards / steps,
        "cpu_seconds_per_step": seconds / steps,
    }


def attacked(attack: PolicyAttack, episodes: int) -> Actor:
    """The attacked policy as `play` asks for it, for so many episodes.

    A row's random stream is named after its episode and step, whoever plays beside it.
    """
    steps = [0] * episodes

    def act(observations: np.ndarray, playing: list[int]) -> np.ndarray:
        rows = [steps[episode] * episodes + episode for episode in playing]
        _, outputs = attack(attack.policy.inputs(observations), rows)
        for episode in playing:
            steps[episode] += 1
        return attack.policy.actions(outputs)

    return act


def unattacked(policy: Policy) -> Actor:
    """The bare policy as `play` asks for it."""

    def act(observations: np.ndarray, _: list[int]) -> np.ndarray:
        with torch.no_grad():
            return policy.actions(policy.network(policy.inputs(observations)))

    return act


def scene(environment: str, act: Actor, seed: int, steps: int, title: str) -> Scene:
    """The first steps of the episode that begins with `seed`, drawn."""
    frames: list[np.ndarray] = []

    def watch(_: int, environment: Any) -> None:
        frames.append(environment.render())

    rewards = play(environment, act, 1, seed, watch=watch, render=True, most=steps)
    return Scene(title, frames, list(itertools.accumulate(rewards[0])))
