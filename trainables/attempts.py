"""A trial as Tune runs it: attempt after attempt, until it has ended, or has to be started again somewhere else.

What happens to an attempt decides:

- it ends: reported as `final`;
- it runs out of memory: another one follows here, with half as much of a batch at a time, reported as `retry`;
- it fails for good (NaN loss, bad data, an error of our own): reported as `failure`, so that the process stays fit for
  the next trial;
- it fails for now (lost workers, storage that does not answer), or the process dies: Tune starts the trial again.
"""

import functools
import gc
import math
import platform
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sigma_ray.failures import OutOfMemoryError, StorageError, is_transient, one_line
from sigma_ray.files import write_atomically
from sigma_ray.redaction import redact
from trainables.trial import Spec, execute, label
from trainables.workers import run_workers

DIVISOR_FILE, ERROR_FILE = "memory_divisor", "error.txt"


def run(params: Mapping[str, Any], *, specs: Mapping[str, Spec], gpus: float) -> None:
    """The Tune function.

    Args:
        params: arm and seed.
        specs: trials by `label(arm, seed)`.
        gpus: of each worker.
    """
    from ray import tune

    spec = specs[label(params["arm"], params["seed"])]
    if not Path(spec.folder).parent.is_dir():  # made by the driver; this node may have joined after all were asked
        raise StorageError(
            f"{Path(spec.folder).parent} is not on {platform.node()}: mount the shared storage there", transient=True
        )
    if spec.config["num_workers"] == 1:
        attempt = functools.partial(execute, spec, tune.report)
    else:
        attempt = functools.partial(run_workers, spec, gpus=gpus)
    while reason := _attempt(attempt, spec, tune.report):
        _free_memory()
        tune.report({"points": [], "step": 0, "objective": math.nan, "retry": reason})


def _attempt(attempt: Callable[..., None], spec: Spec, report: Callable[[dict[str, Any]], None]) -> str | None:
    """Make one; the reason to try again here, if there is one."""
    try:
        attempt(memory_divisor=memory_divisor(spec))
        return None
    except OutOfMemoryError as error:
        reason = one_line(error)
        if divisor := divide_further(spec):
            return f"{reason}; again with 1/{divisor} of a batch at a time"
    except Exception as error:
        if is_transient(error):
            raise
        reason = one_line(error)
        _write_traceback(spec)
    report({"points": [], "step": 0, "objective": math.nan, "failure": reason})
    return None


def memory_divisor(spec: Spec) -> int:
    """Into how many parts earlier attempts had to cut a batch."""
    path = Path(spec.folder) / DIVISOR_FILE
    return int(path.read_text()) if path.exists() else 1


def divide_further(spec: Spec) -> int | None:
    """Cut batches of the trial's coming attempts in half once more; None where they are single images already.

    The number lies beside the checkpoints, for attempts on other nodes and of later drivers.
    """
    from sigma_ray.batches import can_divide
    from sigma_ray.config import from_dict

    divisor = memory_divisor(spec)
    if not can_divide(from_dict(spec.config), divisor):
        return None
    write_atomically(Path(spec.folder) / DIVISOR_FILE, str(2 * divisor).encode())
    return 2 * divisor


def _write_traceback(spec: Spec) -> None:
    """Keep what a developer needs; the ledger takes the file."""
    write_atomically(Path(spec.folder) / ERROR_FILE, redact(traceback.format_exc()).encode())


def _free_memory() -> None:
    """Give back what the last attempt held."""
    gc.collect()
    if "torch" in sys.modules:
        import torch

        torch.cuda.empty_cache()
