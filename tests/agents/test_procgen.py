"""Procgen: what is said where it is missing; policies on saved screens; where it is there, play and training."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

gymnasium = pytest.importorskip("gymnasium")
pytest.importorskip("stable_baselines3")

from stable_baselines3.common.policies import ActorCriticCnnPolicy  # noqa: E402

from gatewise import zoo  # noqa: E402
from gatewise.agents.environments import make_environment, play  # noqa: E402
from gatewise.agents.policies import Policy  # noqa: E402
from gatewise.agents.procgen import Game  # noqa: E402
from gatewise.agents.procgen_training import ImpalaFeatures, ManyGames, policy_weights  # noqa: E402
from gatewise.applications.policy_attack import PolicyAttack  # noqa: E402
from gatewise.catalogue import method_named  # noqa: E402
from gatewise.cli import main  # noqa: E402
from gatewise.errors import InvalidInput  # noqa: E402
from gatewise.readers.weights import read_weights  # noqa: E402

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
SCREENS = np.load(Path(__file__).with_name("procgen_frames.npz"))  # three of each game, twelve steps into levels 0 to 2
GAMES = ("fruitbot", "coinrun")
ACTIONS = gymnasium.spaces.Discrete(15)
with_procgen = pytest.mark.skipif(
    importlib.util.find_spec("procgen") is None, reason="procgen is not installed: make procgen"
)


def policy_of(game: str) -> Policy:
    weights = read_weights(EXPERIMENTS / "weights" / f"procgen_{game}.safetensors")
    return Policy(zoo.build("procgen-impala", weights), ACTIONS, is_scaled=False, pixels=True)


def test_without_the_package_one_sentence_says_how_to_get_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "procgen", None)
    flags = ["--policy", "zoo:procgen-impala", "--env", "procgen:fruitbot", "--out", str(tmp_path / "found")]
    assert main(["attack-policy", *flags]) == 2
    said = capsys.readouterr().err
    assert "Procgen is not installed" in said
    assert "make procgen" in said
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("procgen:coinrun?level=3", "has an option that there is not"),
        ("procgen:coinrun?levels=few", "whole numbers"),
        ("procgen:coinrun?levels=0", "levels >= 1"),
        ("procgen:coinrun?start=-1", "start >= 0"),
        ("procgen:coinrun?mode=extreme", "easy or hard"),
    ],
)
def test_names_that_mean_no_game(name, said):
    with pytest.raises(InvalidInput, match=said):
        make_environment(name)


def test_the_weights_of_an_agent_are_those_of_the_network():
    screens = gymnasium.spaces.Box(0, 255, (3, 64, 64), np.uint8)
    network = {"features_extractor_class": ImpalaFeatures, "net_arch": [], "ortho_init": False}
    agent = ActorCriticCnnPolicy(screens, ACTIONS, lambda _: 1e-3, **network)
    weights = policy_weights(agent.state_dict())
    seen = torch.from_numpy(SCREENS["coinrun"])
    with torch.no_grad():
        asked = agent.get_distribution(seen.permute(0, 3, 1, 2)).distribution.logits
        logits = zoo.build("procgen-impala", weights)(seen / 255)
    torch.testing.assert_close(logits.log_softmax(1), asked, rtol=0.05, atol=0.05)  # training is in bfloat16


@pytest.mark.parametrize("game", GAMES)
@pytest.mark.parametrize("method", ["pgd", "adr-gd:preset=policy-attack", "gate-annealing"])
def test_trained_policies_are_attacked_inside_the_ball(game, method):
    screens, radius = torch.from_numpy(SCREENS[game]).float() / 255, 5 / 255
    attack = PolicyAttack(policy_of(game), method_named(method), radius, "ce", bounds=(0.0, 1.0), budget=12)
    found, outputs = attack(screens, [0, 1, 2])
    assert ((found.double() - screens.double()).abs() <= radius).all()
    assert ((found >= 0) & (found <= 1)).all()
    with torch.no_grad():
        clean = attack.policy.network(screens)
        torch.testing.assert_close(outputs, attack.policy.network(found))
    chosen = clean.argmax(1)
    assert (cross_entropy(outputs, chosen, reduction="none") > cross_entropy(clean, chosen, reduction="none")).all()
    assert attack.changed == (outputs.argmax(1) != chosen).double().tolist()
    assert 0 < attack.backwards <= 36
    assert attack.forwards >= attack.backwards


@with_procgen
def test_a_game_that_there_is_not():
    with pytest.raises(InvalidInput, match="it has bigfish"):
        make_environment("procgen:pong")


@with_procgen
@pytest.mark.parametrize("game", GAMES)
def test_the_seed_names_the_level_and_the_course(game):
    def act(observations, episodes):
        return [int(seen.sum()) % 15 for seen in observations]

    name = f"procgen:{game}?levels=3"
    apart, together = (play(name, act, 4, 7, at_once=number, most=60) for number in (1, 4))
    assert apart == together
    assert apart[0] == apart[3]  # 7 and 10 are the same level of three
    world = make_environment(name, render=True)
    first, told = world.reset(seed=8)
    assert told == {"level": 2}
    assert np.array_equal(first, make_environment(f"procgen:{game}?levels=1&start=2").reset(seed=0)[0])
    assert world.render().shape == (512, 512, 3)
    assert world.observation_space.contains(first)
    world.close()


@with_procgen
def test_saved_screens_are_those_of_the_game():
    world = make_environment("procgen:coinrun?levels=50")
    seen, _ = world.reset(seed=0)
    for _ in range(12):
        seen, *_ = world.step(7)
    assert np.array_equal(seen, SCREENS["coinrun"][0])


@with_procgen
def test_many_games_in_one_simulator():
    games = ManyGames(Game("fruitbot", levels=2), 3, seed=0)
    assert games.reset().shape == (3, 64, 64, 3)
    ends = 0
    for _ in range(200):
        screens, rewards, done, infos = games.step(np.array([0, 4, 7]))
        ends += done.sum()
    assert screens.dtype == np.uint8
    assert rewards.shape == done.shape == (3,)
    assert infos == [{}, {}, {}]
    assert ends > 0
    games.close()


def _ran(script: str, *flags: str) -> dict:
    command = [sys.executable, "-W", "ignore", str(EXPERIMENTS / f"{script}.py"), "--quick", *flags]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@with_procgen
def test_training_that_was_interrupted_ends_as_if_it_had_not_been(tmp_path):
    def trained(folder, *steps):
        for last in steps:
            _ran("procgen_policies", "--game", "coinrun", "--steps", last, "--runs", folder, "--weights", folder)
        return read_weights(Path(folder) / "procgen_coinrun_quick.safetensors")

    whole, resumed = trained(str(tmp_path / "one"), "256"), trained(str(tmp_path / "two"), "128", "256")
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


@with_procgen
def test_attacks_on_the_policies_and_nothing_is_run_twice(tmp_path):
    flags = ["--out", str(tmp_path / "figures.json"), "--games", "fruitbot"]
    first = _ran("policy_attacks", *flags, "--pictures", str(tmp_path))
    assert (tmp_path / "fruitbot.gif").is_file()
    assert _ran("policy_attacks", *flags) == first
