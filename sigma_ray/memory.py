"""Peak memory of the current trial, on its device."""

import re
from pathlib import Path

import psutil
import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


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
