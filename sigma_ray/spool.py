"""A durable, ordered mailbox: events go to a file first and one background thread delivers them.

The producer never waits for the receiver. What could not be delivered stays in the file, and the next `Spool`
of the same name delivers it first. An event is repeated at most once (a kill between delivery and its mark),
hence receivers must accept a repeated event.
"""

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

Event = dict
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 15.0


class Refused(Exception):
    """Raised by a receiver that will never accept an event, however often it is sent."""


class Spool:
    """Events of one producer, on disk until delivered."""

    def __init__(self, folder: Path, name: str, deliver: Callable[[Event, bool], None]) -> None:
        """Pick up the backlog of `name` and start delivering.

        Args:
            folder: where the files are; created when the first event comes.
            name: which backlog; only one living process may use a name in a folder (the caller holds a lock).
            deliver: called on the thread with (event, replayed); raises `Refused` to have the event
                dropped with a warning, anything else to have it sent again after a growing pause.
        """
        self._deliver = deliver
        self._path = folder / f"{name}-{time.time_ns():020d}.jsonl"
        self._file = None
        self._waiting: deque[tuple[Path, int, Event, bool]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._hurry = False
        self._old = sorted(folder.glob(f"{name}-*.jsonl"))
        self.last_error = ""
        for path in self._old:
            self._waiting.extend((path, end, event, True) for end, event in _undelivered(path))
        self._thread = threading.Thread(target=self._run, name=f"spool-{name}", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Append a JSON-able event to the file and hand it to the thread; returns at once."""
        line = json.dumps(event) + "\n"
        with self._changed:
            if self._closed:
                raise ValueError(f"The event {event.get('event')!r} came after close(); use a new one.")
            if self._file is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("ab", buffering=0)
            self._file.write(line.encode())
            self._waiting.append((self._path, self._file.tell(), event, False))
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds; return whether every event has been delivered (or refused)."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._waiting, timeout)

    def close(self, timeout: float) -> bool:
        """Flush, stop the thread, remove the files if nothing is left in them; return whether that is so."""
        if self._closed:
            return not self._waiting
        done = self.flush(timeout)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            if self._file is not None:
                self._file.close()
                self._file = None
        self._thread.join(timeout=1.0)
        if done:
            _remove(self._path)
        return done

    def _run(self) -> None:
        """Deliver events in order until closed; a failure is tried again after a growing, capped pause."""
        pause = FIRST_WAIT_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                path, end, event, replayed = self._waiting[0]
            try:
                self._deliver(event, replayed)
            except Refused as error:
                self.last_error = str(error)
                logger.warning("Tracking event %r refused and left out: %s", event.get("event"), error)
            except Exception as error:  # whatever the receiver's client raises, training must go on
                pause = self._pause(error, pause)
                continue
            pause = FIRST_WAIT_S
            self._delivered(path, end)

    def _delivered(self, path: Path, end: int) -> None:
        """Mark the first event as delivered, on disk before in memory."""
        fresh = path.with_suffix(".tmp")
        fresh.write_text(str(end))
        os.replace(fresh, _mark(path))
        with self._changed:
            self._waiting.popleft()
            last_of_old = path != self._path and (not self._waiting or self._waiting[0][0] != path)
            self._changed.notify_all()
        if last_of_old:
            _remove(path)

    def _pause(self, error: Exception, pause: float) -> float:
        """Say once that delivery fails; wait `pause` seconds (less if flushed); return the next."""
        self.last_error = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        if pause == FIRST_WAIT_S:
            folder = self._path.parent
            logger.warning("Tracking is interrupted (%s); events wait in %s.", self.last_error, folder)
        with self._changed:
            self._hurry = False
            self._changed.wait_for(lambda: self._closed or self._hurry, pause)
        return min(2 * pause, LONGEST_WAIT_S)


def _mark(path: Path) -> Path:
    """The file that says up to which byte of `path` events were delivered."""
    return path.with_suffix(".delivered")


def _undelivered(path: Path) -> list[tuple[int, Event]]:
    """(end offset, event) of every whole line behind the mark; a line torn by a kill is no event."""
    mark = _mark(path)
    offset = int(mark.read_text()) if mark.exists() else 0
    events = []
    for line in path.read_bytes()[offset:].splitlines(keepends=True):
        offset += len(line)
        if line.endswith(b"\n"):
            events.append((offset, json.loads(line)))
    if not events:
        _remove(path)
    return events


def _remove(path: Path) -> None:
    """Delete a spool file and its mark, data first."""
    for file in (path, _mark(path)):
        if file.exists():
            os.unlink(file)
