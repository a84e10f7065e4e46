"""What Stable-Baselines3 needs to train on Procgen: many games in one simulator, and IMPALA's network.

To be imported where Stable-Baselines3 is installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from gatewise.agents.procgen import Game, spaces_of_a_game
from gatewise.errors import InvalidInput
from gatewise.zoo import ProcgenImpala


class ManyGames(VecEnv):
    """`number` copies of a game in one simulator, which draw their levels by `seed`.

    A copy whose episode ends begins the next at once: the observation that comes with `done` is the new level's first.
    """

    def __init__(self, game: Game, number: int, seed: int):
        self.simulator = game.simulator(number, seed)
        super().__init__(number, *spaces_of_a_game())

    def reset(self) -> np.ndarray:
        """The screens (number, 64, 64, 3) as they stand; a simulator cannot be sent back to its beginning."""
        return self.simulator.observe()[1]["rgb"].copy()

    def step_async(self, actions: np.ndarray) -> None:
        """Begin a step."""
        self.simulator.act(actions.astype(np.int32))

    def step_wait(self):
        """Screens, rewards, ends of episodes and (empty) infos of the step."""
        reward, seen, first = self.simulator.observe()
        return seen["rgb"].copy(), reward.copy(), first.copy(), [{} for _ in range(self.num_envs)]

    def close(self) -> None:
        """End the simulator."""
        self.simulator.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of this, once for each copy asked for."""
        return [getattr(self, attr_name, None) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Refused: copies have no attributes of their own."""
        raise InvalidInput("Copies of a game share one simulator and have no attributes of their own; set Game's.")

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Refused: copies have no methods of their own."""
        raise InvalidInput("Copies of a game share one simulator and have no methods of their own; call `simulator`'s.")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Never."""
        return [False for _ in self._get_indices(indices)]


class ImpalaFeatures(BaseFeaturesExtractor):
    """All of `ProcgenImpala` but its last layer, in bfloat16, from screens (N, 3, 64, 64) between 0 and 1 to (N, 128).

    Drawn by Xavier's rule, which keeps sums of residual branches in scale better than PyTorch's own.
    """

    def __init__(self, observation_space: Any):
        super().__init__(observation_space, ProcgenImpala.features)
        self.trunk = ProcgenImpala().trunk
        for layer in self.trunk.modules():
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.constant_(layer.get_parameter("bias"), 0.0)
        self.trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, observations: Tensor) -> Tensor:
        """(N, 128)."""
        with torch.autocast("cpu", torch.bfloat16):
            features = self.trunk(observations.contiguous(memory_format=torch.channels_last))
        return features.float()


def policy_weights(agent: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of `ProcgenImpala` in that of an agent trained with `ImpalaFeatures` and no further layers."""
    renamed = {"features_extractor.trunk.": "trunk.", "action_net.": "actions."}
    return {
        new + key.removeprefix(old): value.detach().contiguous()
        for old, new in renamed.items()
        for key, value in agent.items()
        if key.startswith(old)
    }
