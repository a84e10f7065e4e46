"""What every test starts from: one torch thread, a seeded global generator, and an untouched default dtype."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
# Examples are the same at every run; nothing is stored next to the sources.
settings.register_profile("gatewise", deadline=None, derandomize=True, database=None, max_examples=40)
settings.load_profile("gatewise")


@pytest.fixture(autouse=True)
def _same_world():
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    yield
    assert torch.get_default_dtype() is before, "a test or the library changed torch's default dtype"


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The published networks and images; a test that asks for them is skipped where they are not."""
    folder = os.environ.get("GATEWISE_DATA")
    if not folder:
        pytest.skip("GATEWISE_DATA is not set: no published networks and images here")
    return Path(folder).absolute()
