"""Decoding threads, and batches made ahead of the step that needs them.

Pillow, numpy and OpenCV release the interpreter lock while they decode and scale, so threads share the work without the
copies between processes that a batch of pictures would cost (`benchmarks/data_loading.py`).
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")
S = TypeVar("S")

_pool: ThreadPoolExecutor | None = None
_num_threads: int | None = None


def set_num_threads(count: int) -> None:
    """How many threads of this process decode samples; by default as many as it may use cores."""
    global _pool, _num_threads
    if count != _num_threads:
        _pool, _num_threads = None, count


def parallel(function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """`function` of every item, in order, on this process's decoding threads; an exception surfaces at its item."""
    global _pool
    if _pool is None:
        count = _num_threads or len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        _pool = ThreadPoolExecutor(count or 1, thread_name_prefix="decode", initializer=_one_thread_each)
    return _pool.map(function, items)


def _one_thread_each() -> None:
    import cv2

    cv2.setNumThreads(1)  # samples run side by side already


class Prefetcher(Generic[T]):
    """Batches of consecutive steps, a few of them made ahead.

        with Prefetcher(make, start=step, stop=num_steps, ahead=2) as batches:
            for batch in batches: ...

    `make(step)` must be a pure function of the step, because it runs on other threads and possibly before an earlier
    step's. At most `ahead` batches beside the one in use exist at any time. An exception of `make` surfaces when its
    step is asked for, after all earlier steps. Leaving the block, or dropping the object, ends the threads.
    """

    def __init__(self, make: Callable[[int], T], *, start: int, stop: int, ahead: int = 2) -> None:
        """Begin with step `start`; `stop` is the first step not made."""
        if ahead < 1:
            raise ValueError(f"ahead must be 1 or more, but got {ahead}; call the function itself to make none ahead.")
        self._make, self._next, self._stop = make, start, stop
        self._pool = ThreadPoolExecutor(ahead, thread_name_prefix="prefetch")
        self._waiting: deque[Future[T]] = deque()
        for _ in range(ahead):
            self._submit()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        """The next step's batch; waits for it."""
        if not self._waiting:
            self.close()
            raise StopIteration
        batch = self._waiting.popleft()
        try:
            result = batch.result()
        except BaseException:
            self.close()
            raise
        self._submit()
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_pool"):
            self._pool.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Give up the batches under way and end the threads; waits for those at work. May be called again."""
        self._waiting.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self) -> None:
        if self._next < self._stop:
            self._waiting.append(self._pool.submit(self._make, self._next))
            self._next += 1
