"""A critic as a network of the action alone, and the action that it likes best near the actor's."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from gatewise.catalogue import method_named
from gatewise.domains import Box, Intersection, LinfBall
from gatewise.errors import InvalidInput, UnsupportedNetwork
from gatewise.methods import ActivationDescent
from gatewise.methods.base import Method
from gatewise.network import NetworkView
from gatewise.objectives import Linear
from gatewise.problem import Problem
from gatewise.result import Result
from gatewise.solve import maximize

Twins = Literal["first", "min", "mean"]
Observations = Tensor | Mapping[str, Tensor]


class ActionValue(nn.Module):
    """`Q(s, .)` with the states held: actions (batch, entries) to values (batch, 1).

    Args:
        critic: called as `critic(observations, actions)`; returns (batch, 1), or a tuple of them, one for each of
            several critics, as those of Stable-Baselines3 do. Of those the features of the states are extracted once,
            here: they do not depend on the action.
        observations: (batch, …), or a dictionary of such. A single row serves any number of actions.
        twins: which value counts where there are several critics: the first's, the least, or the mean.
    """

    def __init__(self, critic: nn.Module, observations: Observations, twins: Twins = "min"):
        super().__init__()
        self.critic, self.observations, self.twins = critic, observations, twins
        self._known = _rows(observations)
        self.training = False  # the view puts the critic in evaluation mode, and back
        self._features = None
        if _judges_features(critic):
            with torch.no_grad(), NetworkView(self).borrowed():
                judging = cast(Any, critic)
                self._features = judging.extract_features(observations, judging.features_extractor)

    def forward(self, actions: Tensor) -> Tensor:
        """The values (batch, 1) of actions (batch, entries).

        Raises:
            UnsupportedNetwork: another number of actions than of states: a method that runs copies of rows.
        """
        values = self._values(actions)
        if self.twins == "first":
            return values[0]
        if self.twins == "mean":
            return torch.stack(values).mean(0)
        least = values[0]
        for value in values[1:]:
            least = torch.minimum(least, value)
        return least

    def _values(self, actions: Tensor) -> tuple[Tensor, ...]:
        """One for each network that counts: where that is the first, the others are not even run."""
        critic, rows, first = cast(Any, self.critic), len(actions), self.twins == "first"
        if self._features is not None:
            seen = torch.cat([cast(Tensor, self._of(self._features, rows)), actions], 1)
            return tuple(judge(seen) for judge in critic.q_networks[: 1 if first else None])
        judge = critic.q1_forward if first and hasattr(critic, "q1_forward") else critic
        values: Tensor | tuple[Tensor, ...] = judge(self._of(self.observations, rows), actions)
        return (values,) if isinstance(values, Tensor) else values

    def _of(self, states: Observations, rows: int) -> Observations:
        """What is known of the states, for so many rows of actions."""
        if rows == self._known:
            return states
        if self._known != 1:
            raise UnsupportedNetwork(
                f"The critic holds {self._known} states and was run on {rows} actions, as by a method that runs copies "
                "of rows; refine one state at a time, or use pgd, adr-gd, gate-annealing or cem."
            )
        if isinstance(states, Tensor):
            return states.expand(rows, *states.shape[1:])
        return {key: entry.expand(rows, *entry.shape[1:]) for key, entry in states.items()}


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """How actions are refined: `pi(s) + argmax Q(s, pi(s) + d)` over `|d| <= radius` inside the action box.

    Source: Yu & Gao (ICML 2024), Section 6.2, equation 12. Where the text leaves d free, the authors' code has
    |d| <= 1 in actions scaled to [-1, 1], their target critic's first network, and 100 steps; so have the defaults.

    Raises:
        InvalidInput: values that cannot be used.
    """

    method: Method | str = "adr-gd:preset=action-refinement"
    """Any method, or its name with settings. A bare `adr-gd` takes the paper's settings for this task, Table 2(c)."""
    share: float = 0.25
    """Probability, for each environment and step after the warm-up, of refining the action (the paper's epsilon)."""
    radius: float = 1.0
    """Largest change of an entry of the action, which is scaled to [-1, 1]."""
    budget: int | None = None
    """Backward passes a state; None: 100 steps of the method."""
    critic: Literal["target", "online"] = "target"
    """Which of the agent's critics is asked."""
    twins: Twins = "first"
    """Which value counts where the critic is several networks."""
    noisy: bool = False
    """Add the exploration noise to refined actions, too."""

    def __post_init__(self):
        if isinstance(self.method, str):
            named = self.method
            object.__setattr__(
                self,
                "method",
                ActivationDescent.preset("action-refinement") if named == "adr-gd" else method_named(named),
            )
        if not 0 <= self.share <= 1:
            raise InvalidInput(f"The share of refined actions must lie between 0 and 1, got {self.share:g}.")
        if not self.radius >= 0:
            raise InvalidInput(f"The radius must be at least 0, got {self.radius:g}.")
        for name, known in (("critic", ("target", "online")), ("twins", ("first", "min", "mean"))):
            if getattr(self, name) not in known:
                raise InvalidInput(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")


def refine(
    critic: nn.Module,
    observations: Observations,
    actions: Tensor,
    refinement: Refinement | None = None,
    *,
    seed: int = 0,
    rows: Sequence[int] | None = None,
) -> Result:
    """Better actions by the critic's own judgement, all states together.

    Args:
        critic: called as `critic(observations, actions)`, as in `ActionValue`; comes back as it was.
        observations: (batch, …), or a dictionary of such.
        actions: (batch, entries) float32 or float64, scaled to [-1, 1]: what the actor would do.
        refinement: how; its `share`, `critic` and `noisy` are the caller's business.
        seed: of the method's random draws.
        rows: names of the rows, for their random streams.

    Returns:
        A `Result`: `x` the refined actions, inside box and ball exactly; `value` their Q, never below that of `actions`
        by the critic that was asked.

    Raises:
        GatewiseError: actions that cannot be used, or a method that cannot work on a critic.
    """
    refinement = refinement or Refinement()
    assert isinstance(refinement.method, Method)
    if actions.ndim != 2 or actions.abs().max() > 1:
        raise InvalidInput(
            f"Actions must be (batch, entries) scaled to [-1, 1], got {tuple(actions.shape)} with a largest entry of "
            f"{actions.abs().max():.3g}; scale them as the policy's scale_action does."
        )
    network = NetworkView(ActionValue(critic, observations, refinement.twins))
    problem = Problem(
        network,
        Intersection(LinfBall(actions, refinement.radius), Box(-1.0, 1.0)),
        Linear(torch.ones(1, dtype=actions.dtype, device=actions.device)),
    )
    options: dict[str, Any] = {"budget": refinement.budget, "seed": seed, "rows": rows, "progress": False}
    return maximize(problem, refinement.method, actions, **options)


def _rows(observations: Observations) -> int:
    return len(observations if isinstance(observations, Tensor) else next(iter(observations.values())))


def _judges_features(critic: nn.Module) -> bool:
    """Whether this is Stable-Baselines3's own critic: networks that see an action beside the features of its state."""
    policies = sys.modules.get("stable_baselines3.common.policies")
    return policies is not None and type(critic).forward is policies.ContinuousCritic.forward
