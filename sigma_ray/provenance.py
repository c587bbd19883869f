"""Which code produced a result."""

import functools
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


@functools.cache
def commit() -> str:
    """The git commit of this package's checkout; the package's version where it is installed without one."""
    folder = Path(__file__).parent
    try:
        # A virtual environment may lie in somebody else's checkout: only a tracked file proves it ours.
        _git(folder, "ls-files", "--error-unmatch", "__init__.py")
        return _git(folder, "rev-parse", "--verify", "HEAD")
    except (OSError, subprocess.SubprocessError):
        pass
    try:
        return version("sigma-ray")
    except PackageNotFoundError:
        return "unknown"


def _git(folder: Path, *arguments: str) -> str:
    """Standard output of a git command; raises `CalledProcessError` where it fails."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=5).stdout.strip()
