"""One step and one evaluation of the paper's models at their true size, on real files: seconds, memory, parameters.

Run:     python -m benchmarks.paper_scale --data segmentation=ade20k:DIR detection=coco:DIR depth=rgbd:DIR

Every cell of backbones x tasks runs `sigma_ray.train.fit` in a process of its own, with the paper profile's adapter and
head on random weights: time and memory do not depend on their values. Steps and evaluation take the data set's own
files; the images are smaller than the recipe's where `--image-size` says so.
"""

import dataclasses
import json
import subprocess
import sys

import tyro

TASKS = ("segmentation", "detection", "depth")
BACKBONES = ("dinov2_base", "siglip2_base", "sam_base")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """What to measure.

    Attributes:
        data: TASK=DATASET:FOLDER for every task.
        backbones: VFM names.
        image_size: of 16 x 16 px patches (rows, columns); patches of other sizes give as many.
        num_steps: optimisation steps; the first one, which warms up, is part of their mean.
        batch_size: images a step.
        threads: CPU threads.
        device: cpu or cuda.
        one: measure this TASK on the one backbone in this process and print JSON (what the program calls itself with).
    """

    data: tuple[str, ...]
    backbones: tuple[str, ...] = BACKBONES
    image_size: tuple[int, int] = (224, 224)
    num_steps: int = 2
    batch_size: int = 1
    threads: int = 2
    device: str = "cpu"
    one: str = ""


def measure(flags: Flags, task: str) -> dict[str, float]:
    """Metrics of `train.fit` for one cell."""
    import torch

    from sigma_ray import data, model, profiles, train, vits
    from sigma_ray.config import override_all

    torch.set_num_threads(flags.threads)
    torch.manual_seed(0)
    name, _, root = dict(entry.split("=", 1) for entry in flags.data)[task].partition(":")
    with torch.device("meta"):
        patch = vits.build(flags.backbones[0]).patch_embed.patch_size[0]  # type: ignore[union-attr]
    size = ",".join(str(side // 16 * patch) for side in flags.image_size)
    edits = {"data": name, "data.root": root, "data.image_size": size, "backbone.name": flags.backbones[0]}
    edits |= {"backbone.weights": "none", "adapter.bottleneck_dim": 32}
    edits |= {"train.num_steps": flags.num_steps, "train.batch_size": flags.batch_size, "train.eval_batch_size": 1}
    edits |= {"train.warmup_steps": 0, "train.eval_interval": "none", "train.log_interval": 1}
    config = override_all(profiles.load("paper", task), edits.items())
    opened = data.open_for(config)
    built = model.build(config, opened.info)
    losses: list[float] = []
    final = train.fit(
        config,
        built,
        opened,
        report=lambda points: losses.extend(p["train/loss"] for p in points if "train/loss" in p),
        device=torch.device(flags.device),
    )
    tested = len(opened.split("val")) + len(opened.split("test"))
    return final | {"loss": losses[-1], "tested": tested, "pixels": size}


def main(flags: Flags) -> None:
    """Measure and print."""
    if flags.one:
        print(json.dumps(measure(flags, flags.one)))
        return
    from rich.console import Console
    from rich.table import Table

    names = ("backbone", "task", "px", "s a step", "s a test image", "peak MB", "trainable", "head", "last loss")
    table = Table(*names, title=f"sigma r=32, batch {flags.batch_size}, {flags.device}, {flags.threads} threads")
    for backbone in flags.backbones:
        for task in TASKS:
            command = [sys.executable, "-m", "benchmarks.paper_scale", *sys.argv[1:], "--one", task]
            done = subprocess.run([*command, "--backbones", backbone], capture_output=True, text=True)
            if done.returncode:
                sys.exit(done.stderr)
            found = json.loads(done.stdout.splitlines()[-1])
            testing = (found["seconds"] - found["train/seconds"]) / found["tested"]
            cells = [f"{found['train/seconds'] / flags.num_steps:.2f}", f"{testing:.2f}"]
            cells += [f"{found['peak_memory_bytes'] / 1e6:.0f}", f"{int(found['trainable_parameters']):,}"]
            table.add_row(
                backbone, task, found["pixels"], *cells, f"{int(found['head_parameters']):,}", f"{found['loss']:.3g}"
            )
    Console(width=130).print(table)


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
