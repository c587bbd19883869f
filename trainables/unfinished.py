"""Studies that were not brought to their end: noted beside their results, and continued.

A head node that comes back after a crash runs `python -m studies.resume`, and so may a person.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from filelock import FileLock, Timeout

from sigma_ray.files import write_atomically
from trainables.cli import errors_end_the_program

COMMAND_FILE = "command.json"


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to continue.

    Attributes:
        output: folder that studies were given as --output.
    """

    output: str = "results"


def main() -> None:
    """Parse the command line and continue; exit with the largest code of the studies, 2 when the input is refused."""
    flags = tyro.cli(Flags, prog="python -m studies.resume", description="Go on with every unfinished study.")
    with errors_end_the_program():
        sys.exit(resume(Path(flags.output)))


@contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Note this process's command in a study's folder until the study has ended, or a person has stopped it.

    A kill, or the machine's shutdown (SIGTERM, which is turned into the orderly stop of Ctrl-C), leaves the note. It is
    readable by its owner alone: a command may contain a password.
    """
    path = folder / COMMAND_FILE
    write_atomically(path, json.dumps({"command": _command(), "folder": os.getcwd()}).encode(), mode=0o600)
    terminated: list[int] = []

    def stop(number: int, frame: Any) -> None:
        terminated.append(number)
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as shells start what runs in the background
            signal.signal(signal.SIGINT, signal.default_int_handler)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except ConnectionError:  # MLflow went away: what waits on disk is still to be delivered
        terminated.append(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
        if not terminated:
            path.unlink(missing_ok=True)


def _command() -> list[str]:
    """What follows the interpreter's name on this process's command line."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    program = ["-m", spec.name] if spec else [os.path.abspath(sys.argv[0])]
    return [*program, *sys.argv[1:]]


def resume(output: Path) -> int:
    """Run every study left unfinished below `output` again, one after another.

    Returns:
        The largest exit code of theirs; 0 where nothing was left.

    Raises:
        ValueError: there is no such folder.
    """
    if not output.is_dir():
        raise ValueError(f"--output must be a folder of results, but {output} is none; give the one that studies had.")
    code = 0
    for path in sorted(output.glob(f"*/{COMMAND_FILE}")):
        if _is_running(path.parent):
            print(f"{path.parent.name}: is running")
            continue
        noted = json.loads(path.read_text())
        print(f"{path.parent.name}: going on", flush=True)
        code = max(code, subprocess.run([sys.executable, *noted["command"]], cwd=noted["folder"]).returncode)
    return code


def _is_running(folder: Path) -> bool:
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False
