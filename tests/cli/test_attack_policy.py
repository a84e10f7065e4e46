"""`gatewise attack-policy`: paired episodes, attacks that stay in their ball, pictures, and bad input."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

pytest.importorskip("gymnasium")

from gatewise.agents.environments import make_environment
from gatewise.agents.policies import Policy, read_policy
from gatewise.applications.policy_attack import PolicyAttack
from gatewise.cli import main
from gatewise.methods import ProjectedGradient

BALANCE = """
import torch
from torch import nn

def policy():
    '''Pushes the cart toward where the pole leans.'''
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with torch.no_grad():
        for part in (network[0], network[2]):
            part.weight.zero_()
            part.bias.zero_()
        network[0].weight[0] = torch.tensor([0.1, 0.2, 1.0, 1.0])
        network[0].weight[1] = -network[0].weight[0]
        network[2].weight[1, 0] = network[2].weight[0, 1] = 1.0
    return network.eval()
"""
QUICK = ["--episodes", "3", "--budget", "4", "--frames", "0"]


@pytest.fixture
def cartpole(tmp_path, monkeypatch):
    (tmp_path / "balancing.py").write_text(BALANCE)
    monkeypatch.chdir(tmp_path)
    return ["attack-policy", "--policy", "balancing:policy", "--env", "CartPole-v1", *QUICK]


def test_attacked_play_beside_clean_play_from_the_same_starts(cartpole, tmp_path, capsys):
    flags = ["--radius", "0.5", "--method", "random", "--method", "pgd", "--method", "adr-gd"]
    assert main([*cartpole, *flags, "--out", "found"]) == 0
    told = json.loads((tmp_path / "found" / "summary.json").read_text())
    assert list(told["attacks"]) == ["random 0.5", "pgd 0.5", "adr-gd 0.5"]
    assert min(told["clean"]["returns"]) > 150
    for attack in told["attacks"].values():
        assert len(attack["returns"]) == 3
        falls = [a - b for a, b in zip(told["clean"]["returns"], attack["returns"], strict=True)]
        assert attack["fall"]["mean"] == pytest.approx(sum(falls) / 3)
        assert attack["steps"] == sum(attack["returns"])  # CartPole pays 1 a step
    pgd, chance = told["attacks"]["pgd 0.5"], told["attacks"]["random 0.5"]
    assert pgd["mean"] < 30
    assert pgd["success"] > chance["success"] > 0
    assert chance["backwards_per_step"] == 0 < pgd["backwards_per_step"] <= 4
    assert "pgd 0.5" in capsys.readouterr().out
    assert main([*cartpole, *flags, "--environments", "2", "--out", "apart"]) == 0
    apart = json.loads((tmp_path / "apart" / "summary.json").read_text())
    assert [one["returns"] for one in apart["attacks"].values()] == [one["returns"] for one in told["attacks"].values()]


def test_radius_0_changes_nothing(cartpole, tmp_path):
    assert main([*cartpole, "--radius", "0", "--method", "pgd", "--out", "found"]) == 0
    told = json.loads((tmp_path / "found" / "summary.json").read_text())
    assert told["attacks"]["pgd 0"]["returns"] == told["clean"]["returns"]
    assert told["attacks"]["pgd 0"]["success"] == 0


def test_pictures_of_play(cartpole, tmp_path):
    flags = ["--radius", "0.5", "--method", "pgd", "--frames", "5", "--episodes", "1"]
    assert main([*cartpole, *flags, "--out", "found"]) == 0
    assert (tmp_path / "found" / "strip.png").read_bytes().startswith(b"\x89PNG")
    from PIL import Image

    with Image.open(tmp_path / "found" / "play.gif") as moving:
        assert moving.n_frames == 5


@pytest.mark.parametrize("loss", ["distance", "q-gap"])
def test_continuous_actions_of_a_published_agent(data_folder, loss):
    world = make_environment("Pendulum-v1")
    policy = read_policy(str(data_folder / "models/rl/ddpg_pendulum.pt"), world)
    torch.manual_seed(0)
    seen = torch.randn(6, 3)
    attack = PolicyAttack(policy, ProjectedGradient(), 0.1, loss, budget=10)  # type: ignore[arg-type]
    moved, outputs = attack(seen, list(range(6)))
    assert (moved - seen).abs().max() <= 0.1
    with torch.no_grad():
        clean = policy.network(seen)
        values = [policy.critic(seen, policy.scaled(y))[0] for y in (clean, outputs)]
    if loss == "q-gap":
        assert (values[1] <= values[0] + 1e-5).all()
        assert values[1].mean() < values[0].mean()
    else:
        assert (outputs - clean).abs().max() > 0.1
        assert len(attack.moved) == 6


def test_deviation_scales_every_entry_by_itself():
    policy = Policy(nn.Linear(4, 2).eval(), make_environment("CartPole-v1").action_space, is_scaled=False, pixels=False)
    unit = torch.tensor([0.0, 1.0, 2.0, 0.5])
    attack = PolicyAttack(policy, ProjectedGradient(), 0.3, "margin", unit=unit, budget=5, full_budget=True)
    seen = torch.randn(8, 4)
    change = (attack(seen, list(range(8)))[0] - seen).abs().amax(0)
    torch.testing.assert_close(change, 0.3 * unit)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--env", "Nope-v1"], "cannot be made"),
        (["--env", "Pendulum-v1"], "cannot take observations"),
        (["--policy", "balancing"], "not a policy"),
        (["--loss", "distance"], "continuous"),
        (["--unit", "deviation", "--norm", "l2"], "linf only"),
        (["--method", "gpd"], "did you mean"),
        (["--radius", "-1"], "at least 0"),
    ],
)
def test_bad_input_gets_one_sentence(cartpole, tmp_path, capsys, flags, said):
    assert main([*cartpole, "--out", "found", *flags]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "found").exists()


def test_weights_may_be_given(cartpole, tmp_path):
    save_file(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).state_dict(), tmp_path / "weak.safetensors")
    flags = ["--weights", "weak.safetensors", "--radius", "0.1", "--method", "random", "--episodes", "1"]
    assert main([*cartpole, *flags, "--out", "found"]) == 0


def test_where_nothing_can_be_drawn_it_is_said_and_the_rest_is_done(cartpole, tmp_path, monkeypatch):
    from gatewise.applications import policy_attack
    from gatewise.errors import InvalidInput

    def refuse(name):
        raise InvalidInput(f"{name} cannot be drawn here.")

    monkeypatch.setattr(policy_attack, "require_drawing", refuse)
    flags = ["--radius", "0.5", "--method", "random", "--frames", "5", "--episodes", "1", "--out", "found"]
    with pytest.warns(UserWarning, match="No pictures"):
        assert main([*cartpole, *flags]) == 0
    assert [path.name for path in (tmp_path / "found").iterdir()] == ["summary.json"]
