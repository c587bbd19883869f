"""A durable, ordered mailbox: events go to a file first and one background thread delivers them.

The producer never waits for the receiver. What could not be delivered stays in the file, and the next `Spool`
of the same name delivers it first. An event may come again (a kill between delivery and its mark), hence receivers
must accept a repeated event.

Where the disk takes no more, events wait in memory, in their order, and are written once it does.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sigma_ray.journal import Event, Journal, backlog, next_number, remove
from sigma_ray.redaction import redact

logger = logging.getLogger(__name__)

FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 15.0


class Refused(Exception):
    """Raised by a receiver that will never accept an event, however often it is sent."""


@dataclass(kw_only=True)
class _Entry:
    """An event on its way; `end` is the byte behind it in `path`, None while no disk has it."""

    path: Path
    end: int | None
    event: Event
    replayed: bool


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
        # A number, not a clock: a clock that was set back would put new events before old ones.
        self._journal = Journal(folder / f"{name}-{next_number(folder, name):020d}.jsonl")
        self._changed = threading.Condition()
        self._closed = False
        self._hurry = False
        self._disk_failed = False
        self.last_error = ""
        self._waiting = deque(
            _Entry(path=path, end=end, event=event, replayed=True) for path, end, event in backlog(folder, name)
        )
        self._unsaved: deque[_Entry] = deque()
        self._thread = threading.Thread(target=self._run, name=f"spool-{name}", daemon=True)
        self._thread.start()

    def put(self, event: Event) -> None:
        """Append a JSON-able event to the file and hand it to the thread; returns at once."""
        with self._changed:
            if self._closed:
                raise ValueError(f"The event {event.get('event')!r} came after close(); use a new one.")
            entry = _Entry(path=self._journal.path, end=None, event=event, replayed=False)
            self._unsaved.append(entry)
            self._save()
            self._waiting.append(entry)
            self._changed.notify_all()

    def flush(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds; return whether every event has been delivered (or refused)."""
        with self._changed:
            self._hurry = True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: not self._waiting, timeout)

    @property
    def waiting(self) -> int:
        """How many events were not delivered yet."""
        return len(self._waiting)

    def close(self, timeout: float) -> bool:
        """Flush, stop the thread, remove the files if nothing is left in them; return whether that is so."""
        if self._closed:
            return not self._waiting
        done = self.flush(timeout)
        with self._changed:
            self._save()
            self._closed = True
            self._changed.notify_all()
            self._journal.close()
            if self._unsaved:
                logger.error(
                    "%d tracking events are lost: neither MLflow nor the disk at %s takes them. Free some space and "
                    "run the same command again.",
                    len(self._unsaved),
                    self._journal.path.parent,
                )
        self._thread.join(timeout=1.0)
        if done:
            remove(self._journal.path)
        return done

    def _save(self) -> None:
        """Write what no disk has yet, in order; what cannot be written stays in memory."""
        try:
            while self._unsaved:
                self._unsaved[0].end = self._journal.append(self._unsaved[0].event)
                self._unsaved.popleft()
        except OSError as error:
            if not self._disk_failed:
                logger.warning(
                    "Tracking events cannot be written to %s (%s) and wait in memory; they are lost if this process "
                    "dies before MLflow has them.",
                    self._journal.path.parent,
                    error.strerror,
                )
            self._disk_failed = True

    def _run(self) -> None:
        """Deliver events in order until closed; a failure is tried again after a growing, capped pause."""
        pause = FIRST_WAIT_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    return
                entry = self._waiting[0]
            try:
                self._deliver(entry.event, entry.replayed)
            except Refused as error:
                self.last_error = redact(str(error))
                logger.warning("Tracking event %r refused and left out: %s", entry.event.get("event"), self.last_error)
            except Exception as error:  # whatever the receiver's client raises, training must go on
                pause = self._pause(error, pause)
                continue
            pause = FIRST_WAIT_S
            self._delivered(entry)

    def _delivered(self, entry: _Entry) -> None:
        """Mark the first event as delivered, on disk before in memory."""
        with self._changed:
            if entry.end is None:
                self._unsaved.popleft()  # this one, as all are delivered in order
        if entry.end is not None:
            Journal.mark(entry.path, entry.end)
        with self._changed:
            self._waiting.popleft()
            last_of_old = entry.replayed and (not self._waiting or self._waiting[0].path != entry.path)
            self._changed.notify_all()
        if last_of_old:
            remove(entry.path)

    def _pause(self, error: Exception, pause: float) -> float:
        """Say once that delivery fails; wait `pause` seconds (less if flushed); return the next."""
        self.last_error = in_one_line(error)
        if pause == FIRST_WAIT_S:
            folder = self._journal.path.parent
            logger.warning("Tracking is interrupted (%s); events wait in %s.", self.last_error, folder)
        with self._changed:
            self._hurry = False
            self._changed.wait_for(lambda: self._closed or self._hurry, pause)
        return min(2 * pause, LONGEST_WAIT_S)


def in_one_line(error: Exception) -> str:
    """An error's type and message, short and without secrets."""
    return " ".join(redact(f"{type(error).__name__}: {error}").split())[:300]
