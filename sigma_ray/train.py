"""The training loop. It knows neither Ray nor MLflow, and names no method: it is handed its outlets."""

import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from sigma_ray import batches, memory, optim, parallel, progress, rng, tasks
from sigma_ray.checkpoint import Checkpoints
from sigma_ray.config import TrainConfig, TrialConfig
from sigma_ray.data import Info, Split
from sigma_ray.evaluate import evaluate
from sigma_ray.failures import DataError, NonFiniteLossError, OutOfMemoryError, is_transient, one_line
from sigma_ray.feature_cache import cached
from sigma_ray.model import Model
from sigma_ray.progress import Progress

Report = Callable[[list[dict[str, float]]], None]
"""Takes the points since the last call; each is {"step": ..., "<metric>": ...}."""


class Data(Protocol):
    """What the loop needs of a data set."""

    @property
    def info(self) -> Info:
        """Labels and geometry."""
        ...

    def split(self, name: str) -> Split:
        """The table of split "train", "val" or "test"."""
        ...


def fit(
    config: TrialConfig,
    model: Model,
    data: Data,
    *,
    report: Report,
    checkpoints: Checkpoints | None = None,
    device: torch.device | None = None,
    memory_divisor: int = 1,
    save_now: Callable[[], bool] = lambda: False,
    warn: Callable[[str], None] = warnings.warn,
) -> dict[str, float]:
    """Train `model` as `config` says, and test it once.

    Under an initialised `torch.distributed` group every rank takes its share of each global batch (gradients are
    summed over trainable parameters only) and of each evaluation (exact); rank 0 writes checkpoints. A step's gradient
    does not depend on how its batch is cut, but for rounding and random numbers: `sigma_ray.parallel.Share`.

    Args:
        config: the resolved trial.
        model: built from `config`; on return it holds the selected weights.
        data: train, val and test tables.
        report: called on every rank after each evaluation. After a resume it first gets the earlier points again.
        checkpoints: where to save and resume; None for neither.
        device: defaults to the CPU.
        memory_divisor: how many times fewer images at a time to work on than `config` says; no part of what decides
            the result, so a checkpoint can be continued with another one.
        save_now: asked on rank 0 every `log_interval` steps whether to save between evaluations too.
        warn: told of what goes wrong without ending the trial: a damaged checkpoint, one that cannot be written.

    Returns:
        Final metrics: `test/*`, `val/*` at the selected step, `selected_step`, `seconds` (in the loop: training and
        evaluation), `train/seconds` (its training part), `peak_memory_bytes` and parameter counts.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite.
        OutOfMemoryError: the device ran out of memory.
        DataError: a sample could not be read.
        CheckpointError: the checkpoint is another trial's.
        StorageError: the workers do not see the same checkpoints.
    """
    device = device or torch.device("cpu")
    memory.reset_peak(device)
    try:
        return _Loop(config, model.to(device), data, report, checkpoints, device, memory_divisor, save_now, warn).run()
    except (OSError, RuntimeError, MemoryError) as error:
        if memory.ran_out(error):
            raise OutOfMemoryError(f"out of memory on {device}: {one_line(error)}") from error
        if isinstance(error, OSError):
            raise DataError(f"reading or writing failed: {error}", transient=is_transient(error)) from error
        raise


def wants_bfloat16(config: TrainConfig, device: torch.device) -> bool:
    """Whether to compute in bfloat16 where autocast allows it; "auto" does on CUDA."""
    return {"auto": device.type == "cuda", "bfloat16": True, "float32": False}[config.precision]


