"""A study as a value: one question, its arms as edits of a baseline, and the plan of trials that answers it."""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sigma_ray import profiles, tasks
from sigma_ray.config import TrialConfig, component, flatten, override, override_all, to_dict
from sigma_ray.paths import plain_name


@dataclass(frozen=True)
class Edit:
    """One change of the baseline: `path` gets `value`."""

    path: str
    value: Any


def change(path: str, value: Any) -> Edit:
    """Set a field."""
    return Edit(path, value)


def remove(path: str) -> Edit:
    """Take a module away: switch off the flag that stands for it."""
    return Edit(path, False)


def replace(kind: str, name: str) -> Edit:
    """Put another component in place of the baseline's: `replace("adapter", "lora")`."""
    return Edit(kind, name)


@dataclass(frozen=True, kw_only=True)
class Arm:
    """A named set of edits of the baseline trial; `paper` holds the paper's own numbers for it."""

    name: str
    edits: tuple[Edit, ...] = ()
    paper: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Arm x seed, fully resolved."""

    arm: str
    seed: int
    config: TrialConfig


@dataclass(frozen=True, kw_only=True)
class Study:
    """One question.

    `arms(profile)` lists the arms at that scale; the first one is the baseline that deltas refer to. `recipe(profile)`
    edits what the profile has for all of them, where the question needs another task, head or schedule. `metric` is the
    final metric that decides, in the direction `mode` ("max" or "min"); None is that of the task.
    """

    name: str
    question: str
    arms: Callable[[str], Sequence[Arm]]
    recipe: Callable[[str], Sequence[Edit]] = lambda profile: ()
    metric: str | None = None
    mode: str | None = None
    paper_note: str = ""

    def __post_init__(self) -> None:
        plain_name("the name of a study", self.name)  # folders are called so


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The trials of one study at one scale, each configuration once; `arms[0]` is the baseline."""

    study: Study
    profile: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    trials: tuple[Trial, ...]

    @property
    def task(self) -> str:
        """The task of every trial."""
        return self.trials[0].config.task

    @property
    def metric(self) -> str:
        """The final metric that arms are compared by, under its logged name."""
        return self.study.metric or f"test/{tasks.get(self.task).metric}"

    @property
    def mode(self) -> str:
        """Whether larger ("max") or smaller ("min") values of `metric` are better."""
        return self.study.mode or tasks.get(self.task).mode

    def differences(self) -> dict[str, str]:
        """Each arm's configuration against the baseline's, as `path=value` text (what tables print)."""
        first = {t.arm: flatten(to_dict(t.config)) for t in self.trials if t.seed == self.seeds[0]}
        base = first[self.arms[0].name]
        return {arm: _difference(base, plain) for arm, plain in first.items()}


def make_plan(study: Study, profile: str, *, num_seeds: int, settings: Sequence[tuple[str, str]] = ()) -> Plan:
    """Resolve every arm x seed of `study`.

    Args:
        study: the question.
        profile: a name in `sigma_ray.profiles`.
        num_seeds: seeds 0..num_seeds-1, the same for every arm.
        settings: (path, text) edits of the baseline from the command line; applied before the arms' own edits,
            all together, so that `data=folder` and `data.num_classes=11` work in either order. `task` chooses the
            profile's baseline for that task.

    Raises:
        ValueError: an edit that the configuration refuses, or two arms that are the same configuration.
    """
    edits = [*((edit.path, edit.value) for edit in study.recipe(profile)), *settings]
    task = next((value for path, value in reversed(edits) if path == "task"), None)
    base = override_all(profiles.load(profile, task), edits)
    arms = tuple(study.arms(profile))
    configs = {arm.name: _apply(base, arm) for arm in arms}
    for index, arm in enumerate(arms):
        for other in arms[:index]:
            if configs[arm.name] == configs[other.name]:
                raise ValueError(
                    f"Arms {other.name!r} and {arm.name!r} are the same configuration, so their comparison means "
                    "nothing; change the edits of one of them."
                )
    for name, config in configs.items():
        if config.task != base.task:
            raise ValueError(f"task must be the same for all arms, but {name!r} has {config.task}, not {base.task}.")
    trials = tuple(
        Trial(arm=arm.name, seed=seed, config=override(configs[arm.name], "seed", seed))
        for seed in range(num_seeds)
        for arm in arms
    )
    return Plan(study=study, profile=profile, arms=arms, seeds=tuple(range(num_seeds)), trials=trials)


def _apply(base: TrialConfig, arm: Arm) -> TrialConfig:
    return override_all(base, [(edit.path, edit.value) for edit in arm.edits])


def _difference(base: Mapping[str, Any], plain: Mapping[str, Any]) -> str:
    if plain["adapter.name"] != base["adapter.name"]:
        # Another method: its options are compared with its own defaults.
        own = dataclasses.asdict(component("adapter", plain["adapter.name"]))
        rest = {key: value for key, value in base.items() if not key.startswith("adapter.")}
        base = rest | {key: json.loads(json.dumps(value)) for key, value in flatten(own, "adapter.").items()}
    changed = {key: value for key, value in plain.items() if base.get(key) != value}
    return ", ".join(f"{key}={_text(value)}" for key, value in changed.items())


def _text(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
