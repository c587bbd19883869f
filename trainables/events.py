"""What happens to trials, passed on to the ledger and to the console.

An exception in a Tune callback would end the whole study, so whatever goes wrong here is kept and shown at the end.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

from ray.tune import Callback

from sigma_ray.config import flatten
from sigma_ray.tracking import Ledger
from trainables.console import Console
from trainables.trial import EXAMPLES_FILE, MODEL_FILE, Spec, label


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

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its callbacks for `Tuner.restore`, which is not how a study is resumed: nothing to keep."""
        return {}

    def _spec(self, trial: Any) -> Spec:
        return self.specs[label(trial.config["arm"], trial.config["seed"])]

    @_guarded
    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An attempt begins."""
        spec = self._spec(trial)
        self.ledger.start(spec.key, spec.arm, spec.seed, flatten(spec.config))
        self.console.started(spec.arm, spec.seed)

    @_guarded
    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict, **info: Any) -> None:
        """Points have come, or the end."""
        spec = self._spec(trial)
        if result.get("points"):
            points = result["points"]
            self.ledger.log(spec.key, [*points, {"step": points[-1]["step"], **result.get("system", {})}])
            self.console.progressed(spec.arm, spec.seed, points, spec.config["train"]["num_steps"])
        if result.get("pictures"):
            self.ledger.add(spec.key, "pictures", result["pictures"])
        if "failure" in result:
            self._failed(spec, result["failure"])
        elif "final" in result and self.outcome.get(spec.key) != "finished":
            artifacts = [f"{spec.folder}/{name}" for name in (MODEL_FILE, EXAMPLES_FILE)]
            # Validation is in the history already; the report reads it at `selected_step`.
            final = {name: value for name, value in result["final"].items() if not name.startswith("val/")}
            self.ledger.finish(spec.key, final, artifacts)
            self.outcome[spec.key] = "finished"
            self.console.finished(spec.arm, spec.seed, result["final"])

    @_guarded
    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """An attempt crashed; Tune starts another one while attempts are left, else this is the end."""
        lines = [line.strip() for line in str(trial.get_error() or "unknown error").splitlines() if line.strip()]
        self._failed(self._spec(trial), lines[-1] if lines else "unknown error")

    def _failed(self, spec: Spec, reason: str) -> None:
        self.ledger.fail(spec.key, reason)
        self.outcome[spec.key] = reason
        self.console.failed(spec.arm, spec.seed, reason)
