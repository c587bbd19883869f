"""Optuna's side of a study: the design's points, arm x seed, as trials of one persistent Optuna study.

The points are enumerated by us and enqueued: GridSampler through ask and tell repeats points, and TPE draws
duplicates. Ray's own OptunaSearch is not used because it marks no trial of a killed driver as failed.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.trial import TrialState
from ray.tune.search import Searcher

from trainables.design_log import DesignLog


class DesignSearch(Searcher):
    """Hands each point of a design to Tune once and records its outcome.

    Args:
        path: journal file of the Optuna study (open it with `optuna-dashboard`).
        name: first part of the Optuna study's name; the second is a hash of the arms, because Optuna lets a study's
            choices never change.
        points: the (arm, seed) pairs still to be run, in order.
        arms: all arms of the study.
        mode: "max" or "min", the direction of `objective` in the reports.
        limit: how many points may be out at a time; asked each time, because a cluster grows and shrinks.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        points: Sequence[tuple[str, int]],
        arms: Sequence[str],
        mode: str,
        limit: Callable[[], int],
    ) -> None:
        super().__init__(metric="objective", mode=mode)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._study = optuna.create_study(
            storage=JournalStorage(DesignLog(path)),
            study_name=f"{name}-{_digest(arms)}",
            load_if_exists=True,
            direction="maximize" if mode == "max" else "minimize",
            sampler=optuna.samplers.RandomSampler(seed=0),
        )
        for stale in self._study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING), deepcopy=False):
            self._study.tell(stale.number, state=TrialState.FAIL)
        self._points = list(points)
        self._arms = list(arms)
        self._limit = limit
        self._asked: dict[str, optuna.Trial] = {}
        self._steps: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher for `Tuner.restore`, which is not how a study is resumed: nothing to keep."""
        return {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next point, `FINISHED`, or None while as many as fit are out."""
        if not self._points:
            return Searcher.FINISHED
        if len(self._asked) >= self._limit():
            return None
        arm, seed = self._points.pop(0)
        self._study.enqueue_trial({"arm": arm, "seed": seed})
        space = {"arm": CategoricalDistribution(self._arms), "seed": IntDistribution(0, max(seed, 999))}
        self._asked[trial_id] = self._study.ask(space)
        return {"arm": arm, "seed": seed}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Record a validation value once; Tune sends the last report twice, and an attempt may repeat earlier ones."""
        value, step = result.get("objective", math.nan), int(result["step"])
        if math.isfinite(value) and step > self._steps.get(trial_id, -1):
            self._steps[trial_id] = step
            self._asked[trial_id].report(value, step)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Record the end: a value, or a failure."""
        trial, value = self._asked.pop(trial_id), (result or {}).get("objective", math.nan)
        if error or not result or "failure" in result or not math.isfinite(value):
            self._study.tell(trial, state=TrialState.FAIL)
        else:
            self._study.tell(trial, value)

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the study is on disk, and a re-run makes a new plan."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore, see `save`."""


def _digest(arms: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(arms).encode()).hexdigest()[:8]
