"""Notes of interrupted studies, with real processes."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from trainables import unfinished

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, signal, sys, time
from pathlib import Path
from trainables import unfinished
signal.signal(signal.SIGINT, signal.SIG_IGN if "IN_BACKGROUND" in os.environ else signal.default_int_handler)
folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
with (folder / "starts").open("a") as file:
    file.write("x")
with unfinished.noted(folder):
    if len((folder / "starts").read_text()) == 1 and sys.argv[2] == "wait":
        time.sleep(100)
    if sys.argv[2] == "mlflow":
        raise ConnectionError("gone")
sys.exit(int(sys.argv[3]))
"""


@pytest.fixture
def start(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)

    def start(*arguments):
        command = [sys.executable, str(program), str(tmp_path / "results" / "tiny"), *arguments]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)

    return start


def note(tmp_path):
    return tmp_path / "results" / "tiny" / unfinished.COMMAND_FILE


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("code", ["0", "1"])
def test_a_study_that_ended_leaves_no_note(tmp_path, start, code):
    assert start("run", code).wait() == int(code)
    assert not note(tmp_path).exists()


def test_a_study_that_mlflow_left_stays_noted(tmp_path, start):
    assert start("mlflow", "0").wait() == 1
    assert note(tmp_path).exists()


@pytest.mark.parametrize(("number", "stays"), [(signal.SIGKILL, True), (signal.SIGTERM, True), (signal.SIGINT, False)])
def test_what_stops_a_study_decides(tmp_path, start, number, stays, monkeypatch):
    process = start("wait", "0")
    wait_for(note(tmp_path))
    assert stat.S_IMODE(note(tmp_path).stat().st_mode) == 0o600
    process.send_signal(number)
    assert process.wait(60) != 0
    assert note(tmp_path).exists() is stays
    if stays:
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        assert unfinished.resume(tmp_path / "results") == 0
        assert (tmp_path / "results" / "tiny" / "starts").read_text() == "xx" and not note(tmp_path).exists()


def test_a_study_in_the_background_heeds_sigterm_too(tmp_path, start, monkeypatch):
    """Shells have what they start with `&` ignore SIGINT."""
    monkeypatch.setenv("IN_BACKGROUND", "1")
    process = start("wait", "0")
    wait_for(note(tmp_path))
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0 and note(tmp_path).exists()


def test_resume_passes_a_running_study_and_keeps_the_worst_code(tmp_path, capfd):
    for name, code in (("a", 0), ("b", 1), ("c", 0)):
        (tmp_path / name).mkdir()
        command = ["-c", f"print('ran {name}'); raise SystemExit({code})"]
        (tmp_path / name / "command.json").write_text(json.dumps({"command": command, "folder": str(tmp_path)}))
    with FileLock(tmp_path / "c" / ".lock"):
        assert unfinished.resume(tmp_path) == 1
    out = capfd.readouterr().out
    assert "ran a" in out and "ran b" in out and "ran c" not in out and "c: is running" in out


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="--output must be a folder of results"):
        unfinished.resume(tmp_path / "none")


def test_modules_are_noted_as_modules():
    code = "from trainables import unfinished; print(unfinished._command())"
    done = subprocess.run([sys.executable, "-m", "timeit", "-n", "1", "-r", "1", code], capture_output=True, cwd=ROOT)
    assert done.stdout.decode().startswith(f"{['-m', 'timeit', '-n', '1', '-r', '1', code]}")
