"""What a node is and has, asked by the doctor: software, weights, data, GPUs, clock. Runs in a process on the node."""

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sigma_ray.fingerprint import BUNDLED, file_sha256
from sigma_ray.provenance import commit

PACKAGES = ("ray", "torch", "timm", "numpy", "mlflow", "optuna", "mmsegmentation", "mmdet", "transformers")
GPU_QUERY = ("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
GPU_TIMEOUT_S = 30.0
_TORCH = "import json, torch; print(json.dumps([torch.version.cuda, torch.cuda.device_count()]))"


def look(node_id: str, weights: str | None, data_root: str | None) -> dict[str, Any]:
    """A node's facts: `software`, `bundled`, `weights`, `data`, `gpus`, `clock`.

    Args:
        node_id: of the node, unused: questions to nodes have it.
        weights: file to describe.
        data_root: folder to describe.
    """
    return {
        "software": software(),
        "bundled": bundled(),
        "weights": describe_file(weights) if weights else None,
        "data": describe_folder(data_root) if data_root else None,
        "gpus": gpus(),
        "clock": time.time(),
    }


def software() -> dict[str, str]:
    """Versions of what computes results; `sources` stands for this project's own files as they are on disk."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return {**found, "sigma_ray": commit(), "sources": _sources()}


def _sources() -> str:
    packages = [BUNDLED.parent, Path(__file__).parent]
    files = sorted((path.relative_to(package), path) for package in packages for path in package.rglob("*.py"))
    text = "".join(f"{name} {file_sha256(path)}\n" for name, path in files)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def bundled() -> str:
    """Whether the backbone that ships with the package is whole: "" or what is wrong."""
    for card in sorted(BUNDLED.glob("*.json")):
        weights = card.with_suffix(".safetensors")
        if not weights.is_file():
            return f"{weights} is missing"
        if file_sha256(weights) != json.loads(card.read_text())["sha256"]:
            return f"{weights} is damaged"
    return ""


def describe_file(path: str) -> str:
    """Size and hash of a file, or that it is missing."""
    file = Path(path)
    return f"{file.stat().st_size} bytes, SHA-256 {file_sha256(file)[:12]}" if file.is_file() else "missing"


def describe_folder(path: str) -> str:
    """How many files, of how many bytes, with a hash of their names and sizes; or that it is missing."""
    if not Path(path).is_dir():
        return "missing"
    entries, total = [], 0
    for folder, _, names in os.walk(path):
        for name in names:
            size = os.stat(os.path.join(folder, name)).st_size
            entries.append(f"{os.path.relpath(os.path.join(folder, name), path)} {size}")
            total += size
    names_and_sizes = hashlib.sha256("\n".join(sorted(entries)).encode()).hexdigest()[:12]
    return f"{len(entries)} files, {total} bytes, names and sizes {names_and_sizes}"


def gpus() -> dict[str, Any]:
    """The GPUs that the driver sees, as text, and how many of them PyTorch can use: `driver`, `torch`, `cuda`.

    PyTorch is asked in a process of its own, because Ray hides all GPUs from a task that asks for none.
    """
    try:
        done = subprocess.run(GPU_QUERY, capture_output=True, text=True, timeout=GPU_TIMEOUT_S)
    except FileNotFoundError:
        return {"driver": [], "torch": 0, "cuda": None, "error": ""}
    except subprocess.TimeoutExpired:
        return {"driver": [], "torch": 0, "cuda": None, "error": f"nvidia-smi hangs for {GPU_TIMEOUT_S:.0f} s"}
    if done.returncode:
        error = " ".join((done.stdout + done.stderr).split())[:200]
        return {"driver": [], "torch": 0, "cuda": None, "error": f"nvidia-smi: {error}"}
    seen = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    all_visible = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    asked = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, env=all_visible)
    if asked.returncode:
        return {"driver": seen, "torch": 0, "cuda": None, "error": asked.stderr.strip().splitlines()[-1][:200]}
    cuda, count = json.loads(asked.stdout)
    return {"driver": seen, "torch": count, "cuda": cuda, "error": ""}
