"""What a data set needs on disk, told before it is there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Part:
    """A file or folder below `data.root`.

    Attributes:
        paths: any one of these will do.
        what: what it holds.
    """

    paths: tuple[str, ...]
    what: str


@dataclass(frozen=True, kw_only=True)
class Needs:
    """A data set's parts, and where they come from.

    Attributes:
        title: the data set's name.
        size: of the download, roughly.
        page: the official page; downloads may need an account.
        parts: all of them are needed.
    """

    title: str
    size: str
    page: str
    parts: tuple[Part, ...]

    def lines(self, root: str | None) -> list[str]:
        """What is needed, and for each part whether it lies below `root`."""
        place = f"data.root={root}" if root else "data.root, which is NOT SET"
        return [f"data     {self.title}, {self.size}, {self.page}; below {place}:"] + [
            f"         {' or '.join(part.paths)} ({part.what}): {'here' if _found(part, root) else 'MISSING'}"
            for part in self.parts
        ]


def of_splits(folders: Sequence[str], splits: Sequence[tuple[str, str]], inner: str = "") -> tuple[Part, ...]:
    """Parts `<folder>/<split>`, or the same below `inner`, for splits given with what they hold."""
    return tuple(
        Part((f"{folder}/{split}", *((f"{inner}/{folder}/{split}",) if inner else ())), what)
        for split, what in splits
        for folder in folders
    )


def _found(part: Part, root: str | None) -> bool:
    return root is not None and any((Path(root).expanduser() / path).exists() for path in part.paths)
