"""Policies as networks: from observations to logits, values or actions, whoever made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gatewise.agents.extras import gymnasium, stable_baselines
from gatewise.agents.published import read_agent
from gatewise.errors import InvalidInput
from gatewise.readers import read_model
from gatewise.readers.paths import require_file

ALGORITHMS = ("a2c", "ddpg", "dqn", "ppo", "sac", "td3")
_WAYS = f"ALGORITHM:FILE.zip ({', '.join(ALGORITHMS)}), a state dict FILE.pt of actor and critic, or MODULE:CALLABLE"


class Policy:
    """A deterministic policy in an environment.

    Args:
        network: observations (batch, …) to logits or values (batch, actions) where `space` is discrete, else to actions
            (batch, entries), scaled to [-1, 1] where `is_scaled`.
        space: the environment's action space, discrete or a box.
        is_scaled: whether continuous actions come out between -1 and 1 for low and high.
        pixels: observations are images of bytes; the network gets them as numbers between 0 and 1.
        critic: of continuous actions scaled to [-1, 1], called with observations and actions, if there is one.
    """

    def __init__(
        self, network: nn.Module, space: Any, *, is_scaled: bool, pixels: bool, critic: nn.Module | None = None
    ):
        self.network, self.space, self.pixels, self.critic = network, space, pixels, critic
        self.is_discrete = isinstance(space, gymnasium().spaces.Discrete)
        self.is_scaled = is_scaled

    def inputs(self, observations: np.ndarray) -> Tensor:
        """What the network is given: float32, bytes divided by 255."""
        given = torch.from_numpy(np.ascontiguousarray(observations)).float()
        return given / 255 if self.pixels else given

    def actions(self, outputs: Tensor) -> np.ndarray:
        """What the environment is given for the network's outputs: the likeliest action, or one inside the box."""
        if self.is_discrete:
            return outputs.argmax(1).numpy() + int(self.space.start)
        given = outputs.double().numpy().reshape(-1, *self.space.shape)
        low, high = self.space.low, self.space.high
        if self.is_scaled:
            given = low + (given + 1) / 2 * (high - low)
        return np.clip(given, low, high).astype(self.space.dtype)

    def scaled(self, outputs: Tensor) -> Tensor:
        """Continuous actions between -1 for low and 1 for high."""
        if self.is_scaled:
            return outputs.clamp(-1, 1)
        low, high = (torch.from_numpy(edge).flatten() for edge in (self.space.low, self.space.high))
        return (2 * (outputs - low) / (high - low) - 1).clamp(-1, 1)


def read_policy(name: str, environment: Any, weights: str | None = None) -> Policy:
    """The policy that `name` means, for that environment.

    Args:
        name: `ppo:agent.zip` (a file of Stable-Baselines3, which is a program: open only those you trust); a state dict
            `.pt` or `.safetensors` of actor and critic; or `module:callable`, called without arguments, for a module
            from observations (images as numbers between 0 and 1) to logits or actions in the environment's units.
        environment: where it plays; its spaces are what the policy's are held against.
        weights: a state dict for the last of them.

    Raises:
        InvalidInput: whatever is wrong, as one sentence.
    """
    space, seen = environment.action_space, environment.observation_space
    spaces = gymnasium().spaces
    if not isinstance(space, spaces.Discrete | spaces.Box):
        raise InvalidInput(
            f"Policies with actions from {type(space).__name__} are not supported; Discrete and Box are."
        )
    if not isinstance(seen, spaces.Box):
        raise InvalidInput(f"Observations from {type(seen).__name__} are not supported; they must come from a Box.")
    pixels = seen.dtype == np.uint8
    algorithm, _, file = name.partition(":")
    if file.endswith(".zip"):
        if algorithm not in ALGORITHMS:
            raise InvalidInput(f"There is no algorithm {algorithm!r}; name the policy as {_WAYS}.")
        policy = _from_stable_baselines(algorithm, file, space, pixels)
    elif Path(name).suffix in (".pt", ".pth", ".safetensors"):
        actor, critic = read_agent(name)
        policy = Policy(actor, space, is_scaled=True, pixels=pixels, critic=critic)
    elif ":" in name:
        policy = Policy(read_model(name, weights), space, is_scaled=False, pixels=pixels)
    else:
        raise InvalidInput(f"{name!r} is not a policy; name one as {_WAYS}.")
    _try(policy, seen, name)
    return policy


class OfStableBaselines(nn.Module):
    """The deterministic part of a Stable-Baselines3 policy: observations to logits, values or actions.

    `factor` multiplies the observations first: 255 where the policy divides pixels by that.
    """

    def __init__(self, policy: nn.Module, factor: float = 1.0):
        super().__init__()
        self.policy, self.factor = policy, factor
        self.training = False  # the view puts the policy in evaluation mode, and back

    def forward(self, observations: Tensor) -> Tensor:
        """(batch, actions or entries)."""
        policy: Any = self.policy
        seen = observations * self.factor if self.factor != 1 else observations
        if seen.ndim == 4 and seen.shape[1:] != policy.observation_space.shape:
            seen = seen.permute(0, 3, 1, 2)
        if hasattr(policy, "q_net"):
            return policy.q_net(seen)
        if hasattr(policy, "action_net"):
            from stable_baselines3.common.policies import BaseModel

            features = BaseModel.extract_features(policy, seen, policy.pi_features_extractor)
            return policy.action_net(policy.mlp_extractor.forward_actor(features))
        actor = policy.actor
        if hasattr(actor, "latent_pi"):
            return actor.mu(actor.latent_pi(actor.extract_features(seen, actor.features_extractor))).tanh()
        return actor(seen)


def _from_stable_baselines(algorithm: str, file: str, space: Any, pixels: bool) -> Policy:
    package = stable_baselines()
    require_file(file, "agent")
    try:
        agent = getattr(package, algorithm.upper()).load(file, device="cpu")
    except Exception as problem:  # whatever its unpickling raises
        said = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise InvalidInput(f"{file} is not a saved {algorithm.upper()} agent: {said.rstrip('.')}.") from problem
    if type(agent.action_space) is not type(space) or agent.action_space.shape != space.shape:
        raise InvalidInput(
            f"The agent {file} acts in {agent.action_space}, the environment takes {space}; name the environment that "
            "it was trained in."
        )
    normalises = pixels and agent.policy.normalize_images
    network = OfStableBaselines(agent.policy, 255.0 if normalises else 1.0)
    critic = getattr(agent.policy, "critic", None)
    return Policy(network, space, is_scaled=agent.policy.squash_output, pixels=pixels, critic=critic)


def _try(policy: Policy, seen: Any, name: str) -> None:
    """One forward pass, to learn whether the policy fits the environment."""
    probe = policy.inputs(np.zeros((2, *seen.shape), seen.dtype))
    wanted = int(policy.space.n) if policy.is_discrete else int(np.prod(policy.space.shape))
    try:
        with torch.no_grad():
            outputs = policy.network(probe)
    except (RuntimeError, ValueError, TypeError) as problem:
        raise InvalidInput(
            f"The policy {name} cannot take observations of shape {seen.shape}: {str(problem).splitlines()[0]}."
        ) from problem
    if not isinstance(outputs, Tensor) or outputs.shape != (2, wanted):
        shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InvalidInput(f"The policy {name} returned {shape} for 2 observations; it must return (2, {wanted}).")
