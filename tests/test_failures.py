"""Which failures may pass."""

import errno
import pickle

import pytest

from sigma_ray import failures


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (failures.NonFiniteLossError("x"), False),
        (failures.DataError("x"), False),
        (failures.DataError("x", transient=True), True),
        (failures.WorkerLostError("x"), True),
        (failures.StorageError("x"), False),
        (ConnectionResetError("peer"), True),
        (TimeoutError(), True),
        (OSError(errno.ESTALE, "Stale file handle"), True),
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (FileNotFoundError(errno.ENOENT, "gone"), False),
        (PermissionError(errno.EACCES, "no"), False),
        (RuntimeError("NCCL error in: ProcessGroupNCCL.cpp"), True),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("Resource temporarily unavailable"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:2"), True),
        (RuntimeError("The size of tensor a (3) must match"), False),
        (KeyError("arm"), False),
        (TypeError("x"), False),
    ],
)
def test_transient_and_permanent_are_told_apart(error, transient):
    assert failures.is_transient(error) is transient


def test_what_a_failure_is_survives_the_way_between_processes():
    for error in (failures.DataError("a reason", transient=True), failures.NonFiniteLossError("b")):
        again = pickle.loads(pickle.dumps(error))
        assert type(again) is type(error) and str(again) == str(error) and again.transient == error.transient


def test_one_line():
    assert failures.one_line(ValueError("a\n  b")) == "ValueError: a b"
    assert len(failures.one_line(ValueError("x" * 9999))) == 500
