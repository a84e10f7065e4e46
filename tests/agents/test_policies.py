"""Policies as networks say what Stable-Baselines3's own `predict` says; published agents are read as they were."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from gatewise.agents.published import read_agent
from gatewise.errors import InvalidInput

stable_baselines3 = pytest.importorskip("stable_baselines3")

from gatewise.agents.environments import make_environment, play  # noqa: E402
from gatewise.agents.policies import read_policy  # noqa: E402

BUFFER = {"buffer_size": 10}


def small():
    return {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0}  # which some algorithms write into


@pytest.mark.parametrize(
    ("algorithm", "environment", "more"),
    [
        ("PPO", "CartPole-v1", {"n_steps": 8, "batch_size": 8}),
        ("A2C", "Pendulum-v1", {}),
        ("DQN", "CartPole-v1", BUFFER),
        ("TD3", "Pendulum-v1", BUFFER),
        ("SAC", "Pendulum-v1", BUFFER),
    ],
)
def test_a_saved_agent_acts_as_it_says_itself(tmp_path, algorithm, environment, more):
    agent = getattr(stable_baselines3, algorithm)("MlpPolicy", environment, **small(), **more)
    agent.save(tmp_path / "agent.zip")
    world = make_environment(environment)
    policy = read_policy(f"{algorithm.lower()}:{tmp_path}/agent.zip", world)
    seen = np.random.default_rng(0).normal(size=(6, *world.observation_space.shape)).astype(np.float32)
    with torch.no_grad():
        actions = policy.actions(policy.network(policy.inputs(seen)))
    np.testing.assert_allclose(actions, agent.predict(seen, deterministic=True)[0], rtol=1e-5, atol=1e-6)


def test_pixels_are_numbers_between_0_and_1_for_an_agent_of_images(tmp_path):
    import gymnasium

    class Screen(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 255, (36, 36, 3), np.uint8)
        action_space = gymnasium.spaces.Discrete(3)

        def reset(self, *, seed=None, options=None):
            return self.observation_space.sample(), {}

    agent = stable_baselines3.PPO("CnnPolicy", Screen(), n_steps=8, batch_size=8, device="cpu", seed=0)
    agent.save(tmp_path / "agent.zip")
    policy = read_policy(f"ppo:{tmp_path}/agent.zip", Screen())
    seen = np.random.default_rng(0).integers(0, 256, (5, 36, 36, 3), dtype=np.uint8)
    inputs = policy.inputs(seen)
    assert inputs.max() <= 1
    with torch.no_grad():
        logits = policy.network(inputs)
        agents = agent.policy.get_distribution(agent.policy.obs_to_tensor(seen)[0]).distribution.logits
    torch.testing.assert_close(logits.log_softmax(1), agents, rtol=1e-4, atol=1e-5)


def test_published_agents_act_and_value(data_folder):
    actor, critic = read_agent(data_folder / "models/rl/sac_hopper.pt")
    states = torch.randn(4, 11)
    actions = actor(states)
    assert actions.shape == (4, 3)
    assert actions.abs().max() <= 1
    assert len(critic(states, actions)) == 2
    assert torch.equal(critic.q1_forward(states, actions), critic(states, actions)[0])


def test_a_published_agent_still_swings_the_pendulum_up(data_folder):
    world = make_environment("Pendulum-v1")
    policy = read_policy(str(data_folder / "models/rl/ddpg_pendulum.pt"), world)

    def act(observations, _):
        with torch.no_grad():
            return policy.actions(policy.network(policy.inputs(observations)))

    rewards = play("Pendulum-v1", act, 10, 0, at_once=10)
    assert [len(one) for one in rewards] == [200] * 10
    assert -200 < np.mean([sum(one) for one in rewards]) < -80


def test_episodes_are_the_same_whoever_plays_beside_them():
    def act(observations, _):
        return np.sin(observations[:, :1]).astype(np.float32)

    assert play("Pendulum-v1", act, 3, 7, at_once=2, most=20) == play("Pendulum-v1", act, 3, 7, most=20)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("agent.zip", "not a policy"),
        ("ppx:agent.zip", "no algorithm"),
        ("ppo:nowhere.zip", "does not exist"),
        ("nothing", "not a policy"),
        ("weights.pt", "does not exist"),
    ],
)
def test_names_that_mean_no_policy(name, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=said):
        read_policy(name, make_environment("CartPole-v1"))


def test_agents_of_another_environment_are_refused(tmp_path):
    agent = stable_baselines3.DQN("MlpPolicy", "CartPole-v1", **small(), **BUFFER)
    agent.save(tmp_path / "agent.zip")
    with pytest.raises(InvalidInput, match="environment that it was trained in"):
        read_policy(f"dqn:{tmp_path}/agent.zip", make_environment("Pendulum-v1"))
    with pytest.raises(InvalidInput, match="cannot take observations"):
        read_policy(f"dqn:{tmp_path}/agent.zip", make_environment("MountainCar-v0", max_episode_steps=3))
    (tmp_path / "broken.zip").write_text("no zip")
    with pytest.raises(InvalidInput, match="not a saved DQN agent"):
        read_policy(f"dqn:{tmp_path}/broken.zip", make_environment("CartPole-v1"))


def test_weights_that_are_no_agent(tmp_path):
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(InvalidInput, match=r"no layers actor\.mu"):
        read_agent(tmp_path / "weights.pt")
