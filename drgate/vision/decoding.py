"""Process image files in worker processes, in order, with a limited number of results in memory.

    for pixels in in_processes(partial(prepare, size=448), paths, workers=2):
        ...

Workers are started as new processes, not forked, because this process may have torch threads. They import NumPy and
Pillow, not torch.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Final, TypeVar

from drgate.errors import DrgateError

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK: Final = 8
"""Number of items that a worker takes at a time."""

NICE: Final = 10
"""How much less urgent workers are than a network on the same cores."""

FEW: Final = 16
"""Up to this many items are processed without starting a worker."""


def usable_cores() -> int:
    """Number of cores that this process may use; the default number of workers."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    function: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    workers: int,
    chunk: int = CHUNK,
    yielding: bool = False,
) -> Iterator[Result]:
    """`map(function, items)`, computed by worker processes; at most four chunks per worker wait in memory.

    function and items must be picklable. workers: 0 computes in this process. chunk: items that a worker takes at a
    time, fewer where results are large; of smaller chunks fewer wait too. yielding: workers leave the cores to this
    process, which computes on them. The first exception ends the iteration.

    Raises DrgateError if a worker is killed.
    """
    if workers == 0 or len(items) <= FEW:
        yield from map(function, items)
        return
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    waiting: deque[Future[list[Result]]] = deque()
    with ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context(method), initializer=_follow_the_parent, initargs=(yielding,)
    ) as pool:
        try:
            for start in range(0, len(items), chunk):
                waiting.append(pool.submit(_each, function, items[start : start + chunk]))
                if len(waiting) >= max(workers, 4 * workers * chunk // CHUNK):
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool as problem:
            raise DrgateError(
                "A process that decodes images was killed, probably because memory ran out; use fewer --workers."
            ) from problem
        finally:
            pool.shutdown(cancel_futures=True)


def _each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


def _follow_the_parent(yielding: bool) -> None:
    """In a worker: leave Ctrl-C to the parent process, and end when the parent ends."""
    if yielding and hasattr(os, "nice"):
        os.nice(NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def end() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=end, daemon=True).start()
