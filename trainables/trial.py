"""One trial in one process: from its configuration to a model on disk, reporting as it goes.

Training processes never talk to MLflow. They report points to the driver, and write checkpoints into the trial's own
folder, whose name is the trial key: a trial that is started again, by whatever driver, goes on from there.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.gallery import Gallery
from trainables.moments import Moments

MODEL_FILE, EXAMPLES_FILE, FINAL_FILE = "model.safetensors", "predictions.safetensors", "final.json"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a worker needs to run a trial; plain values, because it travels to other processes."""

    key: str
    arm: str
    seed: int
    config: dict[str, Any]
    folder: str


def label(arm: str, seed: int) -> str:
    """How a trial is called in plans and logs."""
    return f"{arm} / seed {seed}"


def execute(spec: Spec, report: Callable[[dict[str, Any]], None], *, memory_divisor: int = 1) -> None:
    """Train and test on this process (one of several under `torch.distributed`).

    Reports carry `points`, `objective` (the validation metric, which searches go by), `pictures` (files) at the start,
    the middle and the end, `warnings`, and then `final`.

    Args:
        spec: the trial.
        report: takes the reports, on every rank equally often.
        memory_divisor: into how many parts more than configured a batch is cut to fit the memory.

    Raises:
        TrialFailure: what `train.fit` raises.
        OSError: the trial's results cannot be written.
    """
    import torch

    from sigma_ray import model as models
    from sigma_ray import tasks, train
    from sigma_ray.checkpoint import Checkpoints
    from sigma_ray.config import from_dict
    from sigma_ray.data import loader

    config = from_dict(spec.config)
    device = _device()
    torch.set_num_threads(_num_threads())
    loader.set_num_threads(_decoding_threads())
    data = open_data(config.data, config.task, config.head)
    folder, validation = Path(spec.folder), f"val/{tasks.get(config.task).metric}"
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    gallery = Gallery(config, data, folder, device)
    warnings: list[str] = []

    def publish(points: list[dict[str, float]]) -> None:
        step = points[-1]["step"] if points else 0
        due = gallery.due(int(step))
        if points or due:  # the same on every rank, because a report waits for all of them
            value = next((p[validation] for p in reversed(points) if validation in p), math.nan)
            drawn = _drawn(gallery, model, int(step), warnings.append) if due and rank == 0 else []
            values = {"points": points, "objective": value, "step": step, "system": _usage(device)}
            report({**values, "pictures": drawn, "warnings": warnings.copy()})
            warnings.clear()

    model = models.build(config, data.info)
    final = train.fit(
        config,
        model,
        data,
        report=publish,
        checkpoints=Checkpoints(folder),
        device=device,
        memory_divisor=memory_divisor,
        save_now=Moments(),
        warn=warnings.append,
    )
    if rank == 0:
        _keep(spec, model, gallery, final)
    values = {"points": [], "step": config.train.num_steps, "objective": final[validation]}
    gpu_bytes = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    report({**values, "final": final, "warnings": warnings, "gpu_bytes": gpu_bytes})


def _drawn(gallery: Gallery, model: Any, step: int, warn: Callable[[str], None]) -> list[str]:
    """The pictures of a step; a disk that is full for the moment costs these, not the trial."""
    try:
        return [gallery.save(model, step)]
    except OSError as error:
        warn(f"pictures of step {step} cannot be written ({error}); going on without them")
        return []


def _keep(spec: Spec, model: Any, gallery: Gallery, final: Mapping[str, float]) -> None:
    """Write what outlives the trial: its model, example pictures, final metrics."""
    from sigma_ray import pictures
    from sigma_ray.adapter_files import save_adapter
    from sigma_ray.files import write_atomically

    folder, info = Path(spec.folder), dataclasses.asdict(gallery.data.info)
    extra = {"config": json.dumps(spec.config), "info": json.dumps(info), "trial_key": spec.key}
    save_adapter(folder / MODEL_FILE, model.backbone, head=model.head, task=spec.config["task"], extra=extra)
    pictures.save_examples(folder / EXAMPLES_FILE, gallery.draw(model, "test"))
    write_atomically(folder / FINAL_FILE, json.dumps(final).encode())


@functools.lru_cache(maxsize=4)
def open_data(config: Any, task: str, head: Any) -> Any:
    """The data set, opened once per process and shared by its trials."""
    from sigma_ray import components, data, tasks

    return data.open_data(components.name_of(config), config, task, tasks.columns(task, head))


def _device() -> Any:
    import ray
    import torch

    given = ray.is_initialized() and ray.get_gpu_ids()
    return torch.device("cuda" if given and torch.cuda.is_available() else "cpu")


def _num_threads() -> int:
    """As many threads as the trial has CPUs: more of them fight with the other trials' for the same cores."""
    import ray
    import torch

    if not ray.is_initialized():
        return torch.get_num_threads()
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 1)))


def _decoding_threads() -> int:
    """As many as the trial has CPUs; with a GPU, which one CPU cannot keep busy, that GPU's share of the node's."""
    import ray

    if not ray.is_initialized() or not ray.get_gpu_ids():
        return _num_threads()
    here = ray.get_runtime_context().get_node_id()
    node = next(node["Resources"] for node in ray.nodes() if node["NodeID"] == here)
    return max(_num_threads(), int(node.get("CPU", 1) // node["GPU"]))


def _usage(device: Any) -> dict[str, float]:
    """System metrics of this process, under MLflow's names."""
    import psutil
    import torch

    process = psutil.Process()
    usage = {
        "system/cpu_utilization_percentage": process.cpu_percent(),
        "system/system_memory_usage_megabytes": process.memory_info().rss / 1e6,
    }
    if device.type == "cuda":
        usage["system/gpu_0_memory_usage_megabytes"] = torch.cuda.memory_allocated(device) / 1e6
    return usage
