"""What cached features save: a trial without them, the first with them, which fills the cache, and one more.

Run:     python -m benchmarks.feature_cache [--set PATH=VALUE ...]

The methods are those that send no gradient into early blocks. Each trial runs in this process, one after another, with
an empty cache at the start; `--set` edits the demo profile's trial, for example another backbone.
"""

import dataclasses
import os
import tempfile
import time
from typing import Annotated

import tyro

METHODS = ("fixed", "partial", "vit_split")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flags:
    """What to time.

    Attributes:
        methods: methods.
        threads: CPU threads.
        set: edits of the demo profile's trial.
    """

    methods: tuple[str, ...] = METHODS
    threads: int = 1
    set: Annotated[tyro.conf.UseAppendAction[tuple[str, ...]], tyro.conf.arg(metavar="PATH=VALUE")] = ()


def main(flags: Flags) -> None:
    """Time and print."""
    import torch

    from sigma_ray import data, model, profiles, train
    from sigma_ray.config import override_all

    torch.set_num_threads(flags.threads)
    edits = [(path, value) for path, _, value in (edit.partition("=") for edit in flags.set)]
    for method in flags.methods:
        with tempfile.TemporaryDirectory() as folder:
            os.environ["SIGMA_RAY_CACHE"] = folder
            seconds, scores = [], []
            for cache in (False, True, True):
                settings = [*edits, ("adapter", method), ("train.cache_features", cache)]
                config = override_all(profiles.demo(), settings)
                opened = data.open_for(config)
                built = model.build(config, opened.info)
                started = time.perf_counter()
                scores.append(train.fit(config, built, opened, report=lambda points: None)["test/miou"])
                seconds.append(time.perf_counter() - started)
        plain, first, later = seconds
        print(
            f"{method:10s} plain {plain:6.1f} s   first {first:6.1f} s   later {later:6.1f} s   "
            f"later / plain {later / plain:.2f}   test mIoU {scores[0]:.4f} {scores[1]:.4f} {scores[2]:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main(tyro.cli(Flags, description=__doc__))
