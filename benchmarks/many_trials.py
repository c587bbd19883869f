"""What does a study cost beside its training, and does that grow with the number of trials?

Run:     python -m benchmarks.many_trials [--seeds 6 25] [--set PATH=VALUE ...]

Runs a study of very short trials (a second or so each) at several numbers of seeds, and each of them a second time,
when nothing is left to train. A cost per trial that is the same in every row is linear growth.
"""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import psutil
import tyro

SHORT = ("train.num_steps=15", "train.warmup_steps=3", "train.eval_interval=15", "data.num_train=64")
SHORT += ("data.num_val=32", "data.num_test=32")


@dataclass(frozen=True, kw_only=True)
class Flags:
    """What to measure.

    Attributes:
        study: module below `studies`.
        seeds: numbers of seeds; a study of A arms has A times as many trials.
        slots: trials at a time; default: the machine's CPUs.
        set: edits of the baseline, after those that make trials short.
    """

    study: str = "ablate_modules"
    seeds: tuple[int, ...] = (6, 25)
    slots: int = os.cpu_count() or 1
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="PATH=VALUE")] = ()


def run(flags: Flags, seeds: int, folder: Path) -> tuple[float, float]:
    """Wall seconds of the study's command, and the most memory its driver had, in MB."""
    command = [sys.executable, "-m", f"studies.{flags.study}", "--seeds", str(seeds), "--jobs", str(flags.slots)]
    command += [part for edit in (*SHORT, *flags.set) for part in ("--set", edit)]
    command += ["--output", str(folder / "results"), "--tracking-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    started, most = time.perf_counter(), 0.0
    driver = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while driver.poll() is None:
        try:
            most = max(most, driver.memory_info().rss / 1e6)
        except psutil.Error:  # it has just ended
            break
        time.sleep(0.05)
    if driver.wait():
        sys.exit(f"{' '.join(command)} ended with code {driver.returncode}")
    return time.perf_counter() - started, most


def measure(flags: Flags, seeds: int) -> dict[str, float]:
    """One row of the table."""
    import pyarrow.parquet as pq

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wall, memory = run(flags, seeds, folder)
        again, _ = run(flags, seeds, folder)
        inside = pq.read_table(folder / "results" / flags.study / "trials.parquet").column("seconds").to_pylist()
        artifacts = sum(path.stat().st_size for path in (folder / "mlartifacts").rglob("*") if path.is_file())
        return {
            "trials": len(inside),
            "wall s": wall,
            "in-loop s a trial": sum(inside) / len(inside),
            "overhead s a trial": (wall * flags.slots - sum(inside)) / len(inside),
            "driver MB": memory,
            "database kB a trial": (folder / "mlflow.db").stat().st_size / 1e3 / len(inside),
            "artifacts kB a trial": artifacts / 1e3 / len(inside),
            "second run s": again,
        }


def main(flags: Flags) -> None:
    """Measure and print."""
    rows = [measure(flags, seeds) for seeds in flags.seeds]
    print(f"{flags.study}, {flags.slots} slots")
    for name in rows[0]:
        print(f"{name:22}" + "".join(f"{row[name]:12.2f}" for row in rows))
    if len(rows) > 1:
        steps = itertools.pairwise(rows)
        added = [(b["wall s"] - a["wall s"]) * flags.slots / (b["trials"] - a["trials"]) for a, b in steps]
        print(f"{'s each more trial':22}{'':12}" + "".join(f"{seconds:12.2f}" for seconds in added))


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
