"""What workers send each other, and what becomes of one whose peer fails. Shares of a loss: heads/test_cuts.py."""

import math
import time

import pytest
import torch
import torch.multiprocessing as mp
import workers
from test_train import CONFIG, Toy
from torch.profiler import ProfilerActivity, profile

from sigma_ray import model as models
from sigma_ray import parallel, train
from sigma_ray.config import override_all
from sigma_ray.failures import DataError, is_transient


class Ragged(Toy):
    """Labels are missing here and there, so that workers see different numbers of them."""

    def __init__(self):
        super().__init__()
        self.tables["train"] = self.tables["val"]


def sent(step, told):
    """`_Loop.step`, which adds to `told` what third steps send: (operation, how many numbers).

    Before that DDP tells its peers in which order it will send.
    """

    def run(self, *sample):
        if self.progress.step != 2:
            return step(self, *sample)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
            step(self, *sample)
        told.extend((e.name, math.prod(e.input_shapes[0])) for e in seen.events() if e.name.startswith("gloo:"))

    return run


def count_numbers(rank, folder):
    """Per adapter: trainable parameters, and what a step sent."""
    found = {}
    for adapter in ("sigma", "full"):
        steps = [("train.num_steps", 3), ("train.eval_interval", 3), ("train.log_interval", 1)]
        parts = [("num_workers", 2), ("train.micro_batch_size", 2)]
        config, told = override_all(CONFIG, [("adapter", adapter), *steps, *parts]), []
        model = models.build(config, Toy.info)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(train._Loop, "step", sent(train._Loop.step, told))
            train.fit(config, model, Ragged(), report=lambda points: None)
        found[adapter] = sum(p.numel() for p in model.parameters() if p.requires_grad), told
    return found


def test_a_step_sends_the_gradients_of_trainable_parameters_and_a_count(tmp_path):
    for found in workers.run(count_numbers, tmp_path):
        for trainable, operations in found.values():
            assert {name for name, _ in operations} == {"gloo:all_reduce"}
            sizes = sorted(size for _, size in operations)
            assert sizes[:2] == [1, 2]  # labelled pixels; when it is logged, the loss and whether to save
            assert sum(sizes[2:]) == trainable
        assert found["full"][0] > 3 * found["sigma"][0]


class Broken(Toy):
    """From the third step on no sample can be read."""

    def __init__(self):
        super().__init__()
        self.left = 2

    def split(self, name):
        return self

    def __len__(self):
        return 20

    def take(self, indices, columns):
        return self.tables["train"].take(indices, columns)

    def augmented(self, indices, columns, draws):
        self.left -= 1
        if self.left < 0:
            raise FileNotFoundError("sample.png")
        return self.tables["train"].augmented(indices, columns, draws)


def fail_on_one(rank, folder, lingers):
    """Train, with broken data on rank 1; keep what was raised, and after how long."""
    config = override_all(CONFIG, [("num_workers", 2)])
    model = models.build(config, Toy.info)
    started = time.perf_counter()
    try:
        train.fit(config, model, Broken() if rank else Toy(), report=lambda points: None)
    except Exception as error:
        kept = type(error).__name__, is_transient(error), time.perf_counter() - started
        torch.save(kept, folder / f"raised-{rank}.pt")
        if rank and lingers:
            time.sleep(15)
        raise


def fail_at_once(rank, folder):
    fail_on_one(rank, folder, lingers=False)


def fail_and_linger(rank, folder):
    fail_on_one(rank, folder, lingers=True)


@pytest.mark.parametrize(
    ("work", "timeout"), [(fail_at_once, 120), pytest.param(fail_and_linger, 5, marks=pytest.mark.chaos)]
)
def test_no_worker_waits_for_ever_for_one_that_failed(tmp_path, work, timeout):
    """Its peer learns of it as soon as the process ends, and otherwise after the group's timeout."""
    running = mp.start_processes(
        workers._work, (work, tmp_path, 2, timeout), nprocs=2, start_method="spawn", join=False
    )
    for process in running.processes:
        process.join(100)
    assert [process.exitcode for process in running.processes] == [1, 1]
    failed, waiting = (torch.load(tmp_path / f"raised-{rank}.pt") for rank in (1, 0))
    assert failed[:2] == (DataError.__name__, False)
    assert waiting[0] == "RuntimeError" and waiting[1]
    assert waiting[2] < failed[2] + 60 if timeout > 60 else waiting[2] < failed[2] + 12


def test_one_worker_is_not_wrapped_and_sums_alone():
    model = torch.nn.Linear(2, 2)
    assert parallel.replicated(model) is model
    value = torch.ones(2)
    assert parallel.summed(value) is value and parallel.gathered([3]) == [3]
