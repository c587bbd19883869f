"""Events of a study carried to MLflow, each repeatable: sent twice, it leaves what it leaves when sent once.

Uses `MlflowClient` alone; the fluent API keeps global state per thread.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sigma_ray.mlflow_client import all_runs, connect, experiment_id, is_final, trials_of
from sigma_ray.mlflow_files import MAX_TAG_CHARS, Files
from sigma_ray.spool import Event, Refused

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

METRICS_PER_CALL, PARAMS_PER_CALL = 1000, 100
Point = tuple[str, int, float]  # metric, step, value

FIELDS = {
    "open": ("plan", "environment"),
    "close": ("status", "artifacts"),
    "start": ("key", "attempt", "arm", "seed", "params", "commit"),
    "log": ("key", "points"),
    "add": ("key", "folder", "artifacts"),
    "finish": ("key", "metrics", "artifacts"),
    "end": ("key", "status", "reason"),
}
"""What an event of each kind holds, beside its time and invocation."""


@dataclass(kw_only=True)
class _Known:
    """What is remembered of a trial's run; `last` is the newest (step, value) per metric, None if unread.

    `newest_ms` is the latest time in the run: MLflow tells values of one step apart by their times, and the next
    attempt may come from a machine whose clock is behind.
    """

    run_id: str
    status: str
    tags: dict[str, str]
    params: set[str]
    metrics: Sequence[str] = ()
    last: dict[str, tuple[int, float]] | None = None
    newest_ms: int = 0


class Runs:
    """The runs of one study in one store; `deliver` is called by one thread, the rest by any."""

    def __init__(self, uri: str, study: str, notes: Path) -> None:
        """Name the store and the experiment; connects on first use.

        Args:
            uri: tracking store.
            study: experiment.
            notes: folder for notes on files that the store did not take.
        """
        self._uri, self._study = uri, study
        self._lock = threading.Lock()
        self._connected: MlflowClient | None = None
        self._experiment_id: str | None = None
        self._trials: dict[str, _Known] | None = None
        self._parents: dict[str, str] = {}
        self.files = Files(lambda: self.client, notes)

    @property
    def client(self) -> "MlflowClient":
        """The client, connected on first use (seconds: import, and migrations where a database is new)."""
        with self._lock:
            if self._connected is None:
                self._connected = connect(self._uri)
            return self._connected

    @property
    def experiment(self) -> str:
        """Id of the study's experiment, created if need be; raises ValueError where somebody deleted it."""
        client = self.client
        with self._lock:
            if self._experiment_id is None:
                self._experiment_id = experiment_id(client, self._uri, self._study)
            return self._experiment_id

    def all(self) -> list["Run"]:
        """Every run of the study, oldest first."""
        return all_runs(self.client, self.experiment)

    def forget(self) -> None:
        """Drop what was remembered, because the store may differ from it."""
        self._trials = None
        self._parents = {}
        with self._lock:
            self._experiment_id = None

    def deliver(self, event: Event, replayed: bool) -> None:
        """Carry one event to MLflow.

        Raises:
            Refused: MLflow will never accept the event.
            Exception: whatever the client raised; the call may have worked, so all memory is dropped.
        """
        kind = event["event"]
        if kind not in FIELDS or not {"time", "invocation", *FIELDS[kind]} <= event.keys():
            raise Refused(f"{kind} {event.get('key', '')}: not an event of this version")
        for again in (True, False):
            try:
                return getattr(self, f"_{kind}")(event, replayed)
            except Exception as error:
                self.forget()
                if not is_final(error):
                    raise
                if not again:  # what was remembered may have been at fault: runs that somebody deleted
                    raise Refused(f"{kind} {event.get('key', '')}: {error}") from error

    def parent(self, invocation: str) -> str | None:
        """Run id of an invocation's parent if it was delivered."""
        return self._parents.get(invocation)

    # -- one method per kind of event ------------------------------------------------

    def _open(self, event: Event, _: bool) -> None:
        run_id = self._parent_run(event)
        for name in ("plan", "environment"):
            self.files.store_text(run_id, f"{name}.json", json.dumps(event[name], indent=1))

    def _close(self, event: Event, _: bool) -> None:
        run_id = self._parent_run(event)
        self.files.store(run_id, event["artifacts"])
        self.client.set_terminated(run_id, event["status"], event["time"])

    def _start(self, event: Event, replayed: bool) -> None:
        from mlflow.entities import RunTag

        known = self._known().get(event["key"])
        if replayed and known and known.status == "FINISHED":
            return  # finished since by another invocation; an old event must not reopen it
        tags = {name: str(event[name]) for name in ("arm", "seed", "commit", "invocation", "attempt")}
        tags |= {"mlflow.parentRunId": self._parent_run(event), "status_reason": "running"}
        if known is None:
            known = self._create(event, tags | {"trial_key": event["key"], "attempts": "1"})
        elif known.tags.get("attempt") != event["attempt"]:
            tags["attempts"] = str(int(known.tags.get("attempts", "0")) + 1)
            self.client.log_batch(known.run_id, tags=[RunTag(key, value) for key, value in tags.items()])
            known.tags |= tags
        self._log_params(known, event["params"])
        if known.status != "RUNNING":
            self.client.update_run(known.run_id, "RUNNING")
            known.status = "RUNNING"

    def _log(self, event: Event, _: bool) -> None:
        known = self._started(event)
        last = self._last(known)
        points = [(name, step, value) for step, point in event["points"] for name, value in point.items()]
        fresh = []
        for name, step, value in sorted(points, key=lambda point: point[1]):
            if name not in last or step > last[name][0]:
                last[name] = (step, value)
                fresh.append((name, step, value))
        self._write(known, fresh, event["time"])

    def _add(self, event: Event, _: bool) -> None:
        self.files.store(self._started(event).run_id, event["artifacts"], event["folder"])

    def _finish(self, event: Event, _: bool) -> None:
        known = self._started(event)
        last = self._last(known)
        self.files.store(known.run_id, event["artifacts"])
        end = max((step for step, _ in last.values()), default=0)
        # A metric with a curve keeps its last step: its final value need not be the curve's last (best step).
        final = {name: (last[name][0] if name in last else end, value) for name, value in event["metrics"].items()}
        # repr, because NaN differs from itself and would be stored again
        self._write(
            known,
            [(name, *point) for name, point in final.items() if repr(last.get(name)) != repr(point)],
            event["time"],
        )
        last.update(final)
        self._end_run(known, "FINISHED", "finished", event["time"])

    def _end(self, event: Event, _: bool) -> None:
        known = self._started(event)
        if known.status != "FINISHED":
            # The next attempt overwrites the run's reason; each attempt's own stays.
            ended = f"attempt.{known.tags.get('attempts', '1')}"
            self.client.set_tag(known.run_id, ended, event["reason"][:MAX_TAG_CHARS])
            self._end_run(known, event["status"], event["reason"], event["time"])

    # -- shared by them --------------------------------------------------------------

    def _known(self) -> dict[str, _Known]:
        """The study's trials by key."""
        if self._trials is None:
            self._trials = {
                key: _Known(
                    run_id=run.info.run_id,
                    status=run.info.status,
                    tags=dict(run.data.tags),
                    params=set(run.data.params),
                    metrics=tuple(run.data.metrics),
                    newest_ms=run.info.start_time or 0,
                )
                for key, run in trials_of(self.all()).items()
            }
        return self._trials

    def _started(self, event: Event) -> _Known:
        """The event's trial."""
        known = self._known().get(event["key"])
        if known is None:
            raise Refused(f"{event['event']} {event['key']}: no such trial was started")
        return known

    def _parent_run(self, event: Event) -> str:
        """Run id of the event's invocation, found by its tag or created."""
        invocation = event["invocation"]
        if invocation not in self._parents:
            query = f"tags.invocation = '{invocation}' AND tags.role = 'study'"
            found = self.client.search_runs([self.experiment], query)
            if not found:
                tags = {"invocation": invocation, "role": "study"}
                name = f"{self._study} {invocation[:8]}"
                found = [self.client.create_run(self.experiment, event["time"], tags, name)]
            self._parents[invocation] = found[0].info.run_id
        return self._parents[invocation]

    def _create(self, event: Event, tags: dict[str, str]) -> _Known:
        """Create a trial's run with all its tags in one call, so that no run is ever without its key."""
        name = f"{event['arm']} seed {event['seed']}"
        run_id = self.client.create_run(self.experiment, event["time"], tags, name).info.run_id
        known = _Known(run_id=run_id, status="RUNNING", tags=tags, params=set(), last={}, newest_ms=event["time"])
        self._known()[event["key"]] = known
        return known

    def _log_params(self, known: _Known, params: dict[str, str]) -> None:
        """Log the params the run lacks; MLflow refuses to change those it has."""
        from mlflow.entities import Param

        missing = [Param(name, value) for name, value in params.items() if name not in known.params]
        for chunk in _chunks(missing, PARAMS_PER_CALL):
            self.client.log_batch(known.run_id, params=chunk)
        known.params |= set(params)

    def _last(self, known: _Known) -> dict[str, tuple[int, float]]:
        """Newest (step, value) per metric; read from MLflow once for a run that already existed."""
        if known.last is None:
            known.last = {}
            for name in known.metrics:
                points = self.client.get_metric_history(known.run_id, name)
                newest = max(points, key=lambda point: (point.step, point.timestamp))
                known.last[name] = (newest.step, newest.value)
                known.newest_ms = max(known.newest_ms, *(point.timestamp for point in points))
        return known.last

    def _write(self, known: _Known, points: Sequence[Point], time_ms: int) -> None:
        """Store points in as few calls as MLflow allows, later than all that the run has."""
        from mlflow.entities import Metric

        known.newest_ms = max(time_ms, known.newest_ms + 1)
        for chunk in _chunks(points, METRICS_PER_CALL):
            metrics = [Metric(name, value, known.newest_ms, step) for name, step, value in chunk]
            self.client.log_batch(known.run_id, metrics=metrics)

    def _end_run(self, known: _Known, status: str, reason: str, time_ms: int) -> None:
        """Write the reason, then the status: whoever sees the status sees everything."""
        self.client.set_tag(known.run_id, "status_reason", reason[:MAX_TAG_CHARS])
        self.client.set_terminated(known.run_id, status, max(time_ms, known.newest_ms))
        known.status = status


def _chunks(items: Sequence, size: int) -> Iterator[list]:
    """Consecutive pieces of at most `size` items."""
    return (list(items[start : start + size]) for start in range(0, len(items), size))
