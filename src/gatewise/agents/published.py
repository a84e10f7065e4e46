"""Actor and critic from the state dict of a Stable-Baselines3 policy, without Stable-Baselines3.

Read are `actor.mu.*` (DDPG and TD3) or `actor.latent_pi.*` with `actor.mu` (SAC), and `critic.qf0.*`, `critic.qf1.*`:
layers of any width and depth with ReLU between them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from gatewise.errors import InvalidInput
from gatewise.readers.weights import read_weights


class PublishedActor(nn.Module):
    """Observations (batch, entries) to the action that it would do, scaled to [-1, 1]: `tanh` of linear layers."""

    def __init__(self, layers: nn.Sequential):
        super().__init__()
        self.layers = layers

    def forward(self, observations: Tensor) -> Tensor:
        """(batch, entries of the action)."""
        return self.layers(observations).tanh()


class PublishedCritic(nn.Module):
    """Observations (batch, …) and actions (batch, …) scaled to [-1, 1] to values, one (batch, 1) a network."""

    def __init__(self, networks: list[nn.Sequential]):
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, observations: Tensor, actions: Tensor) -> tuple[Tensor, ...]:
        """The values of each of the networks."""
        together = torch.cat([observations, actions], 1)
        return tuple(network(together) for network in self.networks)

    def q1_forward(self, observations: Tensor, actions: Tensor) -> Tensor:
        """The first network's values, (batch, 1)."""
        return self.networks[0](torch.cat([observations, actions], 1))


def read_agent(path: str | Path) -> tuple[PublishedActor, PublishedCritic]:
    """Actor and critic from a `.pt` or `.safetensors` file, in evaluation mode, on the CPU.

    Raises:
        InvalidInput: a file that cannot be read, or weights that are not of linear layers under the names above.
    """
    weights = read_weights(path)
    trunk = _layers(weights, "actor.latent_pi.", path, missing_is_fine=True)
    head = _layers(weights, "actor.mu.", path)
    actor = PublishedActor(nn.Sequential(*trunk, nn.ReLU(), *head) if len(trunk) else head)
    names = sorted({found[0] for key in weights if (found := re.match(r"critic\.qf\d+\.", key))})
    critic = PublishedCritic([_layers(weights, name, path) for name in names or ["critic.qf0."]])
    return actor.eval(), critic.eval()


def _layers(
    weights: Mapping[str, Tensor], prefix: str, path: str | Path, *, missing_is_fine: bool = False
) -> nn.Sequential:
    """The linear layers under a prefix, in the order of their numbers, with ReLU between them."""
    numbers = sorted(
        int(key[len(prefix) :].split(".")[0]) for key in weights if re.match(rf"{prefix}\d+\.weight$", key)
    )
    names = [f"{prefix}{number}." for number in numbers] or ([prefix] if f"{prefix}weight" in weights else [])
    if not names and not missing_is_fine:
        raise InvalidInput(f"{path} has no layers {prefix}*; give the state dict of a Stable-Baselines3 policy.")
    parts: list[nn.Module] = []
    for name in names:
        weight, bias = weights[f"{name}weight"], weights.get(f"{name}bias")
        if weight.ndim != 2 or bias is None:
            raise InvalidInput(f"{path} holds at {name}weight no linear layer with a bias; only those are read.")
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.load_state_dict({"weight": weight, "bias": bias})
        parts += [layer, nn.ReLU()]
    return nn.Sequential(*parts[:-1])
