"""Files of events: numbered, torn, damaged, on a disk that is full."""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigma_ray.journal import Journal, backlog, next_number
from sigma_ray.spool import Spool


def refuse(event: dict, replayed: bool) -> None:
    raise ConnectionError("nobody there")


def put_down(folder: Path, numbers: list[int]) -> None:
    """An invocation that delivers nothing."""
    spool = Spool(folder, "s", refuse)
    for number in numbers:
        spool.put({"event": "log", "number": number})
    assert not spool.close(0)


def collected(folder: Path) -> list[int]:
    """What the next invocation delivers."""
    seen: list[int] = []
    spool = Spool(folder, "s", lambda event, replayed: seen.append(event["number"]))
    assert spool.close(10)
    return seen


def test_a_clock_that_is_set_back_does_not_reorder_the_backlog(tmp_path: Path, monkeypatch) -> None:
    """Files of several invocations are delivered in the order of those, whatever the clocks said."""
    for index, now in enumerate((5_000, 3_000, 1_000)):
        monkeypatch.setattr(time, "time_ns", lambda now=now: now * 10**9)
        put_down(tmp_path, [2 * index, 2 * index + 1])
    assert collected(tmp_path) == [0, 1, 2, 3, 4, 5]
    assert not list(tmp_path.iterdir())


def test_a_mark_without_its_file_does_not_swallow_new_events(tmp_path: Path) -> None:
    """A kill between the deletion of a file and of its mark leaves the mark; its number is not used again."""
    (tmp_path / "s-00000000000000000001.delivered").write_text("00000000000000000500")
    put_down(tmp_path, [1, 2])
    assert collected(tmp_path) == [1, 2]


@given(
    lines=st.lists(
        st.one_of(st.integers(0, 999), st.sampled_from([b"{", b"\xff\xfe\r{}", b"[]", b"{}", b'{"event": 3}', b""])),
        max_size=8,
    ),
    torn=st.binary(max_size=12).filter(lambda tail: b"\n" not in tail),
)
def test_damage_costs_only_the_damaged_lines(tmp_path_factory, lines: list, torn: bytes) -> None:
    """Whatever lies between, before or behind the good lines, those come out in order."""
    folder = tmp_path_factory.mktemp("spool")
    good = [line for line in lines if isinstance(line, int)]
    content = [
        json.dumps({"event": "log", "number": line}).encode() if isinstance(line, int) else line for line in lines
    ]
    path = folder / "s-00000000000000000007.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in content) + torn)
    assert [event["number"] for _, _, event in backlog(folder, "s")] == good
    assert path.with_suffix(".damaged").exists() == (len(good) < len(lines))
    assert next_number(folder, "s") == (8 if good or len(lines) > len(good) else 1)


@pytest.mark.parametrize("mark", ["", "no number", "-5", "99999"])
def test_a_damaged_mark_repeats_events_and_loses_none(tmp_path: Path, mark: str) -> None:
    """Repeating is what receivers accept."""
    put_down(tmp_path, [1, 2])
    (file,) = tmp_path.glob("*.delivered")
    file.write_text(mark)
    assert collected(tmp_path) == [1, 2]


FULL_DISK = """
import logging, resource, signal, sys, time
from pathlib import Path
from sigma_ray.spool import Spool
logging.basicConfig(format="%(message)s")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder, seen, up = Path(sys.argv[1]), [], False

def deliver(event, replayed):
    if not up:
        raise ConnectionError("nobody there")
    seen.append(event["number"])

spool = Spool(folder, "s", deliver)
limit = resource.getrlimit(resource.RLIMIT_FSIZE)
spool.put({"event": "log", "number": 0})
resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))  # the second event is cut in its middle
for number in range(1, 4):
    spool.put({"event": "log", "number": number, "text": "x" * 80})
assert not spool.flush(0.1)
(file,) = folder.glob("*.jsonl")
assert file.read_bytes().count(b"\\n") == 1 and file.read_bytes().endswith(b"\\n")
if sys.argv[2] == "freed":
    resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    spool.put({"event": "log", "number": 4})
    assert file.read_bytes().count(b"\\n") == 5
    assert not spool.close(0)
elif sys.argv[2] == "delivered":
    up = True
    assert spool.flush(20) and seen == [0, 1, 2, 3], seen
    assert spool.close(5)
else:
    assert not spool.close(0)
"""


def with_full_disk(folder: Path, then: str) -> str:
    """Run an invocation whose disk takes 100 bytes; what it said."""
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(folder), then], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be written") == 1  # said once
    return done.stderr


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs limits of file sizes")
def test_on_a_full_disk_events_wait_in_memory(tmp_path: Path) -> None:
    """They are delivered from there; or written, whole and in order, when there is space again; or said to be lost."""
    assert "are lost:" not in with_full_disk(tmp_path, "delivered")
    assert not list(tmp_path.iterdir())
    assert "are lost:" not in with_full_disk(tmp_path, "freed")
    assert collected(tmp_path) == [0, 1, 2, 3, 4]
    assert "3 tracking events are lost" in with_full_disk(tmp_path, "closed")
    assert collected(tmp_path) == [0]


def test_marking_does_not_need_space(tmp_path: Path, monkeypatch) -> None:
    """A mark that cannot be written neither stops the delivery nor is it an error."""
    path = tmp_path / "s-00000000000000000001.jsonl"
    journal = Journal(path)
    end = journal.append({"event": "log", "number": 1})
    size = path.with_suffix(".delivered").stat().st_size
    Journal.mark(path, end)
    assert path.with_suffix(".delivered").stat().st_size == size
    Journal.mark(tmp_path / "gone" / "s-1.jsonl", 5)
    journal.close()
    assert not list(backlog(tmp_path, "s"))
