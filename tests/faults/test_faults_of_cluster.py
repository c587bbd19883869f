"""What may happen to the machines: a worker node dies or is taken away, the head dies, the driver dies."""

import os
import signal
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(1200)]


@pytest.fixture
def pair(study):
    return study()


def test_a_killed_nodes_trials_go_on_elsewhere(cluster, pair):
    pair.driver.start()
    pair.driver.await_line("sigma / seed 0: step 15/60")
    cluster.workers[0].kill()
    assert pair.driver.await_end() == 0, pair.driver.output()
    assert sorted(trial.attempts for trial in pair.trials().values()) == [1, 2]
    assert pair.wrong() == []


def test_a_notice_saves_the_trial_before_its_node_is_taken_away(cluster, pair):
    """The trial saves at once, between its evaluations, and goes on elsewhere from there."""
    pair.driver.command += ["--set", "train.eval_interval=30", "--set", "train.log_interval=1"]
    pair.driver.start()
    pair.driver.await_line("sigma / seed 0: started")
    folder = pair.output / "faults/trials"
    pair.driver.await_line("wide / seed 0: started")
    node = cluster.workers[0]
    cluster.announce_end(node, 60)
    deadline = time.monotonic() + 60
    while not any(int(path.stem[5:]) % 30 for path in folder.glob("*/step-*.safetensors")):
        assert time.monotonic() < deadline, sorted(folder.glob("*/*"))
        time.sleep(0.05)
    node.kill()
    assert pair.driver.await_end() == 0, pair.driver.output()
    trials = pair.trials()
    assert sorted(trial.attempts for trial in trials.values()) == [1, 2]
    assert [step for step, _ in trials["sigma"].curves["val/miou"]] == [30, 60]
    assert [step for step, _ in trials["sigma"].curves["train/loss"]] == list(range(1, 61))
    assert cluster.placement_groups() == []


def test_a_killed_driver_is_resumed(cluster, pair):
    pair.driver.start()
    pair.driver.await_line("sigma / seed 0: step 15/60")
    pair.driver.kill()
    deadline = time.monotonic() + 60
    while cluster.trials():
        assert time.monotonic() < deadline, "trials outlive their driver"
        time.sleep(0.2)
    resume = [sys.executable, "-m", "studies.resume", "--output", str(pair.output)]
    environment, where = pair.driver.environment, pair.driver.folder
    done = subprocess.run(resume, env=environment, cwd=where, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert pair.wrong() == []
    again = subprocess.run(resume, env=environment, cwd=where, capture_output=True, text=True, timeout=100)
    assert (again.returncode, again.stdout) == (0, ""), "there is something left to resume"


def test_a_dead_head_ends_the_driver_and_the_next_one_goes_on(cluster, pair):
    pair.driver.start()
    pair.driver.await_line("sigma / seed 0: step 15/60")
    cluster.head.kill()
    code = pair.driver.await_end(180)
    assert code not in (0, 2), pair.driver.output()
    # The note for `studies.resume` is still there, as the head comes back.
    assert (pair.output / "faults/command.json").exists()
    cluster.head.join()
    deadline = time.monotonic() + 180
    for node in cluster.workers:
        while node.alive:
            assert time.monotonic() < deadline, "a node does not notice that its cluster is gone"
            time.sleep(0.5)
        node.kill()
        node.join()
    pair.driver.start()
    assert pair.driver.await_end() == 0, pair.driver.output()
    assert pair.wrong() == []


def test_terminated_drivers_stop_in_order(cluster, pair):
    """SIGTERM, as a machine that shuts down sends it: runs end as KILLED, and the note to go on stays."""
    pair.driver.start()
    pair.driver.await_line("sigma / seed 0: step 15/60")
    os.kill(pair.driver.past[-1], signal.SIGTERM)
    assert pair.driver.await_end() != 0
    assert "RUNNING" not in {trial.status for trial in pair.trials().values()}
    assert (pair.output / "faults/command.json").exists()
    pair.driver.start()
    assert pair.driver.await_end() == 0, pair.driver.output()
    assert pair.wrong() == []
