"""The ways in which a trial is expected to fail, and which of them may pass when it is tried again.

Permanent failures are reported with their reason and the other trials go on. Transient ones (a lost process or node, a
broken link between workers, storage that does not answer) are raised, and the trial is started again from its last
checkpoint. Too little memory is neither: the trial goes on in smaller pieces.
"""

import errno

_PASSING_ERRNOS = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ENOTCONN,
    errno.ECONNRESET,
    errno.ECONNREFUSED,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.ENETUNREACH,
    errno.EAGAIN,
    errno.EBUSY,
    errno.ENOSPC,
    errno.EDQUOT,
}
_PASSING_RUNTIME_ERRORS = (
    "CUDA error",
    "NCCL",
    "Gloo",
    "gloo",
    "Connection closed by peer",
    "Socket Timeout",
    "Resource temporarily unavailable",  # a thread that could not be started, in C++
    "can't start new thread",
)


class TrialFailure(Exception):
    """A trial that cannot end well; `str()` is one line fit for a table.

    Args:
        message: the reason.
        transient: whether the same may succeed when tried again; by default what the class says.
    """

    transient: bool = False

    def __init__(self, message: str, *, transient: bool | None = None) -> None:
        super().__init__(message)
        self.transient = type(self).transient if transient is None else transient

    def __reduce__(self) -> tuple:
        """Keep `transient` on the way between processes."""
        return type(self), (str(self),), {"transient": self.transient}


class NonFiniteLossError(TrialFailure):
    """The loss became NaN or infinite. Repeating the trial would repeat it."""


class OutOfMemoryError(TrialFailure):
    """The device ran out of memory. Smaller micro-batches of the same batch may fit."""


class DataError(TrialFailure):
    """A sample could not be read."""


class StorageError(TrialFailure):
    """A file of the trial could not be read or written."""


class CheckpointError(TrialFailure):
    """A checkpoint does not belong to this trial."""


class WorkerLostError(TrialFailure):
    """A process of a trial of several workers died, or lost its peers."""

    transient = True


class UnsupportedError(ValueError):
    """A method that cannot run on a backbone, for a reason of its own. Refused before any trial starts."""


def is_transient(error: BaseException) -> bool:
    """Whether the same trial may succeed when it is tried again; an error of our own code never does."""
    if isinstance(error, TrialFailure):
        return error.transient
    if isinstance(error, OSError):  # ConnectionError and TimeoutError among them
        return isinstance(error, ConnectionError | TimeoutError) or error.errno in _PASSING_ERRNOS
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _PASSING_RUNTIME_ERRORS)


def one_line(error: BaseException) -> str:
    """An error as a table shows it: its class, and what it says, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:500]
