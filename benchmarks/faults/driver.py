"""A study's driver as a process that can be killed, and what it leaves in MLflow and on disk."""

import dataclasses
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.faults.processes import Program

ROOT = Path(__file__).parents[2]
TIMES = ("seconds", "train/seconds", "peak_memory_bytes", "system/")
"""Metrics that say how a trial ran, not what came out."""


class Driver(Program):
    """A study's program, run in `folder`, where its results are by default."""

    def __init__(
        self,
        folder: Path,
        flags: Sequence[str],
        environment: Mapping[str, str],
        program: Sequence[str] = ("-m", "benchmarks.faults.study"),
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *program, *flags]
        ours = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        earlier = environment.get("PYTHONPATH")
        ours |= {"PYTHONPATH": f"{earlier}{os.pathsep}{ROOT}"} if earlier else {}
        super().__init__(command, {**os.environ, **environment, **ours}, folder, folder / "driver.log")

    def await_line(self, text: str, seconds: float = 300) -> None:
        """Wait until it has printed `text` since its start."""
        self.wait(lambda: text in self.output(), seconds, f"the line {text!r}")

    def await_end(self, seconds: float = 400) -> int:
        """Wait until it ends by itself; its exit code."""
        deadline = time.monotonic() + seconds
        while self.running:
            if time.monotonic() > deadline:
                raise RuntimeError(f"the study did not end in {seconds:.0f} s: {self.tail()}")
            time.sleep(0.1)
        return self.exit_code or 0


def small(num_steps: int, eval_interval: int) -> list[str]:
    """Flags for trials of seconds on one core."""
    values = {"data.num_train": 64, "data.num_val": 8, "data.num_test": 8}
    values |= {"train.batch_size": 4, "train.warmup_steps": 2, "train.log_interval": 3}
    values |= {"train.num_steps": num_steps, "train.eval_interval": eval_interval}
    return ["--weights", "none", *(part for name, value in values.items() for part in ("--set", f"{name}={value}"))]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recorded:
    """One trial's run in MLflow."""

    name: str
    status: str
    attempts: int
    reason: str
    final: dict[str, float]
    curves: dict[str, list[tuple[int, float]]]
    run_id: str
    tags: dict[str, str]


def recorded(uri: str, study: str = "faults") -> tuple[list[Recorded], list[Any]]:
    """Runs of trials, with every stored point of their curves in the order of storing; and the other runs."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(study)
    trials, others = [], []
    for run in client.search_runs([experiment.experiment_id], max_results=1000) if experiment else []:
        if "trial_key" not in run.data.tags:
            others.append(run)
            continue
        names = [name for name in run.data.metrics if not name.startswith(TIMES)]
        histories = {name: client.get_metric_history(run.info.run_id, name) for name in names}
        trials.append(
            Recorded(
                name=f"{run.data.tags['arm']} seed {run.data.tags['seed']}",
                status=run.info.status,
                attempts=int(run.data.tags["attempts"]),
                reason=run.data.tags.get("status_reason", ""),
                final={name: run.data.metrics[name] for name in names},
                curves={name: [(p.step, p.value) for p in history] for name, history in histories.items()},
                run_id=run.info.run_id,
                tags=dict(run.data.tags),
            )
        )
    return trials, others
