"""A quiet MLflow client, and files from its store. MLflow is imported here alone, and only when it is needed."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import url2pathname

if TYPE_CHECKING:
    from mlflow import MlflowClient


def connect(uri: str) -> "MlflowClient":
    """A quiet client that fails fast, because the spool does the retrying; creates a missing sqlite store."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def download(client: "MlflowClient", run_id: str, artifact_path: str, folder: Path) -> Path:
    """Local path of an artifact; what lies in a local store is used in place, else a copy is put below `folder`.

    Raises:
        FileNotFoundError: a local store does not have it.
    """
    place = urlsplit(client.get_run(run_id).info.artifact_uri or "")
    if place.scheme in ("", "file"):
        local = Path(url2pathname(place.path)) / artifact_path
        if not local.exists():
            raise FileNotFoundError(f"MLflow run {run_id} has no artifact {artifact_path!r} at {local}.")
        return local
    target = folder / run_id
    target.mkdir(parents=True, exist_ok=True)
    return Path(client.download_artifacts(run_id, artifact_path, str(target)))
