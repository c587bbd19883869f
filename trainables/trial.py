"""One trial, as Ray runs it: a Tune function for one worker, Ray Train inside it for several.

Training processes never talk to MLflow. They report points to the driver, and write checkpoints into the trial's own
folder, whose name is the trial key: a trial that is started again, by whatever driver, goes on from there.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainables.gallery import Gallery

MODEL_FILE, EXAMPLES_FILE, FINAL_FILE = "model.safetensors", "predictions.safetensors", "final.json"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """What a worker needs to run a trial; plain values, because it travels to other processes."""

    key: str
    arm: str
    seed: int
    config: dict[str, Any]
    folder: str


def run(params: Mapping[str, Any], *, specs: Mapping[str, Spec]) -> None:
    """The Tune function. `params` holds arm and seed; `specs` is keyed by `label(arm, seed)`."""
    from ray import tune

    spec = specs[label(params["arm"], params["seed"])]
    if spec.config["num_workers"] == 1:
        execute(spec, tune.report)
    else:
        _run_workers(spec)


def label(arm: str, seed: int) -> str:
    """How a trial is called in plans and logs."""
    return f"{arm} / seed {seed}"


def execute(spec: Spec, report: Callable[[dict[str, Any]], None]) -> None:
    """Train and test on this process (one of several under `torch.distributed`), reporting as it goes.

    Reports carry `points`, `objective` (the validation metric, which searches go by), `pictures` (files) at the start,
    the middle and the end, and then `final`. An expected failure is reported as `failure`, not raised, so that the
    process stays fit for the next trial.
    """
    import torch

    from sigma_ray import model as models
    from sigma_ray import tasks, train
    from sigma_ray.checkpoint import Checkpoints
    from sigma_ray.config import from_dict
    from sigma_ray.data import loader
    from sigma_ray.failures import TrialFailure

    config = from_dict(spec.config)
    device = _device()
    torch.set_num_threads(_num_threads())
    loader.set_num_threads(_decoding_threads())
    data = open_data(config.data, config.task, config.head)
    folder, validation = Path(spec.folder), f"val/{tasks.get(config.task).metric}"
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    gallery = Gallery(config, data, folder, device)

    def publish(points: list[dict[str, float]]) -> None:
        step = points[-1]["step"] if points else 0
        due = gallery.due(int(step))
        if points or due:  # the same on every rank, because a report waits for all of them
            value = next((p[validation] for p in reversed(points) if validation in p), math.nan)
            drawn = [gallery.save(model, int(step))] if due and rank == 0 else []
            system = _usage(device)
            report({"points": points, "objective": value, "step": step, "system": system, "pictures": drawn})

    try:
        model = models.build(config, data.info)
        final = train.fit(config, model, data, report=publish, checkpoints=Checkpoints(folder), device=device)
    except TrialFailure as failure:
        report({"points": [], "step": 0, "objective": math.nan, "failure": f"{type(failure).__name__}: {failure}"})
        return
    if rank == 0:
        _keep(spec, model, gallery, final)
    report({"points": [], "step": config.train.num_steps, "objective": final[validation], "final": final})


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


def _run_workers(spec: Spec) -> None:
    """Start `num_workers` processes with `torch.distributed` between them, and pass their reports on to Tune."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    gpus = ray.cluster_resources().get("GPU", 0) >= spec.config["num_workers"]
    trainer = TorchTrainer(
        work,
        train_loop_config=asdict(spec),
        torch_config=TorchConfig(backend="nccl" if gpus else "gloo"),
        scaling_config=ScalingConfig(num_workers=spec.config["num_workers"], use_gpu=gpus),
        run_config=RunConfig(
            name=spec.key, storage_path=str(Path(spec.folder).parent / "workers"), callbacks=[TuneReportCallback()]
        ),
    )
    trainer.fit()


def work(spec: dict[str, Any]) -> None:
    """The loop of one Ray Train worker."""
    from ray import train

    execute(Spec(**spec), train.report)


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
