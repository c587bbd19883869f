"""What the driver makes of Ray's words for the end of an attempt; those here are Ray 2.60's own."""

from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from sigma_ray import profiles
from sigma_ray.config import to_dict
from trainables import placement
from trainables.attempts import memory_divisor
from trainables.events import MAX_CRASHES, Events
from trainables.trial import Spec

KILLED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed "
    "unexpectedly due to SIGSEGV or another unexpected error."
)
NODE_LOST = "The actor died because its node has died. Node Id: d64064818acce6d11a3a2fc2feeddd9f969895c43eb71eb5"
CROWDED_OUT = "The actor is dead because 1 worker(s) were killed due to the node running low on memory. Memory"
GONE = "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task."


class Study:
    """One trial, as Tune would tell `events` of it."""

    def __init__(self, folder: Path) -> None:
        config = to_dict(profiles.load("demo"))
        self.spec = Spec(key="k", arm="a", seed=0, config=config, folder=str(folder / "trial"))
        self.ledger = MagicMock()
        self.events = Events(self.ledger, MagicMock(), {"a / seed 0": self.spec})
        path = folder / "error.txt"
        path.write_text(f"Traceback (most recent call last):\n{KILLED}\n")
        self.trial = SimpleNamespace(
            config={"arm": "a", "seed": 0}, error_file=str(path), num_failures=1, max_failures=MAX_CRASHES
        )

    def tell(self, name: str, **info: object) -> None:
        getattr(self.events, name)(0, [self.trial], self.trial, **info)
        assert self.events.problems == []

    @property
    def recorded(self) -> list[str]:
        return [name for name, _, _ in self.ledger.method_calls]


@pytest.fixture
def study(tmp_path, monkeypatch) -> Study:
    monkeypatch.setattr(placement, "remove_orphans", lambda: 0)
    return Study(tmp_path)


def test_attempts_that_die_before_they_begin_count(study):
    """Ray may lose a process before Tune has said that the attempt began."""
    study.tell("on_trial_start")
    study.tell("on_trial_recover")
    study.tell("on_trial_recover")
    study.tell("on_trial_error")
    assert study.recorded == ["start", "fail"] * 3
    assert study.events.started == {"k"} and "no progress" in study.events.outcome["k"]


def test_an_attempt_begins_once(study):
    study.tell("on_trial_start")
    study.tell("on_trial_result", result={"retry": "out of memory"})
    study.tell("on_trial_result", result={"failure": "loss became nan"})
    assert study.recorded == ["start", "fail"] * 2


@pytest.mark.parametrize(("words", "divisor"), [(KILLED, 1), (NODE_LOST, 1), (CROWDED_OUT, 2), (GONE, 1)])
def test_only_too_little_memory_cuts_batches(study, words, divisor):
    Path(study.trial.error_file).write_text(f"Traceback (most recent call last):\n{words}\n\tactor_id: c2\n")
    study.tell("on_trial_recover")
    assert memory_divisor(study.spec) == divisor
    ((key, reason), _) = study.ledger.fail.call_args
    assert key == "k" and words.startswith(reason.partition(";")[0]) and "common causes" not in reason
