"""What may happen to a study's record: the server is away or slow, its artifact store takes nothing, clocks err."""

import signal
import time

import pytest

from benchmarks.faults import disks
from benchmarks.faults.nodes import free_port

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]


def test_a_server_that_is_down_at_the_start_is_refused_in_one_line(study):
    pair = study()
    nowhere = f"http://127.0.0.1:{free_port()}"
    pair.driver.command[pair.driver.command.index("--tracking-uri") + 1] = nowhere
    pair.driver.start()
    assert pair.driver.await_end() == 2
    (line,) = pair.driver.output().splitlines()
    assert line.startswith("error: ") and nowhere in line and "start it" in line
    assert not (pair.output / "faults" / "trials").exists()


def test_a_server_that_dies_in_the_middle_gets_everything_when_it_is_back(study, server):
    pair = study(tracker=server)
    pair.driver.start()
    pair.driver.await_line("sigma / seed 0: step 10/60")
    server.kill()
    pair.driver.await_line("sigma / seed 0: step 30/60")
    server.begin()
    assert pair.driver.await_end() == 0, pair.driver.output()
    assert pair.driver.output().count("Tracking is interrupted") <= 1
    assert {trial.attempts for trial in pair.trials().values()} == {1}
    assert pair.wrong() == []


def test_a_server_that_stays_away_gets_everything_from_the_next_run(study, server):
    pair = study(tracker=server)
    pair.driver.start()
    pair.driver.await_line("sigma / seed 0: step 10/60")
    server.kill()
    code = pair.driver.await_end()
    output = pair.driver.output()
    assert code not in (0, -signal.SIGKILL) and "Traceback" not in output
    assert "run the same command again to send them" in " ".join(output.split())
    assert "[2/2]" in output, "a trial was lost with the server"
    server.begin()
    pair.driver.start()
    assert pair.driver.await_end() == 0, pair.driver.output()
    assert "started" not in pair.driver.output(), "a trial was trained again"
    assert {trial.attempts for trial in pair.trials().values()} == {1}
    assert pair.wrong() == []


def test_a_server_that_does_not_answer_does_not_stop_training(study, server):
    pair = study(tracker=server)
    pair.driver.start()
    pair.driver.await_line("sigma / seed 0: step 10/60")
    server.stop()
    pair.driver.await_line("[2/2]", 120)  # both trials end meanwhile
    server.go_on()
    assert pair.driver.await_end() == 0, pair.driver.output()
    assert pair.wrong() == []


def test_artifacts_wait_while_the_store_is_read_only(study, server, may_mount):
    pair = study(tracker=server)
    pair.driver.start()
    pair.driver.await_line("sigma / seed 0: step 10/60")
    disks.freeze(server.artifacts)
    try:
        pair.driver.await_line("[2/2]")
        time.sleep(2)
    finally:
        disks.thaw(server.artifacts)
    assert pair.driver.await_end() == 0, pair.driver.output()
    assert pair.wrong() == []


@pytest.mark.parametrize("hours", [-1, 1])
def test_clocks_that_differ_change_nothing(study, hours, tmp_path):
    """The driver that goes on, on another machine perhaps, lives an hour before or after the first one."""
    pair = study()
    pair.driver.start()
    pair.driver.await_line("sigma / seed 0: step 30/60")
    pair.driver.kill()
    # Loaded by every Python process that has its folder on the path.
    (tmp_path / "clock").mkdir()
    (tmp_path / "clock/sitecustomize.py").write_text(CLOCK.format(seconds=3600 * hours))
    path = pair.driver.environment["PYTHONPATH"]
    pair.driver.environment["PYTHONPATH"] = f"{tmp_path / 'clock'}:{path}"
    pair.driver.start()
    assert pair.driver.await_end() == 0, pair.driver.output()
    assert pair.trials()["sigma"].attempts == 2
    assert pair.wrong() == []


CLOCK = """
import sys, time
real, real_ns = time.time, time.time_ns

def shifted():
    # gRPC's Python makes times of day for its C, which reads the clock itself.
    return real() + (0 if sys._getframe(1).f_globals["__name__"].startswith("grpc") else {seconds})

time.time, time.time_ns = shifted, lambda: real_ns() + {seconds} * 10**9
"""
