"""Batches made ahead: in order, bounded, errors at their step, and no threads left behind."""

import threading
import time

import pytest

from sigma_ray.data import loader
from sigma_ray.data.loader import Prefetcher


def waiting_threads() -> int:
    return sum(thread.name.startswith("prefetch") for thread in threading.enumerate())


@pytest.mark.parametrize("ahead", [1, 2, 5])
def test_batches_come_in_order_whichever_is_ready_first(ahead: int) -> None:
    def make(step: int) -> int:
        time.sleep(0.004 * (3 - step % 4))
        return step * step

    with Prefetcher(make, start=3, stop=20, ahead=ahead) as batches:
        assert list(batches) == [step * step for step in range(3, 20)]
    assert waiting_threads() == 0


def test_no_more_batches_exist_than_asked_for() -> None:
    made: list[int] = []
    with Prefetcher(lambda step: made.append(step) or step, start=0, stop=100, ahead=3) as batches:
        for step in batches:
            time.sleep(0.002)
            assert len(made) <= step + 4
            if step == 10:
                break
    assert len(made) <= 14
    assert waiting_threads() == 0


def test_making_happens_while_the_consumer_works() -> None:
    def make(step: int) -> int:
        time.sleep(0.03)
        return step

    started = time.perf_counter()
    with Prefetcher(make, start=0, stop=10, ahead=2) as batches:
        for _ in batches:
            time.sleep(0.03)
    assert time.perf_counter() - started < 0.5, "one after the other takes 0.6 s"


def test_an_error_surfaces_at_its_step_and_ends_the_threads() -> None:
    def make(step: int) -> int:
        if step == 2:
            raise OSError("picture 2 is gone")
        return step

    batches, seen = Prefetcher(make, start=0, stop=9, ahead=4), []
    with pytest.raises(OSError, match="picture 2 is gone"):
        [seen.append(step) for step in batches]
    assert seen == [0, 1]
    assert waiting_threads() == 0
    batches.close()
    with pytest.raises(StopIteration):
        next(batches)


def test_leaving_the_block_on_an_error_ends_the_threads() -> None:
    def train() -> None:
        with Prefetcher(lambda step: step, start=0, stop=1000) as batches:
            next(batches)
            raise RuntimeError("training")

    with pytest.raises(RuntimeError, match="training"):
        train()
    assert waiting_threads() == 0


def test_nothing_ahead_is_refused() -> None:
    with pytest.raises(ValueError, match="ahead must be 1 or more, but got 0"):
        Prefetcher(lambda step: step, start=0, stop=1, ahead=0)


def test_the_number_of_decoding_threads_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_pool", None)
    monkeypatch.setattr(loader, "_num_threads", None)
    loader.set_num_threads(3)
    busy = threading.Barrier(3, timeout=5)
    names = set(loader.parallel(lambda _: (busy.wait(), threading.current_thread().name)[1], range(3)))
    assert len(names) == 3
