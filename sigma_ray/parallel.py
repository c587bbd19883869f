"""Several workers on one trial: what they sum, what a part of a step counts for, and whose gradients they average."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Targets = dict[str, Tensor]
Count = Callable[[Targets], dict[str, Tensor]]
"""From targets to the numbers of things that a loss averages over: by name, one number an image, (B,)."""


def world() -> tuple[int, int]:
    """This process's rank, and how many work together."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def summed(value: Tensor) -> Tensor:
    """The sum of every worker's `value`, on each of them."""
    if world()[1] > 1:
        value = value.clone()
        dist.all_reduce(value)
    return value


def gathered(records: list[Any]) -> list[Any]:
    """The records of every worker, on each of them, in the order of the ranks."""
    if world()[1] == 1:
        return records
    parts: list[Any] = [None] * world()[1]
    dist.all_gather_object(parts, records)
    return [record for part in parts for record in part]


class Share:
    """What a part of a step's global batch counts for in the step's loss; this class is the whole.

    Most losses are means: over labelled pixels, objects, images. Parts (micro-batches and workers) hold different
    numbers of these, and a mean over parts would weigh an object the more, the fewer others its part happens to hold.
    A head multiplies each mean of its own by a weight from here; the sum over all parts is then the mean over the
    whole step, however that is cut.

    Attributes:
        images: the weight of a mean over images.
    """

    images = 1.0

    def weights(self, count: Count, added: Mapping[str, float] | None = None) -> Mapping[str, Any]:
        """The weights of means over what `count` counts, by name.

        Args:
            count: means are taken to divide by its numbers, or by 1 where those are 0.
            added: what the loss adds to a number before it divides by it, if anything.
        """
        return defaultdict(lambda: 1.0)


WHOLE = Share()


class Step:
    """The parts of one step's global batch that this worker trains on, one after the other."""

    def __init__(self, targets: Targets, num_images: int) -> None:
        """Take the `targets` of this worker's `num_images` images."""
        self.targets, self.num_images = targets, num_images
        self.counts: dict[str, Tensor] = {}
        self.totals: dict[str, Tensor] = {}

    def part(self, rows: slice) -> Share:
        """The share of the images `rows`."""
        whole = world()[1] == 1 and len(range(*rows.indices(self.num_images))) == self.num_images
        return WHOLE if whole else _Part(self, rows)

    def counted(self, count: Count) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Numbers an image, (B,), and their sums over all workers; every worker calls it at the same time, once."""
        if not self.counts:
            with torch.no_grad():
                self.counts = {name: values.double() for name, values in count(self.targets).items()}
            sums = summed(torch.stack([values.sum() for values in self.counts.values()]))
            self.totals = dict(zip(self.counts, sums, strict=True))
        return self.counts, self.totals


class _Part(Share):
    """Some of the images of a step."""

    def __init__(self, step: Step, rows: slice) -> None:
        self.step, self.rows = step, rows
        self.images = len(range(*rows.indices(step.num_images))) / (step.num_images * world()[1])

    def weights(self, count: Count, added: Mapping[str, float] | None = None) -> Mapping[str, Any]:
        counts, totals = self.step.counted(count)
        more = {name: 0.0 for name in counts} | dict(added or {})
        own = {name: (values[self.rows].sum() + more[name]).clamp(min=1) for name, values in counts.items()}
        return {name: (own[name] / (totals[name] + more[name]).clamp(min=1)).float() for name in own}


def replicated(model: nn.Module) -> nn.Module:
    """`model` such that backward passes average the gradients of its trainable parameters over the workers.

    Buffers are only sent once: none of them changes in training (there is no batch normalisation). Alone, or without
    anything to train, it is `model` itself.
    """
    if world()[1] == 1 or not any(p.requires_grad for p in model.parameters()):
        return model
    # `static_graph` makes no step shorter (benchmarks/scaling.py), and refuses steps that leave a parameter out.
    wrapped = DistributedDataParallel(model, gradient_as_bucket_view=True)
    wrapped.broadcast_buffers = False  # as an option it is deprecated, and what replaces it is not in older versions
    return wrapped
