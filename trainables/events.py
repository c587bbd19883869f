"""What happens to trials, passed on to the ledger and to the console.

An exception in a Tune callback would end the whole study, so whatever goes wrong here is kept and shown at the end.
"""

import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ray.tune import Callback

from sigma_ray.config import flatten
from sigma_ray.redaction import redact
from sigma_ray.tracking import Ledger
from trainables import cluster, placement
from trainables.attempts import ERROR_FILE, divide_further
from trainables.console import Console
from trainables.trial import EXAMPLES_FILE, MODEL_FILE, Spec, label

MAX_CRASHES = 3
"""How often in a row a trial may die without having come further before it counts as failed."""
SWEEP_S = 10.0
_OUT_OF_MEMORY = ("running low on memory", "OUT_OF_MEMORY", "OutOfMemoryError")


def _guarded(method: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(method)
    def call(self: "Events", *args: Any, **kwargs: Any) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception as error:
            self.problems.append(f"{type(error).__name__}: {error}")

    return call


class Events(Callback):
    """Tune's callbacks, translated. `outcome` maps trial keys to "finished" or the reason of a failure."""

    def __init__(self, ledger: Ledger, console: Console, specs: Mapping[str, Spec]) -> None:
        self.ledger, self.console, self.specs = ledger, console, specs
        self.outcome: dict[str, str] = {}
        self.problems: list[str] = []
        self._furthest: dict[str, int] = {}
        self._running: set[str] = set()
        self._swept = time.monotonic()
        self._suggested = False

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks for `Tuner.restore`, which is not how a study is resumed: nothing to keep."""
        return {}

    def _spec(self, trial: Any) -> Spec:
        return self.specs[label(trial.config["arm"], trial.config["seed"])]

    @property
    def started(self) -> set[str]:
        """Keys of the trials that had an attempt."""
        return set(self._furthest)

    @_guarded
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An attempt begins."""
        spec = self._spec(trial)
        self._begin(spec)
        self.console.started(spec.arm, spec.seed)

    @_guarded
    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict, **info: Any) -> None:
        """Points have come, or the end of an attempt."""
        spec = self._spec(trial)
        for warning in result.get("warnings", ()):
            self.console.warned(spec.arm, spec.seed, warning)
        if result.get("points"):
            self._progressed(spec, trial, result["points"], result.get("system", {}))
        if result.get("pictures"):
            self.ledger.add(spec.key, "pictures", result["pictures"])
        if "failure" in result:
            self._failed(spec, result["failure"])
        elif "retry" in result:
            self._again(spec, result["retry"])
            self.on_trial_start(iteration, trials, trial)
        elif "final" in result and self.outcome.get(spec.key) != "finished":
            self._finished(spec, result["final"])
            self._suggest_share(spec, result)

    @_guarded
    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An attempt has died, and Tune will start another one."""
        spec, reason = self._spec(trial), _reason(trial)
        if any(sign in reason for sign in _OUT_OF_MEMORY) and (divisor := divide_further(spec)):
            reason += f"; again with 1/{divisor} of a batch at a time"
        self._again(spec, reason)
        self._sweep()

    @_guarded
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """The last attempt has died."""
        self._failed(self._spec(trial), f"{_reason(trial)} (attempt {trial.num_failures}, no progress)")
        self._sweep()

    @_guarded
    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Now and then, free what dead processes hold."""
        if time.monotonic() - self._swept > SWEEP_S:
            self._sweep()

    def _sweep(self) -> None:
        self._swept = time.monotonic()
        placement.remove_orphans()

    def _begin(self, spec: Spec) -> None:
        self._furthest.setdefault(spec.key, 0)
        self._running.add(spec.key)
        self.ledger.start(spec.key, spec.arm, spec.seed, flatten(spec.config))

    def _end(self, spec: Spec, reason: str) -> None:
        """End the attempt that runs, or the one that died before Tune said that it had begun: both count."""
        if spec.key not in self._running:
            self._begin(spec)
        self._running.discard(spec.key)
        traceback = Path(spec.folder) / ERROR_FILE
        if traceback.exists():
            self.ledger.add(spec.key, "errors", [traceback])
        self.ledger.fail(spec.key, reason)

    def _progressed(self, spec: Spec, trial: Any, points: list[dict[str, float]], system: Mapping[str, float]) -> None:
        step = int(points[-1]["step"])
        if step > self._furthest.get(spec.key, 0):
            self._furthest[spec.key] = step
            trial.max_failures = trial.num_failures + MAX_CRASHES
        self.ledger.log(spec.key, [*points, {"step": step, **system}])
        self.console.progressed(spec.arm, spec.seed, points, spec.config["train"]["num_steps"])

    def _finished(self, spec: Spec, final: Mapping[str, float]) -> None:
        artifacts = [f"{spec.folder}/{name}" for name in (MODEL_FILE, EXAMPLES_FILE)]
        # Validation is in the history already; the report reads it at `selected_step`.
        metrics = {name: value for name, value in final.items() if not name.startswith("val/")}
        self.ledger.finish(spec.key, metrics, artifacts)
        self.outcome[spec.key] = "finished"
        self.console.finished(spec.arm, spec.seed, dict(final))

    def _suggest_share(self, spec: Spec, result: Mapping[str, Any]) -> None:
        """Say once, from what the first trial needed, that several trials would fit a GPU."""
        share = cluster.gpu_share(result["final"]["peak_memory_bytes"], result.get("gpu_bytes", 0))
        if share and spec.config["num_workers"] == 1 and spec.config["gpus_per_worker"] is None and not self._suggested:
            self._suggested = True
            used, whole = result["final"]["peak_memory_bytes"] / 1e9, result["gpu_bytes"] / 1e9
            self.console.warned(
                spec.arm,
                spec.seed,
                f"used {used:.1f} of its GPU's {whole:.0f} GB; --set gpus_per_worker={share:g} lets "
                f"{int(1 / share)} trials share one",
            )

    def _again(self, spec: Spec, reason: str) -> None:
        reason = redact(reason)
        self._end(spec, reason)
        self.console.again(spec.arm, spec.seed, reason)

    def _failed(self, spec: Spec, reason: str) -> None:
        reason = redact(reason)
        self._end(spec, reason)
        self.outcome[spec.key] = reason
        self.console.failed(spec.arm, spec.seed, reason)


def _reason(trial: Any) -> str:
    """What Tune knows about the end of an attempt, in one line."""
    path = trial.error_file  # of the newest attempt
    lines = [line.strip() for line in Path(path).read_text().splitlines() if line.strip()] if path else []
    causes = [line for line in lines if line.startswith("The actor") and " because " in line]
    named = [line for line in lines if line.startswith("ray.exceptions.")]
    said = (causes or named or lines or ["its process ended"])[-1]
    return said.partition(" Some common causes")[0][:500]  # guesses of Ray's, the kernel's OOM killer among them
