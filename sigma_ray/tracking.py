"""The MLflow ledger: one experiment per study, one parent run per invocation, one child run per trial key.

Only the driver talks to MLflow. Writes are events of a `Spool`, so a slow or dead tracking server delays
nothing and loses nothing; reads (`trials`, `history`, `download`) ask MLflow directly. Secrets
are not written.

Files that the artifact store does not take hold up neither metrics nor statuses: the run's tag `files_waiting` says
what it lacks, `problem` says it to the user, and the files are tried again, by the next invocation too.
"""

import hashlib
import math
import numbers
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from sigma_ray.checks import one_of
from sigma_ray.mlflow_client import is_final, trials_of
from sigma_ray.mlflow_files import missing
from sigma_ray.mlflow_runs import Runs
from sigma_ray.provenance import commit
from sigma_ray.redaction import redact, redact_all
from sigma_ray.spool import Spool, in_one_line
from sigma_ray.tracker_uri import absolute, check, mlflow_ui_command

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["Ledger", "Row", "check", "mlflow_ui_command", "redact"]

T = TypeVar("T")
PAUSES_S = (0.5, 2.0)
LARGEST_FLOAT = 1.7976931348623157e308  # MLflow's databases store infinity as this number


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trial as the ledger knows it; `params` are strings because MLflow stores strings."""

    trial_key: str
    arm: str
    seed: int
    status: str
    reason: str
    run_id: str
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]

    @property
    def missing_files(self) -> str:
        """Which of its files MLflow does not have, and why; empty if it has all."""
        return missing(self.tags)


class Ledger:
    """The record of one study in one tracking store; the caller holds the study's lock."""

    def __init__(self, uri: str, study: str, spool_dir: Path) -> None:
        """Begin delivering what a former invocation left in the spool.

        Args:
            uri: tracking store that passed `check`.
            study: name of the MLflow experiment.
            spool_dir: folder for events on their way; must stay the same between invocations.
        """
        self.uri, self.study = absolute(uri), study
        self.invocation = uuid.uuid4().hex
        self._spool_dir = Path(spool_dir)
        self._opened, self._last_ms = False, 0
        # Another store must not receive what was meant for this one.
        name = f"{quote(study, safe='')}-{hashlib.sha256(redact(self.uri).encode()).hexdigest()[:8]}"
        self._runs = Runs(self.uri, study, self._spool_dir / f"{name}-files")
        self._spool = Spool(self._spool_dir, name, self._runs.deliver)

    # -- writes: return at once, delivered in order by the spool's thread --------------------------------

    def open(self, plan: Mapping[str, Any], environment: Mapping[str, Any]) -> str:
        """Start this invocation's parent run with `plan.json` and `environment.json`; return its id.

        The id is the tag `invocation` of the parent and of its trials; `parent_run_id` has MLflow's own.
        """
        self._opened = True
        self._put("open", plan=redact_all(plan), environment=redact_all(environment))
        return self.invocation

    @property
    def parent_run_id(self) -> str | None:
        """MLflow's id of this invocation's parent run; None until the store has it."""
        return self._runs.parent(self.invocation)

    def start(self, trial_key: str, arm: str, seed: int, config: Mapping[str, Any]) -> None:
        """Record that an attempt begins: the key's run is reopened, or created with flat `config`."""
        params = redact_all({name: str(value) for name, value in config.items()})
        attempt = uuid.uuid4().hex
        self._put("start", key=trial_key, attempt=attempt, arm=arm, seed=seed, params=params, commit=commit())

    def log(self, trial_key: str, points: Iterable[Mapping[str, Any]]) -> None:
        """Record points {"step": n, metric: value, ...}; leaves out non-numbers and steps stored before."""
        self._put("log", key=trial_key, points=[[int(point["step"]), _numbers(point)] for point in points])

    def add(self, trial_key: str, folder: str, paths: Iterable[Path | str]) -> None:
        """Record files in a folder of the trial's artifacts; they must stay where they are until the trial ends."""
        self._put("add", key=trial_key, folder=folder, artifacts=[str(Path(path).absolute()) for path in paths])

    def finish(self, trial_key: str, metrics: Mapping[str, Any], artifacts: Iterable[Path | str] = ()) -> None:
        """Record a trial's end with its final metrics (stored at its last step) and its files or folders."""
        paths = [str(Path(path).absolute()) for path in artifacts]
        self._put("finish", key=trial_key, metrics=_numbers(metrics), artifacts=paths)

    def fail(self, trial_key: str, reason: str) -> None:
        """Record that the attempt ended in an error."""
        self._put("end", key=trial_key, status="FAILED", reason=redact(reason))

    def kill(self, trial_key: str, reason: str) -> None:
        """Record that the attempt was stopped from outside."""
        self._put("end", key=trial_key, status="KILLED", reason=redact(reason))

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds; return whether the store has all that happened, files apart.

        Files that wait are tried once more in that time.
        """
        until = time.monotonic() + timeout
        done = self._spool.flush(timeout)
        self._runs.files.uploads.flush(max(0.0, until - time.monotonic()))
        return done

    @property
    def problem(self) -> str:
        """What the store lacks, why, and what to do, in one line; empty if it has everything."""
        uploads = self._runs.files.uploads
        files = len(uploads.waiting())
        if not files and not self._spool.waiting:
            return ""
        what = [f"{self._spool.waiting} events"] * bool(self._spool.waiting) + [f"{files} files"] * bool(files)
        error = (uploads.last_error if files else "") or self._spool.last_error or "no answer"
        return (
            f"MLflow at {redact(self.uri)} does not have {' and '.join(what)} of this study ({error}). They are kept "
            f"below {self._spool_dir.parent}; run the same command again to send them."
        )

    def close(self, status: str = "KILLED", artifacts: Iterable[Path | str] = (), timeout: float = 30.0) -> bool:
        """End the parent run with a status and report files; return False if events or files stay behind.

        Without a status it counts as KILLED, which makes `close()` in a `finally` true; twice is once.
        """
        one_of("ledger status", status, ("FINISHED", "FAILED", "KILLED"))
        if self._opened:
            self._put("close", status=status, artifacts=[str(Path(path).absolute()) for path in artifacts])
            self._opened = False
        until = time.monotonic() + timeout
        done = self._spool.close(timeout)
        return self._runs.files.uploads.close(max(0.0, until - time.monotonic())) and done

    # -- reads: ask the store, and raise ConnectionError in one line when it does not answer -------------

    def trials(self, timeout: float = 60.0) -> dict[str, Row]:
        """Every trial of the study by key, whatever its status, after all waiting events were delivered."""
        self._settle(timeout)
        return {key: _row(run) for key, run in trials_of(self._ask(self._runs.all)).items()}

    def finished(self, timeout: float = 60.0) -> dict[str, Row]:
        """The trials that need not run again, by key."""
        return {key: row for key, row in self.trials(timeout).items() if row.status == "FINISHED"}

    def repair(self, timeout: float = 60.0) -> int:
        """Turn runs that a dead driver left RUNNING into KILLED; return how many. Call it before `open`."""
        self._settle(timeout)
        repaired = self._ask(self._repair)
        self._runs.forget()
        return repaired

    def _repair(self) -> int:
        stale = [run for run in self._runs.all() if run.info.status in ("RUNNING", "SCHEDULED")]
        stale = [run for run in stale if run.data.tags.get("invocation") != self.invocation]
        for run in stale:
            self._runs.client.set_tag(run.info.run_id, "status_reason", "the driver died")
            self._runs.client.set_terminated(run.info.run_id, "KILLED")
        return len(stale)

    def history(self, run_id: str, metric: str) -> list[tuple[int, float]]:
        """(step, value) of a metric's curve in step order, without a final value given later."""
        points = self._ask(lambda: self._runs.client.get_metric_history(run_id, metric))
        newest_first = sorted(points, key=lambda point: point.timestamp, reverse=True)
        return sorted({point.step: _infinite(point.value) for point in newest_first}.items())

    def download(self, run_id: str, artifact_path: str) -> Path:
        """Local path of an artifact; what lies in a local store, or still waits for it, is used in place."""
        folder = self._spool_dir / "downloads"
        return self._ask(lambda: self._runs.files.download(run_id, artifact_path, folder))

    def _ask(self, read: Callable[[], T]) -> T:
        """What `read` finds, which is asked again where the answer is lost.

        Refusals in plain words stay as they are; whatever else the store's clients raise becomes one line.
        """
        for pause in (*PAUSES_S, None):
            try:
                return read()
            except (ValueError, FileNotFoundError):
                raise
            except Exception as error:  # MLflow raises its own types, and those of its HTTP and database clients
                if pause is None or is_final(error):
                    raise ConnectionError(
                        f"The tracking store {redact(self.uri)} does not answer as it should ({in_one_line(error)}); "
                        "check it and its login, or choose another with --tracking-uri."
                    ) from error
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _settle(self, timeout: float) -> None:
        """Wait for the spool, because an answer that misses delivered-late events would be wrong."""
        if not self._spool.flush(timeout):
            raise ConnectionError(
                f"The tracking store {redact(self.uri)} did not take the waiting events in {timeout:.0f} s "
                f"({self._spool.last_error or 'no answer'}); check it, or choose another with --tracking-uri."
            )

    def _put(self, kind: str, **content: object) -> None:
        """Hand an event to the spool, with the time (ms) and the invocation it belongs to."""
        # Strictly increasing, because MLflow tells values of one step apart by their times.
        self._last_ms = max(self._last_ms + 1, time.time_ns() // 10**6)
        self._spool.put({"event": kind, "time": self._last_ms, "invocation": self.invocation, **content})


def _numbers(values: Mapping[str, Any]) -> dict[str, float]:
    """The metrics among the values of a report: its numbers, without the step."""
    return {name: float(value) for name, value in values.items() if isinstance(value, numbers.Real) and name != "step"}


def _infinite(value: float) -> float:
    """Undo MLflow's replacement of infinity."""
    return math.copysign(math.inf, value) if abs(value) == LARGEST_FLOAT else value


def _row(run: "Run") -> Row:
    """A trial's run as plain values."""
    tags = run.data.tags
    return Row(
        trial_key=tags["trial_key"],
        arm=tags.get("arm", ""),
        seed=int(tags.get("seed", "-1")),
        status=run.info.status,
        reason=tags.get("status_reason", ""),
        run_id=run.info.run_id,
        params=dict(run.data.params),
        metrics={name: _infinite(value) for name, value in run.data.metrics.items()},
        tags=dict(tags),
    )
