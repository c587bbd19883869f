import os
from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory):
    """Tables that tests build go into a folder of their own, and stay for all tests of the session."""
    before = os.environ.get("SIGMA_RAY_CACHE")
    os.environ["SIGMA_RAY_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["SIGMA_RAY_CACHE"]
    else:
        os.environ["SIGMA_RAY_CACHE"] = before


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data and weights, where this machine has them."""
    if not SHARED.is_dir():
        pytest.skip(f"needs real data and weights in {SHARED}")
    return SHARED
