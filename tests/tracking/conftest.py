"""A fresh, real MLflow store for every test, copied from one that was made once."""

import shutil
from pathlib import Path

import pytest

from sigma_ray.mlflow_runs import Runs
from sigma_ray.tracking import Ledger


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database; making one costs seconds."""
    file = tmp_path_factory.mktemp("template") / "mlflow.db"
    Runs(f"sqlite:///{file}", "none", file.parent).client.search_experiments()
    return file


@pytest.fixture
def uri(template: Path, tmp_path: Path) -> str:
    """A fresh store of this test."""
    shutil.copy(template, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture
def ledger(uri: str, tmp_path: Path) -> Ledger:
    """A ledger on the fresh store."""
    return Ledger(uri, "study", tmp_path / "spool")
