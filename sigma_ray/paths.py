"""Names that come from files and servers, kept inside the folder that they are relative to."""

import os
from pathlib import Path, PureWindowsPath

NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def inside(folder: Path, name: str, source: object = "") -> Path:
    """`folder / name`, for a name (of the file `source`, for the message) that does not lead out of the folder.

    Names alone are judged: links that the owner of the folder put there may lead elsewhere.

    Raises:
        ValueError: the name is empty or absolute, goes up by `..`, or holds a zero byte.
    """
    windows = PureWindowsPath(name)  # which takes both slashes
    absolute = name.startswith(("/", "\\")) or (os.name == "nt" and windows.drive)
    if not windows.parts or absolute or ".." in windows.parts or "\0" in name:
        raise ValueError(
            f"{source or 'a file name'} must name files below {folder}, but got {name!r}; names that are absolute or "
            "go up by .. are refused, so correct it."
        )
    return folder / name


def plain_name(what: str, name: str) -> str:
    """`name`, if it can be the name of a file or folder anywhere; `what` is it, for the message.

    Raises:
        ValueError: it is empty, hidden, longer than 100 characters, or holds others than letters, digits, - _ and dot.
    """
    if not 0 < len(name) <= 100 or name.startswith((".", "-")) or not set(name) <= NAME_CHARS:
        raise ValueError(
            f"{what} must be 1 to 100 letters, digits, - _ or dots, and begin with neither - nor a dot, because "
            f"folders are called so, but got {name!r}; choose another."
        )
    return name
