"""Peak memory of the current trial, on its device, and whether an error means that there was too little of it."""

import errno
import re
from pathlib import Path

import psutil
import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")

_RAN_OUT = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "could not create a primitive",
)
"""What PyTorch, CUDA's libraries and oneDNN say in a plain RuntimeError; on a CPU they always use one."""


def ran_out(error: BaseException) -> bool:
    """Whether the device, or the machine, had too little memory."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _RAN_OUT)


def reset_peak(device: torch.device) -> None:
    """Start a new measurement. A process that runs one trial after another calls it before each.

    On systems without `/proc` the operating system offers no reset, and the peak is the process's.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        _CLEAR.write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Bytes: allocated by torch on a GPU; resident in the process, imports included, on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        found = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text())
        assert found, "Linux always reports VmHWM"
        return int(found[1]) * 1024
    return psutil.Process().memory_info().rss
