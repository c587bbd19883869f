"""What follows an attempt, by how it ended (with real processes and memory: tests/faults)."""

import dataclasses
from pathlib import Path

import pytest
from ray import tune

from sigma_ray import profiles
from sigma_ray.config import override_all, to_dict
from sigma_ray.failures import DataError, NonFiniteLossError, OutOfMemoryError, StorageError, WorkerLostError
from trainables import attempts
from trainables.trial import Spec

CONFIG = override_all(profiles.load("demo"), [("train.batch_size", 4), ("train.eval_batch_size", 2)])


@pytest.fixture
def spec(tmp_path):
    return Spec(key="k", arm="a", seed=0, config=to_dict(CONFIG), folder=str(tmp_path / "trial"))


def play(spec, monkeypatch, script):
    """Run a trial whose attempts do what `script` says; the divisors they got, and the reports."""
    reports, divisors = [], []

    def execute(of, report, *, memory_divisor):
        divisors.append(memory_divisor)
        ending = script.pop(0)
        if ending:
            raise ending
        report({"final": {}})

    monkeypatch.setattr(attempts, "execute", execute)
    monkeypatch.setattr(tune, "report", reports.append)
    attempts.run({"arm": "a", "seed": 0}, specs={"a / seed 0": spec}, gpus=0)
    return divisors, reports


def test_too_little_memory_halves_the_pieces_until_they_fit(spec, monkeypatch):
    divisors, reports = play(spec, monkeypatch, [OutOfMemoryError("full"), OutOfMemoryError("full"), None])
    assert divisors == [1, 2, 4]
    assert [list(report)[-1] for report in reports] == ["retry", "retry", "final"]
    assert reports[1]["retry"] == "OutOfMemoryError: full; again with 1/4 of a batch at a time"
    # A later driver, or another node, does not have to find out again.
    assert play(spec, monkeypatch, [None])[0] == [4]


def test_what_does_not_fit_image_by_image_fails(spec, monkeypatch):
    divisors, reports = play(spec, monkeypatch, [OutOfMemoryError("full")] * 3)
    assert divisors == [1, 2, 4] and reports[-1]["failure"] == "OutOfMemoryError: full"


@pytest.mark.parametrize(
    "error", [NonFiniteLossError("nan"), DataError("bad"), KeyError("bug"), FileNotFoundError(2, "x")]
)
def test_permanent_failures_are_reported_once_with_their_traceback(spec, monkeypatch, error):
    divisors, reports = play(spec, monkeypatch, [error])
    assert divisors == [1] and len(reports) == 1
    assert reports[0]["failure"].startswith(f"{type(error).__name__}: ")
    text = (Path(spec.folder) / attempts.ERROR_FILE).read_text()
    assert text.startswith("Traceback") and type(error).__name__ in text


@pytest.mark.parametrize("error", [WorkerLostError("gone"), ConnectionResetError("x"), DataError("x", transient=True)])
def test_transient_failures_are_left_to_tune(spec, monkeypatch, error):
    with pytest.raises(type(error)):
        play(spec, monkeypatch, [error])


def test_a_node_without_the_shared_folder_starts_nothing(spec, monkeypatch):
    spec = dataclasses.replace(spec, folder="/nowhere/trials/k")
    with pytest.raises(StorageError, match="mount the shared storage there") as caught:
        play(spec, monkeypatch, [])
    assert caught.value.transient
