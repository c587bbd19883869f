"""The folder of a study, which every node of the cluster has to see: a trial that is started again may be elsewhere."""

import shutil
import time
import uuid
from pathlib import Path

from sigma_ray.files import write_atomically
from trainables import nodes

VISIBLE_S = 10.0
"""Longest wait until a file written on one node is seen on another (network file systems keep what they know)."""

PROBE, TOKEN = ".storage-", "token"
WAY_OUT = "put --output on storage that all nodes mount at the same path (docs/cluster.md)"


def check(folder: Path, *, needed_bytes: int = 0) -> dict[str, int]:
    """Have every node of the connected cluster read, write and measure `folder`; one node alone needs no task.

    The driver writes a token that every node must read, and every node an answer that the driver must read. Nodes that
    join later are not asked.

    Returns:
        Bytes that are free there, by node.

    Raises:
        ValueError: nodes that do not see the driver's folder, cannot write there or have less than `needed_bytes`.
    """
    here = nodes.alive()
    try:
        probe = _make_probe(folder)
    except OSError as error:
        raise ValueError(
            f"--output must be a folder that can be written, but {folder} cannot ({error.strerror or error}); choose "
            "another, or free some space."
        ) from None
    try:
        if len(here) > 1:
            free, problems = nodes.ask(visit, str(probe), (probe / TOKEN).read_text())
            problems |= {node: "what it wrote is not seen here" for node in free if not _is_seen(probe / node.id)}
        else:
            free, problems = {node: shutil.disk_usage(folder).free for node in here}, {}
    finally:
        shutil.rmtree(probe, ignore_errors=True)
    problems |= {
        node: f"{free[node] / 1e9:.1f} GB are free of the {needed_bytes / 1e9:.1f} GB needed"
        for node in free
        if free[node] < needed_bytes and node not in problems
    }
    if problems:
        named = "; ".join(f"{node}: {problem}" for node, problem in sorted(problems.items()))
        raise ValueError(f"every node must be able to use {folder}, but {len(problems)} cannot: {named}; {WAY_OUT}.")
    return {str(node): free[node] for node in sorted(free)}


def clear(folder: Path) -> None:
    """Remove what checks left that were killed; the caller knows that none is at work on this folder."""
    for probe in folder.glob(f"{PROBE}*"):
        shutil.rmtree(probe, ignore_errors=True)


def visit(node_id: str, place: str, token: str) -> int:
    """On a node: read the driver's token, leave an answer beside it, and return the free bytes there.

    Raises:
        OSError: the folder is not the driver's, or cannot be written.
    """
    probe, deadline = Path(place), time.monotonic() + VISIBLE_S
    while not (probe / TOKEN).is_file() or (probe / TOKEN).read_text() != token:
        if time.monotonic() > deadline:
            raise FileNotFoundError(f"{probe.parent} there is not the driver's folder")
        time.sleep(0.2)
    write_atomically(probe / node_id, node_id.encode())
    return shutil.disk_usage(probe).free


def _make_probe(folder: Path) -> Path:
    """A folder of this check's own, with the token in it."""
    probe = folder / f"{PROBE}{uuid.uuid4().hex}"
    probe.mkdir(parents=True)
    write_atomically(probe / TOKEN, uuid.uuid4().hex.encode())
    return probe


def _is_seen(answer: Path) -> bool:
    deadline = time.monotonic() + VISIBLE_S
    while not answer.is_file():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True
