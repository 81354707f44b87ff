"""Settings for all tests: one thread, a fixed hypothesis profile, a cache of the test run's own."""

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("multispike", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("multispike")
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Decoded data of the tests stays in their own folder."""
    os.environ["MULTISPIKE_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real CIFAR and event recordings; tests that need it skip without it."""
    folder = Path(os.environ.get("MULTISPIKE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder} (set MULTISPIKE_DATA)")
    return folder
