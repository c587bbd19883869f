"""Files on their way to an artifact store that did not take them at once; each is tried until it does.

A store that is full or read-only must not hold up the metrics of all trials behind one file. So a file that is refused
leaves the ordered mailbox and waits here, as a note on disk of its own, while the run says in a tag what it lacks.
The file itself must stay where it is.
"""

import hashlib
import json
import logging
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sigma_ray.files import write_atomically
from sigma_ray.spool import FIRST_WAIT_S, LONGEST_WAIT_S, Refused, in_one_line

logger = logging.getLogger(__name__)

WAITING_TAG, LOST_TAG = "files_waiting", "files_lost"


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A file or folder of a run, and the folder of the run's artifacts that it goes to ("" for none).

    `content`, where it is given, is that of a file that is on no disk.
    """

    run_id: str
    path: str
    below: str
    content: str | None = None

    @property
    def artifact(self) -> str:
        """Its name among the run's artifacts."""
        return f"{self.below}/{Path(self.path).name}" if self.below else Path(self.path).name


class Uploads:
    """The files of one study that wait, on disk until delivered."""

    def __init__(
        self,
        folder: Path,
        send: Callable[[Upload], None],
        say: Callable[[str, str, str], None],
    ) -> None:
        """Pick up what waits in `folder`, and begin to deliver it.

        Args:
            folder: for notes; only one living process may use it.
            send: stores one file; raises `Refused` to have it forgotten, anything else to have it tried again.
            say: sets (run id, tag, text); an empty text removes the tag.
        """
        self._folder, self._send, self._say = folder, send, say
        self._waiting: dict[Upload, Path] = {}
        self._tags = threading.Lock()  # what the tag says must be what waits
        self._changed = threading.Condition()
        self._asked, self._answered, self._closed = 0, 0, False  # what was asked for: a try of all
        self._thread: threading.Thread | None = None
        self.last_error = ""
        for note in sorted(folder.glob("*.json")):
            self._waiting[Upload(**json.loads(note.read_text()))] = note
        if self._waiting:
            self._start()

    def waiting(self) -> list[Upload]:
        """What the store does not have yet."""
        with self._changed:
            return list(self._waiting)

    def add(self, upload: Upload, error: Exception | None = None) -> None:
        """Keep a file that the store refused with `error`, and say so in its run; once, however often it is added.

        Raises:
            Exception: the run cannot be told, because the tracking store is away too; then nothing is kept.
        """
        self.last_error = in_one_line(error) if error else self.last_error
        with self._tags:
            self._say(upload.run_id, WAITING_TAG, self._names(upload.run_id, [upload]))
            if upload not in self.waiting():
                self._keep(upload)

    def flush(self, timeout: float) -> bool:
        """Have all that waits tried once more, within `timeout` seconds; return whether nothing waits."""
        with self._changed:
            if self._waiting:
                self._asked += 1
                wanted = self._asked
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._waiting or self._answered >= wanted, timeout)
            return not self._waiting

    def close(self, timeout: float) -> bool:
        """Flush and stop; return whether nothing waits."""
        done = self.flush(timeout)
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=1.0)
        return done

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="uploads", daemon=True)
        self._thread.start()

    def _keep(self, upload: Upload) -> None:
        content = json.dumps(asdict(upload)).encode()
        note = self._folder / f"{hashlib.sha256(content).hexdigest()[:16]}.json"
        try:
            write_atomically(note, content)
        except OSError as full:
            logger.warning("Cannot write %s (%s); %s is forgotten if this process dies.", note, full, upload.path)
        run, artifact = upload.run_id, upload.artifact
        logger.warning("MLflow run %s lacks %s (%s); it is tried again.", run, artifact, self.last_error)
        with self._changed:
            self._waiting[upload] = note
            if self._thread is None:
                self._start()
            self._changed.notify_all()

    def _names(self, run_id: str, more: Sequence[Upload] = (), without: Upload | None = None) -> str:
        """What a run lacks, and why."""
        mine = dict.fromkeys(one for one in (*self.waiting(), *more) if one.run_id == run_id and one != without)
        return f"{', '.join(one.artifact for one in mine)} ({self.last_error})" if mine else ""

    def _run(self) -> None:
        """Try all that waits, again and again, with growing pauses while nothing gets through."""
        pause = FIRST_WAIT_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                self._changed.wait_for(lambda: self._closed or self._asked > self._answered, pause)
                if self._closed:
                    return
                asked = self._asked
            delivered = [self._try(upload) for upload in self.waiting()]
            pause = FIRST_WAIT_S if any(delivered) else min(2 * pause, LONGEST_WAIT_S)
            with self._changed:
                self._answered = asked
                self._changed.notify_all()

    def _try(self, upload: Upload) -> bool:
        """Deliver one file; whether it needs no other try."""
        try:
            self._send(upload)
        except Refused as error:
            logger.warning("%s is left out: %s", upload.path, error)
            self._forget(upload)
            return True
        except Exception as error:  # whatever the store's client raises
            self.last_error = in_one_line(error)
            if upload.content is not None or os.path.exists(upload.path):
                return False
            return self._tell(upload, lost=True)
        return self._tell(upload, lost=False)

    def _tell(self, upload: Upload, *, lost: bool) -> bool:
        """Correct the run's tags, and forget the file if that worked."""
        with self._tags:
            try:
                self._say(upload.run_id, WAITING_TAG, self._names(upload.run_id, without=upload))
                if lost:
                    self._say(upload.run_id, LOST_TAG, upload.artifact)
            except Exception as error:
                self.last_error = in_one_line(error)
                return False
            self._forget(upload)
            return True

    def _forget(self, upload: Upload) -> None:
        with self._changed:
            self._waiting.pop(upload).unlink(missing_ok=True)
