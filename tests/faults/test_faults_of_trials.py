"""What may happen to a trial on its node: its process dies, memory or disk are full, its loss or a file is bad."""

import resource
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.faults import disks
from benchmarks.faults.processes import title

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


def test_a_killed_process_is_replaced_and_goes_on(study):
    pair = study()
    pair.driver.start()
    pair.driver.await_line("sigma / seed 0: step 20/60")
    pair.kill_trials()
    assert pair.driver.await_end() == 0, pair.driver.output()
    assert pair.trials()["sigma"].attempts == 2
    assert pair.driver.output().count("sigma / seed 0: step 10/60") == 1, "it began afresh"
    assert pair.wrong() == []


def test_deaths_without_progress_are_counted_and_bounded(study):
    pair = study()
    pair.driver.start()
    while pair.driver.running:
        assert "step 5/60" not in pair.driver.output(), "the machine was too slow to kill the trials in time"
        if pair.driver.output().count("started") >= 2:
            pair.kill_trials()
        time.sleep(0.1)
    assert pair.driver.exit_code == 1, pair.driver.output()
    trial = pair.trials()["sigma"]
    assert trial.status == "FAILED" and 2 <= trial.attempts <= 5
    assert "process has died" in trial.reason
    pair.driver.start()
    assert pair.driver.await_end() == 0, pair.driver.output()
    assert pair.wrong() == []


def test_nan_is_not_tried_again(study):
    pair = study()
    pair.driver.command += ["--set", "train.learning_rate=1e30", "--set", "train.clip_grad_norm=none"]
    pair.driver.start()
    assert pair.driver.await_end() == 1, pair.driver.output()
    trials = pair.trials()
    assert trials["sigma"].status == "FAILED" and trials["sigma"].attempts == 1
    assert "NonFiniteLossError: loss became" in trials["sigma"].reason
    assert trials["sigma"].reason in (pair.output / "faults/table.md").read_text()


@pytest.mark.parametrize("damage", ["truncated", "a bit turned over", "empty", "gone"])
def test_a_damaged_checkpoint_is_left_out(study, damage):
    pair = study()
    pair.driver.start()
    pair.driver.await_line("sigma / seed 0: step 20/60")
    for process in pair.cluster.trials():
        process.send_signal(signal.SIGSTOP)
    newest = pair.checkpoints("sigma")[-1]
    content = newest.read_bytes()
    at = len(content) // 2
    damaged = {
        "truncated": content[:at],
        "a bit turned over": content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :],
        "empty": b"",
    }
    newest.unlink() if damage == "gone" else newest.write_bytes(damaged[damage])
    pair.kill_trials()
    assert pair.driver.await_end() == 0, pair.driver.output()
    if damage != "gone":
        assert f"checkpoint {newest.name} cannot be used" in pair.driver.output()
    assert pair.trials()["sigma"].attempts == 2
    assert pair.wrong() == []


@pytest.mark.parametrize("killed", [False, True])
def test_a_full_disk_costs_a_checkpoint_not_the_trial(study, may_mount, killed):
    """And where the process dies as well, the trial goes on from the checkpoint before."""
    pair = study()
    folder = pair.output / "faults" / "trials"
    with disks.volume(folder, 64):
        pair.driver.start()
        pair.driver.await_line("sigma / seed 0: step 20/60")
        disks.fill(folder)
        pair.driver.await_line("no checkpoint at step")
        assert all(path.stat().st_size > 0 for path in pair.checkpoints("sigma")), "an old one was damaged"
        if killed:
            pair.kill_trials()
        disks.empty(folder)
        assert pair.driver.await_end() == 0, pair.driver.output()
        assert pair.trials()["sigma"].attempts == 1 + killed
        assert pair.wrong() == []


@pytest.mark.skipif(sys.platform != "linux", reason="limits of other processes are Linux's")
def test_too_little_memory_halves_the_micro_batch(study, tmp_path):
    """For real: the trial's process may not have more memory than half of the batch needs."""
    settings = ["data.num_train=256", "train.batch_size=256", "train.num_steps=4", "train.eval_interval=2"]
    flags = [part for one in settings for part in ("--set", one)]
    halves = study(*flags, "--set", "train.micro_batch_size=128", "--output", str(tmp_path / "halves"))
    halves.driver.start()
    needed = 0
    while halves.driver.running:
        needed = max([needed, *(_data_bytes(process) for process in halves.cluster.trials())])
    assert halves.driver.exit_code == 0, halves.driver.output()
    pair = study(*flags)
    pair.driver.start()
    while pair.driver.running:
        for process in (process for node in pair.cluster.workers for process in node.members()):
            if title(process).startswith(("ray::IDLE", "ray::Impl")):
                resource.prlimit(process.pid, resource.RLIMIT_DATA, (needed + (250 << 20),) * 2)
    output = pair.driver.output()
    assert pair.driver.exit_code == 0, output
    assert "again with 1/2 of a batch at a time" in output


def _data_bytes(process: psutil.Process) -> int:
    try:
        lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("VmData")), 0)