class _Loop:
    """One execution of `fit`, split into its parts."""

    def __init__(
        self,
        config: TrialConfig,
        model: Model,
        data: Data,
        report: Report,
        checkpoints: Checkpoints | None,
        device: torch.device,
        memory_divisor: int,
        save_now: Callable[[], bool],
        warn: Callable[[str], None],
    ) -> None:
        self.save_now, self.warn = save_now, warn
        self.config, self.train, self.model, self.device = config, config.train, model, device
        self.data, self.report, self.checkpoints = data, report, checkpoints
        self.task, self.columns = tasks.get(config.task), tasks.columns(config.task, config.head)
        self.rank, self.world = parallel.world()
        self.micro_batch, self.eval_batch = batches.sizes(config, memory_divisor)
        torch.manual_seed(config.seed * 1009 + self.rank)
        model.backbone.gradient_checkpointing = self.train.gradient_checkpointing
        self.optimiser = optim.optimiser(model, self.train)
        self.full_rates = [group["lr"] for group in self.optimiser.param_groups]
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}
        self.reported = 0
        self.resume()
        if self.train.cache_features:
            self.data = cached(
                model,
                data,
                mirror=self.train.horizontal_flip,
                autocast=self.autocast(),
                precision="bfloat16" if wants_bfloat16(self.train, device) else "float32",
                batch_size=self.eval_batch,
            )
        self.batches = batches.Batches(self.data.split("train"), self.columns, config, self.rank, self.world, device)
        self.wrapped = parallel.replicated(model)
        self.recent: list[Tensor] = []

    def run(self) -> dict[str, float]:
        interval = self.train.eval_interval or self.train.num_steps
        self.publish()
        with self.batches.steps(self.progress.step, self.train.num_steps) as samples:
            while self.progress.step < self.train.num_steps:
                self.started = time.perf_counter()
                until = min((self.progress.step // interval + 1) * interval, self.train.num_steps)
                while self.progress.step < until:
                    self.step(*next(samples))
                if self.recent:
                    self.log_loss()
                self.count_seconds()
                self.validate()
                self.save()
                self.publish()
        return self.finish()

    def step(self, images: Tensor, targets: dict[str, Tensor]) -> None:
        """One optimisation step on this rank's share of the global batch, in micro-batches."""
        step, size = parallel.Step(targets, len(images)), self.micro_batch
        self.wrapped.train()
        total = torch.zeros((), device=self.device)
        for start in range(0, len(images), size):
            part = slice(start, start + size)
            last = start + size >= len(images)
            with self.autocast(), self.synchronised(last):
                wanted = {name: value[part] for name, value in targets.items()}
                loss = self.wrapped(images[part], wanted, step.part(part))
                (loss * self.world).backward()  # of which the workers take the mean
            total += loss.detach()
        if self.train.clip_grad_norm is not None:
            trained = [p for p in self.model.parameters() if p.requires_grad]
            nn.utils.clip_grad_norm_(trained, self.train.clip_grad_norm, foreach=True)
        factor = optim.learning_rate_factor(self.progress.step, self.train)
        optim.set_learning_rates(self.optimiser, self.full_rates, factor)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.progress.step += 1
        self.recent.append(total)
        if self.progress.step % self.train.log_interval == 0:
            self.log_loss()

    def autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=wants_bfloat16(self.train, self.device))

    def synchronised(self, last: bool) -> Any:
        """Workers exchange gradients once a step, after the last micro-batch."""
        if isinstance(self.wrapped, DistributedDataParallel) and not last:
            return self.wrapped.no_sync()
        return torch.enable_grad()

    def log_loss(self) -> None:
        """Record the mean loss since the last time, and save where that is wanted now."""
        wanted = float(self.checkpoints is not None and self.rank == 0 and self.save_now())
        value, wanted = parallel.summed(
            torch.stack([torch.stack(self.recent).mean(), torch.tensor(wanted, device=self.device)])
        )
        self.recent.clear()
        if not torch.isfinite(value):
            raise NonFiniteLossError(
                f"loss became {value.item()} before step {self.progress.step}; lower train.learning_rate "
                f"({self.train.learning_rate}) or raise train.warmup_steps ({self.train.warmup_steps})"
            )
        rate = self.optimiser.param_groups[-1]["lr"]
        self.point({"train/loss": value.item(), "train/learning_rate": rate})
        if wanted:
            self.count_seconds()
            self.save()

    def count_seconds(self) -> None:
        """Add the time since the last call, or the start of training, to the training seconds."""
        now = time.perf_counter()
        self.progress.train_seconds += now - self.started
        self.started = now

    def validate(self) -> None:
        started = time.perf_counter()
        metrics = self.evaluate("val")
        self.progress.eval_seconds += time.perf_counter() - started
        value = metrics[f"val/{self.task.metric}"]
        self.point(metrics)
        if self.train.select == "last" or not self.best or self.progress.improves(value, self.task.mode):
            self.progress.best_value, self.progress.best_step = value, self.progress.step
            self.best = {name: tensor.detach().clone() for name, tensor in self.model.trained_state().items()}

    def evaluate(self, split: str) -> dict[str, float]:
        shard = (self.rank, self.world)
        with self.autocast():
            values = evaluate(
                self.model,
                self.data.split(split),
                task=self.config.task,
                columns=self.columns,
                info=self.data.info,
                device=self.device,
                batch_size=self.eval_batch,
                shard=shard,
            )
        return {f"{split}/{name}": value for name, value in values.items()}

    def point(self, values: Mapping[str, float]) -> None:
        epoch = self.progress.step * self.train.batch_size / len(self.data.split("train"))
        self.progress.points.append({"step": self.progress.step, "epoch": epoch, **values})

    def publish(self) -> None:
        self.report(self.progress.points[self.reported :])
        self.reported = len(self.progress.points)

    def finish(self) -> dict[str, float]:
        self.model.load_trained_state(self.best)
        started = time.perf_counter()
        final = self.evaluate("test")
        self.progress.eval_seconds += time.perf_counter() - started
        selected = next(p for p in reversed(self.progress.points) if p["step"] == self.progress.best_step)
        final |= {name: value for name, value in selected.items() if name.startswith("val/")}
        return (
            final
            | self.model.num_parameters()
            | {
                "selected_step": self.progress.best_step,
                "seconds": self.progress.train_seconds + self.progress.eval_seconds,
                "train/seconds": self.progress.train_seconds,
                "peak_memory_bytes": memory.peak_bytes(self.device),
            }
        )

    def save(self) -> None:
        """Write a checkpoint; where that fails the trial goes on, and the one before stays."""
        if self.checkpoints is None:
            return
        states = rng.gather(self.device)
        if self.rank:
            return
        snapshot = progress.pack(self.config, self.model, self.optimiser, self.progress, self.best, states)
        try:
            self.checkpoints.save(snapshot)
        except OSError as error:
            self.warn(f"no checkpoint at step {snapshot.step} ({error}); going on, with the one before in reserve")

    def resume(self) -> None:
        snapshot = self.checkpoints.load(self.warn) if self.checkpoints else None
        progress.agree(snapshot.step if snapshot else 0)
        if snapshot is None:
            return
        self.progress, self.best = progress.unpack(
            snapshot, self.config, self.model, self.optimiser, self.rank, self.device
        )
