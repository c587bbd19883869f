"""Optuna's journal, read back by Optuna's own backend, after kills at any byte and on a disk that is full."""

import errno
import os

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from trainables.design_log import DesignLog


def opened(backend) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=JournalStorage(backend), load_if_exists=True)


def play(study: optuna.Study, numbers: range) -> None:
    for number in numbers:
        trial = study.ask({"x": optuna.distributions.IntDistribution(0, 9)})
        trial.report(number / 2, 1)
        study.tell(trial, float(number))


def values(path) -> list[float]:
    """As Optuna itself reads them."""
    trials = opened(JournalFileBackend(str(path))).get_trials(states=(TrialState.COMPLETE,))
    return [trial.value for trial in trials]


def test_optuna_reads_what_was_logged(tmp_path):
    path = tmp_path / "optuna.log"
    play(opened(DesignLog(path)), range(3))
    play(opened(DesignLog(path)), range(3, 5))
    assert values(path) == [0, 1, 2, 3, 4]


def test_a_driver_killed_at_any_byte_leaves_a_log_that_goes_on(tmp_path):
    path = tmp_path / "whole.log"
    play(opened(DesignLog(path)), range(2))
    whole = path.read_bytes()
    for cut in range(0, len(whole) + 1, 7):
        torn = tmp_path / "torn.log"
        torn.write_bytes(whole[:cut])
        before = values(torn) if whole[:cut].endswith(b"\n") else None
        play(opened(DesignLog(torn)), range(7, 8))
        assert values(torn)[-1] == 7
        assert before is None or values(torn) == [*before, 7]


@pytest.mark.parametrize("damage", [b'{"op_code":5,"tri{"op_code":0}\n', b"\xff\xfe\n", b"7\n", b"\n"])
def test_it_is_cut_before_a_damaged_line(tmp_path, damage):
    path = tmp_path / "optuna.log"
    play(opened(DesignLog(path)), range(2))
    whole = path.read_bytes()
    path.write_bytes(whole + damage + whole)
    play(opened(DesignLog(path)), range(2, 3))
    assert values(path) == [0, 1, 2]


def test_a_lock_that_a_killed_driver_left_is_nobodys(tmp_path):
    path = tmp_path / "optuna.log"
    os.symlink(path, f"{path}.lock")
    play(opened(DesignLog(path)), range(1))
    os.unlink(f"{path}.lock")
    assert values(path) == [0]


@pytest.mark.parametrize("taken", [0, 5])
def test_a_full_disk_stops_nothing_and_is_made_up_for(tmp_path, monkeypatch, taken):
    path = tmp_path / "optuna.log"
    study, write, space = opened(DesignLog(path)), os.write, [taken]

    def full(file, content):
        if not space:
            return write(file, content)
        if not space[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        space[0] -= (written := write(file, content[: space[0]]))
        return written

    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        play(study, range(2))
    assert values(path) == [] and path.read_bytes().endswith(b"\n")
    assert [trial.value for trial in study.trials] == [0, 1]
    play(study, range(2, 3))
    assert values(path) == [0, 1, 2]
