"""A trial of several workers: Ray Train inside the Tune trial, and what their deaths mean."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sigma_ray.failures import TrialFailure, WorkerLostError, is_transient, one_line
from trainables.trial import Spec, execute


def run_workers(spec: Spec, *, memory_divisor: int, gpus: float) -> None:
    """Start `num_workers` processes with `torch.distributed` between them, and pass their reports on to Tune.

    Raises:
        Exception: what made the first worker fail; `WorkerLostError` where one only died, or lost the others.
    """
    from ray.exceptions import RayError
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError
    from ray.tune.integration.ray_train import TuneReportCallback

    from trainables import meeting

    trainer = TorchTrainer(
        work,
        train_loop_config={"spec": asdict(spec), "memory_divisor": memory_divisor},
        torch_config=meeting.torch_config("nccl" if gpus else "gloo", Path(spec.folder)),
        scaling_config=ScalingConfig(num_workers=spec.config["num_workers"], use_gpu=bool(gpus)),
        run_config=RunConfig(
            name=spec.key, storage_path=str(Path(spec.folder).parent / "workers"), callbacks=[TuneReportCallback()]
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise _reason(error) from None
    except RayError as error:  # the process that watches the workers is gone
        raise WorkerLostError(one_line(error)) from None


def work(loop: dict[str, Any]) -> None:
    """The loop of one Ray Train worker."""
    from ray import train

    execute(Spec(**loop["spec"]), train.report, memory_divisor=loop["memory_divisor"])


def _reason(error: Exception) -> BaseException:
    """What happened first: a worker's own failure, rather than what its peers saw of it."""
    causes = list(_causes(error))
    failures = [cause for cause in causes if isinstance(cause, TrialFailure)]
    bugs = [cause for cause in causes if not _of_ray(cause) and not is_transient(cause)]
    if failures or bugs:
        return (failures or bugs)[0]
    return WorkerLostError(one_line(causes[-1]))


def _causes(error: Exception) -> Iterator[BaseException]:
    """The workers' exceptions, unwrapped; without any, the trainer's own."""
    for failure in getattr(error, "worker_failures", {}).values() or [error]:
        cause: BaseException = failure
        while (inner := getattr(cause, "cause", None) or cause.__cause__) is not None:
            cause = inner
        yield cause


def _of_ray(error: BaseException) -> bool:
    return type(error).__module__.startswith("ray")
