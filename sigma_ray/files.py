"""Files that are whole or absent, and lines that are."""

import contextlib
import os
from pathlib import Path


def write_atomically(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Write a file so that readers see the old one or the whole new one, never a part, whatever fails meanwhile.

    Args:
        path: the file; missing folders are made.
        content: all of it.
        mode: permissions, as for `os.open`, less the process's umask.

    Raises:
        OSError: it cannot be written; the old file is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(path.parent)


def append(file: int, content: bytes) -> None:
    """Write all of `content` to the end of a file that nobody else writes to, or nothing.

    Args:
        file: descriptor, opened with `os.O_APPEND`.
        content: what to add.

    Raises:
        OSError: the disk does not take it; the file is as it was.
    """
    end, written = os.fstat(file).st_size, 0
    try:
        while written < len(content):  # a disk that fills up takes a part without complaint
            written += os.write(file, content[written:])
    except OSError:
        os.ftruncate(file, end)
        raise


def _sync_folder(folder: Path) -> None:
    """Make a rename outlast a loss of power, on file systems that can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
