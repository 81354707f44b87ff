"""Settings for all tests: one thread, a fixed hypothesis profile, a cache of the test run's own."""

import os
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # of processes too: two runners share two cores
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # else a pool of processes that load torch

import pytest
import torch
from hypothesis import settings

settings.register_profile("multispike", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("multispike")
torch.set_num_threads(1)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Decoded data and compiled kernels stay in one folder of the test run, of all its runners."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    os.environ["MULTISPIKE_CACHE"] = str(base / "cache")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with real CIFAR and event recordings; tests that need it skip without it."""
    folder = Path(os.environ.get("MULTISPIKE_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no data folder at {folder} (set MULTISPIKE_DATA)")
    return folder
