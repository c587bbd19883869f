"""A quiet MLflow client, and what its errors mean. MLflow is imported only when it is needed."""

import logging
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING
from urllib.parse import quote

from sigma_ray.redaction import redact
from sigma_ray.tracker_uri import database_file

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUNS_PER_CALL = 1000
FINAL = ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS")
"""Codes in MLflow's own answers; a proxy's plain 400 or 404 becomes BAD_REQUEST or ENDPOINT_NOT_FOUND."""


def connect(uri: str) -> "MlflowClient":
    """A quiet client that fails fast, because the spool does the retrying; creates a missing sqlite store."""
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # with its password
    # Repeating a request whose answer was lost would create a run twice; the spool looks first.
    os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = "0"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def is_final(error: Exception) -> bool:
    """Whether MLflow itself said that it will never accept this; what a proxy before it says may pass."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.error_code in FINAL


def experiment_id(client: "MlflowClient", uri: str, study: str) -> str:
    """Id of a study's experiment in the store `uri`, created if need be.

    Beside a sqlite file artifacts get an absolute place, found from anywhere.

    Raises:
        ValueError: somebody deleted it.
    """
    found = client.get_experiment_by_name(study)
    if found is not None and found.lifecycle_stage != "active":
        raise ValueError(
            f"The MLflow experiment {study!r} in {redact(uri)} is deleted; restore it (`mlflow experiments restore -x "
            f"{found.experiment_id}`) or drop it (`mlflow gc`)."
        )
    if found is not None:
        return found.experiment_id
    file = database_file(uri)
    if file is None:
        return client.create_experiment(study)
    folder = file.parent / "mlartifacts" / quote(study, safe="")
    folder.mkdir(parents=True, exist_ok=True)
    return client.create_experiment(study, folder.as_uri())


def all_runs(client: "MlflowClient", experiment: str) -> list["Run"]:
    """Every run of an experiment, oldest first."""
    runs, token = [], None
    while True:
        page = client.search_runs(
            [experiment], max_results=RUNS_PER_CALL, order_by=["attributes.start_time ASC"], page_token=token
        )
        runs.extend(page)
        token = page.token
        if not token:
            return runs


def trials_of(runs: Iterable["Run"]) -> dict[str, "Run"]:
    """The trials among a study's runs, by key.

    Where runs share a key (two drivers; a server that carried out late what nobody waited for any more), a finished
    one counts, then the one with most attempts: always the same one.
    """
    trials = [run for run in runs if "trial_key" in run.data.tags]

    def rank(run: "Run") -> tuple[bool, int, str]:
        return run.info.status == "FINISHED", int(run.data.tags.get("attempts", "0")), run.info.run_id

    return {run.data.tags["trial_key"]: run for run in sorted(trials, key=rank)}
