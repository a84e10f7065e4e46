"""A small classifier and images that a command can name, trained once a session."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

MODULE = """
from torch import nn

def network():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10)).eval()

def in_training_mode():
    return network().train()

def smooth():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10)).eval()

def not_a_module():
    return 3
"""


def network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


@pytest.fixture(scope="session")
def trained_weights(tmp_path_factory) -> str:
    """Weights that classify most of scikit-learn's digits."""
    from gatewise.readers import read_images

    torch.manual_seed(0)
    data, module = read_images("digits", count=800), network()
    optimiser = torch.optim.Adam(module.parameters(), lr=1e-2)
    for _ in range(60):
        loss = nn.functional.cross_entropy(module(data.images), data.labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(module.state_dict(), path)
    return str(path)


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty current folder holding a module with callables to name."""
    (tmp_path / "little_networks.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path
