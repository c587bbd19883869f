"""Files of events, one JSON object a line, and beside each a mark of how far they were delivered.

Written so that a kill at any byte, a full disk or a damaged line costs no other event.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from sigma_ray.files import append

logger = logging.getLogger(__name__)

Event = dict
MARK_BYTES = 20


class Journal:
    """The file that an invocation appends to, created with the first event."""

    def __init__(self, path: Path) -> None:
        """Append to `path`, which must not exist yet."""
        self.path = path
        self._file: int | None = None
        self._end = 0

    def append(self, event: Event) -> int:
        """Write a line and return the byte behind it; nothing of it remains if that fails.

        Raises:
            OSError: the disk does not take it.
        """
        line = (json.dumps(event) + "\n").encode()
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Before the events, and as long as it will ever be: marking needs no space on a disk that is full.
            _mark(self.path).write_text("0" * MARK_BYTES)
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        append(self._file, line)
        self._end += len(line)
        return self._end

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    @staticmethod
    def mark(path: Path, end: int) -> None:
        """Say that everything up to byte `end` of `path` was delivered."""
        try:
            mark = os.open(_mark(path), os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.pwrite(mark, f"{end:0{MARK_BYTES}d}".encode(), 0)
            finally:
                os.close(mark)
        except OSError as error:  # the events come again at the next start, which their receiver accepts
            logger.debug("Cannot mark %s up to %d: %s", path, end, error)


def next_number(folder: Path, name: str) -> int:
    """A number above those of all files of `name`, marks that a kill left alone included."""
    stems = (path.stem.removeprefix(f"{name}-") for path in folder.glob(f"{name}-*"))
    return max((int(stem) for stem in stems if stem.isdigit()), default=0) + 1


def backlog(folder: Path, name: str) -> Iterator[tuple[Path, int, Event]]:
    """(file, byte behind it, event) of what was not delivered, oldest first; removes files that hold none."""
    for path in sorted(folder.glob(f"{name}-*.jsonl")):
        events = _undelivered(path)
        if not events:
            remove(path)
        yield from ((path, end, event) for end, event in events)


def remove(path: Path) -> None:
    """Delete a file of events and its mark, data first."""
    for file in (path, _mark(path)):
        file.unlink(missing_ok=True)


def _mark(path: Path) -> Path:
    return path.with_suffix(".delivered")


def _undelivered(path: Path) -> list[tuple[int, Event]]:
    """(end offset, event) of every whole line behind the mark; a line torn by a kill is no event."""
    offset, damaged, events = _delivered_up_to(path), 0, []
    for line in path.read_bytes()[offset:].splitlines(keepends=True):
        offset += len(line)
        if not line.endswith(b"\n"):
            continue  # never acknowledged to the producer
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            events.append((offset, event))
        else:
            damaged += 1
    if damaged:
        kept = path.with_suffix(".damaged")
        shutil.copyfile(path, kept)
        logger.warning(
            "%d tracking events in %s are damaged and left out (a copy is in %s); the others are delivered.",
            damaged,
            path.name,
            kept,
        )
    return events


def _delivered_up_to(path: Path) -> int:
    """The mark; 0, which repeats events, where it cannot be true."""
    try:
        end = int(_mark(path).read_text())
    except (OSError, ValueError):
        return 0
    return end if 0 <= end <= path.stat().st_size else 0
