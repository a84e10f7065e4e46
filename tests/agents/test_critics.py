"""Refined actions: better by the critic's judgement, inside box and ball, the same alone and in a batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gatewise.agents.critics import ActionValue, Refinement, refine
from gatewise.agents.published import PublishedCritic
from gatewise.errors import InvalidInput, UnsupportedNetwork
from gatewise.methods import ActivationDescent, ProjectedGradient

STATES, ENTRIES = 3, 2
METHODS = ["pgd", "adr-gd", "gate-annealing", "cem", "random-search"]


class Critic(nn.Module):
    """Twin critics called as Stable-Baselines3's are."""

    def __init__(self, gate: type[nn.Module] = nn.ReLU):
        super().__init__()
        torch.manual_seed(0)
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(STATES + ENTRIES, 24), gate(), nn.Linear(24, 24), gate(), nn.Linear(24, 1))
            for _ in range(2)
        )

    def forward(self, observations, actions):
        together = torch.cat([observations, actions], 1)
        return tuple(network(together) for network in self.networks)


def states_and_actions(rows: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = torch.Generator().manual_seed(1)
    return torch.randn(rows, STATES, generator=drawn), 1.8 * torch.rand(rows, ENTRIES, generator=drawn) - 0.9


@pytest.mark.parametrize("twins", ["first", "min", "mean"])
@pytest.mark.parametrize("method", METHODS)
def test_the_critic_likes_them_better_and_they_stay_in_box_and_ball(method, twins):
    critic = Critic()
    states, actions = states_and_actions()
    result = refine(critic, states, actions, Refinement(method=method, twins=twins, radius=0.3, budget=20))
    one, two = critic(states, result.x)
    expected = {"first": one, "min": torch.minimum(one, two), "mean": (one + two) / 2}[twins][:, 0]
    torch.testing.assert_close(result.value, expected.detach())
    assert (result.value >= ActionValue(critic, states, twins)(actions)[:, 0]).all()
    assert (result.x.abs() <= 1).all()
    assert ((result.x.double() - actions.double()).abs() <= 0.3).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_state_alone_is_refined_as_in_a_batch(method):
    critic = Critic()
    states, actions = states_and_actions()
    asked = Refinement(method=method, budget=20)
    together = refine(critic, states, actions, asked, seed=3)
    alone = refine(critic, states[2:3], actions[2:3], asked, seed=3, rows=[2])
    torch.testing.assert_close(alone.x, together.x[2:3], rtol=1e-4, atol=1e-5)


def test_radius_0_gives_the_action_back():
    states, actions = states_and_actions()
    assert torch.equal(refine(Critic(), states, actions, Refinement(radius=0)).x, actions)


def test_the_best_action_of_a_small_critic_is_found():
    critic = Critic()
    states, actions = states_and_actions(4)
    line = torch.linspace(-1, 1, 201)
    grid = torch.cartesian_prod(line, line)
    best = torch.stack([ActionValue(critic, state[None], "min")(grid).max() for state in states])
    asked = Refinement(method="restarts:member=cem,times=4", radius=2.0, budget=1200, twins="min")
    result = refine(critic, states, actions, asked)
    assert (result.value >= best - 2e-3 * best.abs().clamp(min=1)).all()


def test_the_critic_comes_back_as_it_was():
    critic = Critic().train()
    critic.networks[1].eval()
    flags = [part.training for part in critic.modules()]
    states, actions = states_and_actions()
    refine(critic, states, actions, Refinement(budget=10))
    assert [part.training for part in critic.modules()] == flags
    assert all(parameter.requires_grad and parameter.grad is None for parameter in critic.parameters())


def test_only_gate_methods_need_gates():
    states, actions = states_and_actions()
    critic = Critic(nn.Tanh)
    before = critic(states, actions)[0][:, 0]
    assert (refine(critic, states, actions, Refinement(method="pgd", budget=20)).value > before).all()
    with pytest.raises(InvalidInput, match=r"no elementwise gate .* use pgd"):
        refine(critic, states, actions, Refinement(method="adr-gd", budget=20))


def test_a_method_that_runs_copies_of_rows_is_told_to_take_one_state_at_a_time():
    states, actions = states_and_actions()
    asked = Refinement(method="adr-gd:preset=action-refinement,exact_norms=true", budget=4)
    with pytest.raises(UnsupportedNetwork, match="one state at a time"):
        refine(Critic(), states, actions, asked)
    assert refine(Critic(), states[:1], actions[:1], asked).backwards_per_row == 4


def test_where_the_first_network_counts_the_others_are_not_run():
    networks = [nn.Sequential(nn.Linear(STATES + ENTRIES, 24), nn.ReLU(), nn.Linear(24, 1)) for _ in range(2)]
    states, actions = states_and_actions()
    both, alone = (
        refine(PublishedCritic(n).eval(), states, actions, Refinement(budget=20)) for n in (networks, networks[:1])
    )
    assert torch.equal(both.x, alone.x)
    assert torch.equal(both.diagnostics["agreement"][:-1], alone.diagnostics["agreement"][:-1])


def test_dictionaries_of_observations():
    class OfTwo(nn.Module):
        critic = Critic()

        def forward(self, observations, actions):
            return self.critic(torch.cat([observations["a"], observations["b"]], 1), actions)

    states, actions = states_and_actions()
    asked = Refinement(method="pgd", budget=10)
    parts = {"a": states[:, :1], "b": states[:, 1:]}
    assert torch.equal(refine(OfTwo(), parts, actions, asked).x, refine(Critic(), states, actions, asked).x)


def test_a_bare_adr_gd_takes_the_settings_of_table_2c():
    assert Refinement().method == Refinement(method="adr-gd").method == ActivationDescent.preset("action-refinement")
    assert Refinement(method="adr-gd:step_size=1").method == ActivationDescent(step_size=1.0)
    assert Refinement(method=ProjectedGradient()).method == ProjectedGradient()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"share": 1.5}, "between 0 and 1"),
        ({"radius": -1.0}, "at least 0"),
        ({"radius": float("nan")}, "at least 0"),
        ({"critic": "both"}, "target, online"),
        ({"twins": "max"}, "first, min, mean"),
        ({"method": "pdg"}, "did you mean"),
    ],
)
def test_settings_that_cannot_be_used(settings, said):
    with pytest.raises(InvalidInput, match=said):
        Refinement(**settings)


