"""The ways in which a trial is expected to fail. Each is reported with its reason; the others go on."""


class TrialFailure(Exception):
    """A trial that cannot end well; `str()` is one line fit for a table."""


class NonFiniteLossError(TrialFailure):
    """The loss became NaN or infinite. Repeating the trial would repeat it."""


class OutOfMemoryError(TrialFailure):
    """The device ran out of memory."""


class DataError(TrialFailure):
    """A sample could not be read."""


class CheckpointError(TrialFailure):
    """A checkpoint does not belong to this trial, or none of the stored ones can be read."""


class UnsupportedError(ValueError):
    """A method that cannot run on a backbone, for a reason of its own. Refused before any trial starts."""
