import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    folder = os.environ.get("GATEWISE_DATA")
    if not folder:
        pytest.skip("GATEWISE_DATA is not set: no published networks and images here")
    return Path(folder)