def test_actions_that_are_not_scaled_are_refused():
    states, actions = states_and_actions()
    with pytest.raises(InvalidInput, match="scaled to"):
        refine(Critic(), states, 3 * actions)


def test_what_a_critic_sees_of_the_states_is_extracted_once():
    """Stable-Baselines3's own critics, in training mode with dropout before the networks."""
    policies = pytest.importorskip("stable_baselines3.common.policies")
    layers = pytest.importorskip("stable_baselines3.common.torch_layers")
    spaces = pytest.importorskip("gymnasium").spaces
    seen, allowed = spaces.Box(-9, 9, (STATES,)), spaces.Box(-1, 1, (ENTRIES,))
    torch.manual_seed(0)
    extractor = layers.FlattenExtractor(seen)
    extractor.flatten = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(STATES, 4), nn.ReLU())
    critic = policies.ContinuousCritic(seen, allowed, [24], extractor, 4).train()
    states, actions = states_and_actions()
    runs: list[int] = []
    extractor.register_forward_hook(lambda *_: runs.append(1))
    result = refine(critic, states, actions, Refinement(method="pgd", twins="min", budget=10))
    assert len(runs) == 1
    assert all(part.training for part in critic.modules())
    critic.eval()
    torch.testing.assert_close(result.value, torch.minimum(*critic(states, result.x))[:, 0].detach())
