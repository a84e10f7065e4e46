"""What every test starts from: one torch thread, a seeded global generator, and an untouched default dtype."""

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
