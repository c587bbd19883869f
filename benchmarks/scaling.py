"""Seconds a step with several workers against one, at the same global batch, and the bytes that workers exchange.

Run:     python -m benchmarks.scaling [--backbones scenes_tiny vit_base_patch16_224 --sizes 64 96] [--workers 2]

Workers are processes on this machine with gloo between them and `--threads` threads each. Efficiency is the time of one
worker over workers times their time: 1 where nothing is lost. Bytes are those of one step, as the profiler sees
them handed to gloo, after the two in which DDP arranges its buckets.
"""

import dataclasses
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import tyro


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """What to measure.

    Attributes:
        backbones: VFM or timm names; weights are random.
        sizes: side of the images in pixels, one for each backbone.
        methods: adapters.
        workers: how many to compare with one.
        batch_size: images a step, of all workers together.
        steps: measured steps.
        warmup: steps before them, 3 at least.
        rounds: how often everything is measured; the best round counts, because a shared machine's speed drifts.
        threads: CPU threads of a worker.
    """

    backbones: tuple[str, ...] = ("scenes_tiny", "vit_base_patch16_224")
    sizes: tuple[int, ...] = (64, 96)
    methods: tuple[str, ...] = ("sigma", "full")
    workers: int = 2
    batch_size: int = 8
    steps: int = 10
    warmup: int = 3
    rounds: int = 2
    threads: int = 1


def measure(flags: Flags, backbone: str, size: int, method: str) -> dict[str, Any]:
    """Median seconds of a step, the number of trainable parameters, and how many numbers each message of a step has."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    from sigma_ray import model as models
    from sigma_ray import optim, parallel
    from sigma_ray.config import BackboneConfig, TrainConfig, TrialConfig, component
    from sigma_ray.data import Info

    config = TrialConfig(
        backbone=BackboneConfig(name=backbone, weights=None),
        adapter=component("adapter", method),
        head=component("head", "deconv", channels=48),
        data=component("data", "scenes"),
        train=TrainConfig(num_steps=1),
    )
    model = models.build(config, Info(num_classes=9, class_names=tuple("abcdefghi"), image_size=(size, size))).train()
    optimiser, replica = optim.optimiser(model, config.train), parallel.replicated(model)
    world = parallel.world()[1]
    share = flags.batch_size // world
    images = torch.randint(0, 256, (share, 3, size, size), dtype=torch.uint8)
    targets = {"mask": torch.randint(0, 9, (share, size, size))}

    def step() -> float:
        started = time.perf_counter()
        (replica(images, targets, parallel.Step(targets, share).part(slice(share))) * world).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    for _ in range(flags.warmup):
        step()
    seconds = statistics.median(step() for _ in range(flags.steps))
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        step()
    # DDP's gradients, and the labelled pixels of the step, which are one number.
    sent = [torch.Size(e.input_shapes[0]).numel() for e in seen.events() or () if e.name.startswith("gloo:")]
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"seconds": seconds, "trainable": trainable, "sent": sent}


def work(rank: int, world: int, flags: Flags, case: tuple[str, int, str], folder: str) -> None:
    """One worker; the first leaves what it measured in `folder`."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(flags.threads)
    if world > 1:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    found = measure(flags, *case)
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    if world > 1:
        dist.destroy_process_group()


def run(flags: Flags, case: tuple[str, int, str], world: int) -> dict[str, Any]:
    """What `world` workers measure, in processes of their own."""
    import torch
    import torch.multiprocessing as mp

    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with tempfile.TemporaryDirectory() as folder:
        mp.start_processes(work, (world, flags, case, folder), nprocs=world, start_method="spawn")
        return torch.load(Path(folder) / "found.pt", weights_only=True)


def main(flags: Flags) -> None:
    """Measure and print."""
    from rich.console import Console
    from rich.table import Table

    if len(flags.sizes) != len(flags.backbones) or flags.batch_size % flags.workers:
        raise SystemExit("give one of --sizes for each of --backbones, and a --batch-size that --workers divides")
    title = f"batch {flags.batch_size}, {flags.threads} thread(s) a worker"
    times = ("ms, 1 worker", f"ms, {flags.workers}", "efficiency")
    table = Table("backbone", "method", *times, "MB trainable", "MB sent", "other numbers sent", title=title)
    for backbone, size in zip(flags.backbones, flags.sizes, strict=True):
        for method in flags.methods:
            case, found = (backbone, size, method), {}
            for world in (1, flags.workers) * flags.rounds:
                new = run(flags, case, world)
                found[world] = min(new, found.get(world, new), key=lambda one: one["seconds"])
            alone, together = found[1], found[flags.workers]
            gradients = [numbers for numbers in together["sent"] if numbers > 1]
            table.add_row(
                f"{backbone} {size}x{size}",
                method,
                f"{1e3 * alone['seconds']:.0f}",
                f"{1e3 * together['seconds']:.0f}",
                f"{alone['seconds'] / together['seconds'] / flags.workers:.2f}",
                f"{4e-6 * together['trainable']:.4f}",
                f"{4e-6 * sum(gradients):.4f}",
                str(len(together["sent"]) - len(gradients)),
            )
    Console(width=130).print(table)


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
