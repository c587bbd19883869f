"""What the driver makes of Ray's words for the end of an attempt; those here are Ray 2.60's own."""

from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from sigma_ray import profiles
from sigma_ray.config import to_dict
from trainables import placement
from trainables.attempts import memory_divisor
from trainables.events import Events
from trainables.trial import Spec

KILLED = (
    "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: Worker "
    "unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was "
    "killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed "
    "unexpectedly due to SIGSEGV or another unexpected error."
)
NODE_LOST = "The actor died because its node has died. Node Id: d64064818acce6d11a3a2fc2feeddd9f969895c43eb71eb5"
CROWDED_OUT = "The actor is dead because 1 worker(s) were killed due to the node running low on memory. Memory"


@pytest.mark.parametrize(("words", "divisor"), [(KILLED, 1), (NODE_LOST, 1), (CROWDED_OUT, 2)])
def test_only_too_little_memory_cuts_batches(tmp_path, monkeypatch, words, divisor):
    monkeypatch.setattr(placement, "remove_orphans", lambda: 0)
    spec = Spec(key="k", arm="a", seed=0, config=to_dict(profiles.load("demo")), folder=str(tmp_path / "trial"))
    ledger, console = MagicMock(), MagicMock()
    events = Events(ledger, console, {"a / seed 0": spec})
    (tmp_path / "error.txt").write_text(f"Traceback (most recent call last):\n{words}\n")
    trial = SimpleNamespace(config={"arm": "a", "seed": 0}, error_file=str(tmp_path / "error.txt"))
    events.on_trial_recover(0, [trial], trial)
    assert events.problems == []
    assert memory_divisor(spec) == divisor
    ((key, reason), _) = ledger.fail.call_args
    assert key == "k" and words.startswith(reason.partition(";")[0]) and "common causes" not in reason
