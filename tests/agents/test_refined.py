"""Agents of Stable-Baselines3 with refined actions: the plain algorithm where nothing is refined, and its losses."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch

from gatewise.agents.critics import Refinement
from gatewise.errors import InvalidInput

stable_baselines3 = pytest.importorskip("stable_baselines3")

from gatewise.agents import refined as module  # noqa: E402
from gatewise.agents.environments import make_environment  # noqa: E402
from gatewise.agents.refined import Tally, refined  # noqa: E402

DDPG, PPO, SAC, TD3 = (getattr(stable_baselines3, name) for name in ("DDPG", "PPO", "SAC", "TD3"))
QUICK = Refinement(method="pgd", budget=3, share=0.5)


def agent(algorithm, *, refinement=None, environments=1, seed=0, noise=0.1, **more):
    from stable_baselines3.common.noise import NormalActionNoise
    from stable_baselines3.common.vec_env import DummyVecEnv

    world = DummyVecEnv([lambda: make_environment("Pendulum-v1")] * environments)
    more |= {} if refinement is None else {"refinement": refinement}
    more |= {"action_noise": NormalActionNoise(np.zeros(1), np.full(1, noise))} if noise else {}
    settings = {"learning_starts": 30, "batch_size": 16, "buffer_size": 500, "device": "cpu"}
    return algorithm("MlpPolicy", world, policy_kwargs={"net_arch": [16, 16]}, seed=seed, **settings, **more)


def parameters(of):
    return torch.cat([parameter.detach().flatten() for parameter in of.policy.parameters()])


@pytest.mark.parametrize("algorithm", [TD3, SAC])
def test_with_a_share_of_0_training_is_the_plain_algorithms_to_the_bit(algorithm):
    plain = agent(algorithm).learn(90)
    bare = agent(refined(algorithm), refinement=Refinement(share=0.0)).learn(90)
    assert torch.equal(parameters(plain), parameters(bare))
    assert np.array_equal(plain.replay_buffer.actions, bare.replay_buffer.actions)
    assert bare.tally == Tally(steps=60)


@pytest.mark.parametrize("algorithm", [TD3, DDPG, SAC])
def test_refined_actions_are_what_the_critic_likes_and_what_is_stored(algorithm):
    model = agent(refined(algorithm), refinement=Refinement(method="pgd", budget=10, share=1.0, radius=0.2))
    model.learn(31)
    model._last_obs = model.env.reset()
    states = torch.from_numpy(model._last_obs)
    with torch.no_grad():
        plain = model.policy._predict(states, deterministic=True)
        action, stored = model._sample_action(0, model.action_noise, 1)
        before, after = (model.policy.critic_target(states, a)[0] for a in (plain, torch.from_numpy(stored)))
    assert after > before
    assert np.abs(stored - plain.numpy()).max() <= 0.2 + 1e-6  # no noise on top
    assert np.allclose(action, 2 * stored)


def test_rows_are_refined_together_and_by_their_own_coins(monkeypatch):
    model = agent(refined(TD3), refinement=QUICK, environments=4)
    asked = []
    original = module.refine
    monkeypatch.setattr(module, "refine", lambda *a, **k: asked.append(len(a[2])) or original(*a, **k))
    model.learn(400)
    assert sum(asked) == model.tally.refined
    assert len(asked) == model.tally.calls
    assert len(set(asked)) > 2
    assert 0.35 < model.tally.refined / model.tally.steps < 0.65
    assert model.tally.backwards == 3 * model.tally.refined
    assert np.abs(model.replay_buffer.actions).max() <= 1


def test_noise_on_refined_actions_is_a_switch():
    stored = {}
    for noisy in (False, True):
        asked = Refinement(method="pgd", budget=3, share=1.0, noisy=noisy)
        model = agent(refined(TD3), refinement=asked, noise=0.3, environments=2)
        model.learn(60)
        model._last_obs = np.ones((2, 3), dtype=np.float32)
        model.num_timesteps = 60
        stored[noisy] = np.stack([model._sample_action(0, model.action_noise, 2)[1] for _ in range(20)])
    assert stored[False].std(0).max() == 0
    assert stored[True].std(0).min() > 0
    assert np.abs(stored[True]).max() <= 1


def test_the_logger_gets_its_rows(tmp_path):
    from stable_baselines3.common.logger import configure

    model = agent(refined(TD3), refinement=QUICK)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(401, log_interval=1)
    model.logger.close()
    rows = (tmp_path / "progress.csv").read_text().splitlines()
    names = rows[0].split(",")
    told = dict(zip(names, rows[-1].split(","), strict=True))
    assert 0.3 < float(told["refinement/share"]) < 0.7
    assert float(told["refinement/q_gain"]) >= 0
    assert float(told["refinement/backwards"]) == 3
    assert float(told["refinement/seconds"]) > 0


@pytest.mark.parametrize("algorithm", [TD3, DDPG, SAC])
def test_saving_and_loading(algorithm, tmp_path):
    model = agent(refined(algorithm), refinement=QUICK).learn(60)
    model.save(tmp_path / "agent.zip")
    again = refined(algorithm).load(tmp_path / "agent.zip", device="cpu")
    assert again.refinement == QUICK
    assert again.tally == model.tally
    assert torch.equal(parameters(again), parameters(model))
    plain = algorithm.load(tmp_path / "agent.zip", device="cpu")  # as any other reader would
    assert torch.equal(parameters(plain), parameters(model))
    assert getattr(module, f"Refined{algorithm.__name__}") is refined(algorithm)


def test_an_algorithm_without_a_critic_of_actions_is_refused():
    with pytest.raises(InvalidInput, match="PPO has no critic"):
        refined(PPO)


def test_the_extra_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(InvalidInput, match=r"install gatewise\[rl\]"):
        module.__getattr__("RefinedTD3")
