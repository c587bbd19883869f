"""Optuna's journal of a study on disk, which never stands in the study's way.

MLflow decides what is still to be trained; this file is a record for `optuna-dashboard`. Optuna's own backend ends the
study where a full disk refuses a line, refuses to open a file with a torn one, and waits half a minute for the lock of
a driver that was killed.
"""

import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from sigma_ray.files import append


class DesignLog(BaseJournalBackend):
    """One JSON object a line, as Optuna's own backend writes it; the caller holds the study's lock.

    What was read or logged stays in memory, so that the study goes on whatever happens to the file. Lines that the disk
    does not take are written with the next ones.

    Args:
        path: the file. It is cut before the first damaged line, because Optuna numbers trials by their order in it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._logs = _whole_lines(path)
        self._waiting: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """What was logged, from one number on."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Log, and write what waits as far as the disk takes it."""
        fresh = json.loads(json.dumps(logs))  # as they would be read from a file
        self._logs += fresh
        self._waiting += fresh
        content = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in self._waiting).encode()
        with suppress(OSError):
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                append(file, content)
                self._waiting = []
            finally:
                os.close(file)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """Those before the first one that a crash or a full disk has damaged; the file is cut there."""
    content = path.read_bytes() if path.exists() else b""
    logs, end = [], 0
    for line in content.splitlines(keepends=True):
        try:
            log = json.loads(line) if line.endswith(b"\n") else None
        except ValueError:
            log = None
        if not isinstance(log, dict):
            os.truncate(path, end)
            break
        logs.append(log)
        end += len(line)
    return logs
