"""Tasks: one file each, with the loss that heads share and the `Metric`. This file imports nothing heavy."""

from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

from sigma_ray import checks


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a task is judged by, and what it reads of a sample.

    Attributes:
        metric: the metric that selection on validation and comparisons use.
        mode: "max" or "min": which of two values of it is better.
        columns: the targets in a sample, beside `image`.
    """

    metric: str
    mode: str
    columns: tuple[str, ...]


TASKS = {
    "segmentation": Task(metric="miou", mode="max", columns=("mask",)),
    "detection": Task(metric="ap", mode="max", columns=("boxes", "labels")),
    "depth": Task(metric="absrel", mode="min", columns=("depth",)),
}


def get(name: str) -> Task:
    """The task `name`.

    Raises:
        ValueError: no such task.
    """
    checks.one_of("task", name, TASKS)
    return TASKS[name]


def columns(name: str, head: object) -> tuple[str, ...]:
    """The targets that task `name` reads of a sample with a head (its `Config`)."""
    return (*get(name).columns, *(("masks",) if getattr(head, "with_masks", False) else ()))


def load(name: str) -> ModuleType:
    """The module of task `name`, which holds its `Metric`."""
    get(name)
    return import_module(f"sigma_ray.tasks.{name}")
