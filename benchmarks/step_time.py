"""Step time and peak memory of every method on one backbone, as ratios to `fixed` and to `full`.

Run:     python -m benchmarks.step_time [--backbone deit_tiny_patch16_224 --image-size 224 224] [--device cuda]

Each method is measured in a process of its own: forward, loss, backward, optimiser, on random images; the median over
`--steps` steps after `--warmup` unmeasured ones. Methods are visited in turn `--rounds` times, because a machine's
speed drifts; the shown time is the best round's. Peak memory on CUDA is the allocator's, on CPU the process's resident
set above what it was once the model stood.
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import time

import tyro

from sigma_ray import components


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """What to measure.

    Attributes:
        backbone: VFM or timm name; weights are random.
        image_size: height and width in pixels.
        batch_size: images a step.
        steps: measured steps.
        warmup: steps before them.
        rounds: how often every method is measured.
        threads: CPU threads.
        device: cpu or cuda.
        methods: methods; default: all that run on the backbone.
        one: measure this method in this process and print JSON (what the program calls itself with).
    """

    backbone: str = "scenes_tiny"
    image_size: tuple[int, int] = (64, 64)
    batch_size: int = 16
    steps: int = 20
    warmup: int = 3
    rounds: int = 2
    threads: int = 1
    device: str = "cpu"
    methods: tuple[str, ...] = ()
    one: str | None = None


def measure(flags: Flags, method: str) -> dict[str, float]:
    """Median seconds of a step, peak bytes and trainable parameters of one method."""
    import torch

    from sigma_ray import memory, optim
    from sigma_ray import model as models
    from sigma_ray.config import BackboneConfig, TrainConfig, TrialConfig, component
    from sigma_ray.data import Info

    torch.set_num_threads(flags.threads)
    device = torch.device(flags.device)
    config = TrialConfig(
        backbone=BackboneConfig(name=flags.backbone, weights=None),
        adapter=component("adapter", method),
        head=component("head", "deconv", channels=48),
        data=component("data", "scenes"),
        train=TrainConfig(num_steps=1),
    )
    info = Info(num_classes=9, class_names=tuple("abcdefghi"), image_size=flags.image_size)
    model = models.build(config, info).to(device).train()
    optimiser = optim.optimiser(model, config.train)
    images = torch.randint(0, 256, (flags.batch_size, 3, *flags.image_size), dtype=torch.uint8, device=device)
    masks = torch.randint(0, 9, (flags.batch_size, *flags.image_size), device=device)

    def step() -> float:
        started = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            loss = model(images, {"mask": masks})
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - started

    memory.reset_peak(device)
    before = memory.peak_bytes(device) if device.type == "cpu" else 0
    for _ in range(flags.warmup):
        step()
    seconds = statistics.median(step() for _ in range(flags.steps))
    return {"seconds": seconds, "bytes": memory.peak_bytes(device) - before, **model.num_parameters()}


def run(flags: Flags, method: str) -> dict[str, float] | None:
    """Measure a method in a process of its own; None where it cannot run on the backbone."""
    command = [sys.executable, "-m", "benchmarks.step_time", *sys.argv[1:], "--one", method]
    done = subprocess.run(command, capture_output=True, text=True)
    if "cannot run on" in done.stderr or "must find its blocks" in done.stderr:
        print(done.stderr.strip().splitlines()[-1])
        return None
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main(flags: Flags) -> None:
    """Measure and print."""
    if flags.one:
        print(json.dumps(measure(flags, flags.one)))
        return
    from rich.console import Console
    from rich.table import Table

    best: dict[str, dict[str, float]] = {}
    for _ in range(flags.rounds):
        for method in flags.methods or components.names("adapter"):
            found = run(flags, method)
            if found and (method not in best or found["seconds"] < best[method]["seconds"]):
                best[method] = found
    title = f"{flags.backbone}, batch {flags.batch_size}, {flags.image_size}, {flags.device}"
    table = Table("method", "parameters", "ms a step", "/ fixed", "/ full", "peak MB", "/ fixed", "/ full", title=title)
    for method, found in sorted(best.items(), key=lambda item: item[1]["seconds"]):
        cells = []
        for key, factor in (("seconds", 1e3), ("bytes", 1e-6)):
            ratios = [f"{found[key] / best[name][key]:.2f}" if name in best else "" for name in ("fixed", "full")]
            cells += [f"{found[key] * factor:.0f}", *ratios]
        table.add_row(method, f"{int(found['trainable_parameters']):,}", *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
