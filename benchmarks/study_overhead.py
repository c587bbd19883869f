"""How much of a study's wall time is training, and what does the machinery cost against a plain loop?

Run:     python -m benchmarks.study_overhead [--study ablate_bottleneck] [--set PATH=VALUE ...] [--skip-loop]

Times `python -m studies.<study>` in a fresh folder, start to exit, then the same command again (a no-op), then the
same trials one after another in this process. Efficiency = in-loop seconds summed over trials / (wall x slots).
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Annotated

import tyro

from sigma_ray.study import Plan, make_plan


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """What to time.

    Attributes:
        study: module below `studies`.
        seeds: number of seeds.
        slots: trials at a time; default: the machine's CPUs.
        set: edits of the baseline, as in the study's own command.
        skip_loop: leave out the plain loop, which takes as long as all trials together.
    """

    study: str = "ablate_bottleneck"
    seeds: int = 3
    slots: int = os.cpu_count() or 1
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="PATH=VALUE")] = ()
    skip_loop: bool = False


def run_command(flags: Flags, folder: Path) -> float:
    """Wall seconds of the study's command."""
    command = [sys.executable, "-m", f"studies.{flags.study}", "--seeds", str(flags.seeds), "--jobs", str(flags.slots)]
    command += [part for edit in flags.set for part in ("--set", edit)]
    command += ["--output", str(folder / "results"), "--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def run_loop(plan: Plan) -> float:
    """Wall seconds of the same trials in a plain Python loop, data rendered beforehand."""
    from sigma_ray import data, model, train

    started = time.perf_counter()
    for trial in plan.trials:
        opened = data.open_for(trial.config)
        train.fit(trial.config, model.build(trial.config, opened.info), opened, report=lambda points: None)
    return time.perf_counter() - started


def main(flags: Flags) -> None:
    """Time and print."""
    import pyarrow.parquet as pq

    study = import_module(f"studies.{flags.study}").STUDY
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wall = run_command(flags, folder)
        table = pq.read_table(folder / "results" / flags.study / "trials.parquet").to_pydict()
        again = run_command(flags, folder)
    training, inside = sum(table["train/seconds"]), sum(table["seconds"])
    print(f"{flags.study}: {len(table['arm'])} trials, {flags.slots} slots")
    print(f"wall seconds, start to exit        {wall:8.1f}")
    print(f"training seconds, all trials       {training:8.1f}   efficiency {training / (wall * flags.slots):.3f}")
    print(f"  with evaluation                  {inside:8.1f}   efficiency {inside / (wall * flags.slots):.3f}")
    print(f"second run, nothing to train       {again:8.1f}")
    if not flags.skip_loop:
        import torch

        settings = [(path, value) for path, _, value in (edit.partition("=") for edit in flags.set)]
        loop = run_loop(make_plan(study, "demo", num_seeds=flags.seeds, settings=settings))
        print(f"plain loop, {torch.get_num_threads()} threads           {loop:8.1f}   study / loop {wall / loop:.2f}")


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
