"""Disks that are full or read-only, for real: a file system of our own in memory, and bind mounts. Linux, as root."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

BALLAST = ".ballast"


def can_mount() -> bool:
    """Whether this process may mount file systems here."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    with tempfile.TemporaryDirectory() as name:
        try:
            with volume(Path(name), 1):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False


@contextlib.contextmanager
def volume(folder: Path, megabytes: int) -> Iterator[None]:
    """A file system of a fixed size at `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    _run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "sigma_ray_faults", str(folder))
    try:
        yield
    finally:
        _run("umount", "--lazy", str(folder))


def fill(folder: Path) -> None:
    """Write into the file system of `folder` until it takes no further byte."""
    with (folder / BALLAST).open("ab", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"\0" * size)


def empty(folder: Path) -> None:
    """Undo `fill`."""
    (folder / BALLAST).unlink(missing_ok=True)


def freeze(folder: Path) -> None:
    """Make a folder read-only, for root too."""
    _run("mount", "--bind", str(folder), str(folder))
    _run("mount", "-o", "remount,bind,ro", str(folder))


def thaw(folder: Path) -> None:
    """Undo `freeze`."""
    _run("umount", "--lazy", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)
