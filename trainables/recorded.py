"""Plans as MLflow keeps them: a study's trials with their configurations, fit to be run again without its command."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sigma_ray import data, tracker_uri
from sigma_ray.config import CODE_VERSION, from_dict, override_all
from sigma_ray.mlflow_client import connect
from sigma_ray.mlflow_files import download
from sigma_ray.study import Arm, Plan, Study, Trial
from trainables.trial import Spec, label
from trainables.tuner import make_specs

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

PLAN_FILE, ENVIRONMENT_FILE = "plan.json", "environment.json"


def client_for(uri: str) -> "MlflowClient":
    """A client of a tracking store that answers.

    Raises:
        ValueError: it cannot be used.
    """
    tracker_uri.check(uri)
    return connect(tracker_uri.absolute(uri))


def newest(client: "MlflowClient", study: str) -> "Run":
    """The parent run of a study's newest invocation.

    Raises:
        ValueError: the store has no such study.
    """
    experiment = client.get_experiment_by_name(study)
    found = (
        client.search_runs([experiment.experiment_id], "tags.role = 'study'", order_by=["start_time DESC"])
        if experiment
        else []
    )
    if not found:
        known = sorted(one.name for one in client.search_experiments() if one.name != "Default")
        raise ValueError(
            f"STUDY must be one that the tracking store has ({', '.join(known) or 'none yet'}), but got {study!r}; "
            "check --tracking-uri."
        )
    return found[0]


def read(client: "MlflowClient", parent_id: str, name: str) -> dict[str, Any]:
    """A JSON artifact of a parent run.

    Raises:
        ValueError: it is not there.
    """
    with tempfile.TemporaryDirectory() as scratch:
        try:
            return json.loads(download(client, parent_id, name, Path(scratch)).read_text())
        except Exception as error:  # MLflow raises its own types, and those of the store's client
            raise ValueError(
                f"a study's run must keep its {name}, but run {parent_id} does not ({str(error).splitlines()[0]}); run "
                "the study itself again."
            ) from None


def plan(record: Mapping[str, Any], study: str, edits: Sequence[tuple[str, Any]] = ()) -> Plan:
    """The plan that `results.plan_record` wrote, for a study of this name.

    Args:
        record: what was written.
        study: name of the study, and of its experiment.
        edits: what differs on this machine: `data.root`, `backbone.weights`.

    Raises:
        ValueError: this version of the code cannot read it.
    """
    try:
        trials = tuple(
            Trial(arm=one["arm"], seed=one["seed"], config=override_all(from_dict(one["config"]), edits))
            for one in record["trials"]
        )
        papers = record["paper"]
        arms = tuple(Arm(name=name, paper=papers.get(name, {})) for name in record["differences"])
        kept = Study(
            name=study,
            question=record["question"],
            arms=lambda profile: arms,
            metric=record["metric"],
            mode=record["mode"],
            paper_note=record["paper_note"],
        )
        return Plan(study=kept, profile=record["profile"], arms=arms, seeds=tuple(record["seeds"]), trials=trials)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the recorded plan of {study} must be one that this version wrote, but it is not "
            f"({type(error).__name__}: {error}); run the study itself again, or use the version that wrote it."
        ) from None


def specs(found: Plan, record: Mapping[str, Any], opened: data.Data, folder: Path) -> dict[str, Spec]:
    """What a worker needs for every trial, proven to be the trials that were recorded.

    Raises:
        ValueError: data, weights or code are others, so that these would be other trials.
    """
    made = make_specs(found, opened.fingerprint, folder)
    keys = {label(one["arm"], one["seed"]): original_key(one["key"]) for one in record["trials"]}
    changed = [name for name, spec in made.items() if spec.key != keys[name]]
    if changed:
        config = made[changed[0]].config
        why = (
            f"the code's results have changed since (version {record['code_version']} then, {CODE_VERSION} now)"
            if record["code_version"] != CODE_VERSION
            else f"the data ({config['data'].get('root') or config['data']['name']}) or the backbone's weights "
            f"({config['backbone']['weights']}) are not those of then; name them with --data-root and --weights"
        )
        raise ValueError(f"{changed[0]} must be the trial {keys[changed[0]]} that was recorded, but {why}.")
    return made


def original_key(key: str) -> str:
    """A trial's key without what a rerun appends to it."""
    return key.partition("-")[0]


def edits(data_root: str | None, weights: str | None) -> list[tuple[str, str]]:
    """What the flags change in recorded configurations."""
    given = {"data.root": data_root, "backbone.weights": weights}
    return [(path, value) for path, value in given.items() if value is not None]
