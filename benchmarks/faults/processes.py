"""Programs that can be killed with all that they have started."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import psutil

HELPERS = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent")


class Program:
    """A program in an operating-system session of its own.

    Children keep the session whoever adopts them, so `members` finds also those whose parents are dead.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path) -> None:
        self.command, self.environment, self.folder, self.log = list(command), dict(environment), folder, log
        self.past: list[int] = []
        self._process: subprocess.Popen | None = None
        self._printed = 0

    def start(self) -> None:
        """Start it; what it prints is appended to the log."""
        if self.members():
            raise RuntimeError(f"{self.command[:3]} must have ended before it is started again, but it runs.")
        self._printed = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.folder,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.past.append(self._process.pid)

    @property
    def exit_code(self) -> int | None:
        """How the program itself ended; None while it runs, or when it never ran."""
        return self._process.poll() if self._process else None

    @property
    def running(self) -> bool:
        """Whether the program itself runs."""
        return self._process is not None and self._process.poll() is None

    def output(self) -> str:
        """What it has printed since its last start."""
        with self.log.open("rb") as log:
            log.seek(self._printed)
            return log.read().decode(errors="replace")

    def members(self) -> list[psutil.Process]:
        """The living processes of every session that it has had."""
        return [process for process in psutil.process_iter() if _session(process) in self.past]

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to every member."""
        for process in self.members():
            try:
                process.send_signal(number)
            except psutil.NoSuchProcess:
                continue

    def kill(self) -> None:
        """SIGKILL all members, and whatever they start meanwhile, until none is left."""
        deadline = time.monotonic() + 30
        while members := self.members():
            if time.monotonic() > deadline:
                raise RuntimeError(f"these processes do not die of SIGKILL: {members}")
            self.signal(signal.SIGKILL)
            time.sleep(0.05)
        if self._process:
            self._process.wait()

    def wait(self, until: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a condition; RuntimeError with the last output when the program ends first, or takes longer."""
        deadline = time.monotonic() + seconds
        while not until():
            if not self.running or time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not happen in {seconds:.0f} s ({self.exit_code}): {self.tail()}")
            time.sleep(0.1)

    def tail(self, lines: int = 20) -> str:
        """The end of its output."""
        return "\n".join(self.output().splitlines()[-lines:])


def _session(process: psutil.Process) -> int:
    try:
        # The dead whom nobody has buried yet hold no resources.
        return 0 if process.status() == psutil.STATUS_ZOMBIE else os.getsid(process.pid)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return 0


def marked(name: str, value: str) -> Iterator[psutil.Process]:
    """Living processes with an environment variable."""
    for process in psutil.process_iter():
        try:
            if process.environ().get(name) == value and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue


def process_name(process: psutil.Process) -> str:
    """Its name, or "" when it has ended."""
    try:
        return process.name()
    except psutil.NoSuchProcess:
        return ""


def title(process: psutil.Process) -> str:
    """Its command line, or "" when it has ended; Ray's workers say there what they do."""
    try:
        return " ".join(process.cmdline()).strip()
    except psutil.NoSuchProcess:
        return ""


def trial_processes(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those of Ray's that hold a trial, or a worker of one."""
    titles = [(process, title(process)) for process in processes]
    return [process for process, name in titles if name.startswith("ray::") and not name.startswith(HELPERS)]
