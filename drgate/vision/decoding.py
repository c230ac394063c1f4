"""Work on image files in worker processes, in order, with a bounded number of results waiting.

    for pixels in in_processes(partial(prepare, size=448), paths, workers=2):
        ...

Workers start afresh (never forked: this process may hold threads of torch) and import NumPy and Pillow, not torch.
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
"""Items that a worker takes at once."""

FEW: Final = 16
"""Up to so many items are not worth starting a process."""


def usable_cores() -> int:
    """Cores that this process may use; the default number of workers."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(function: Callable[[Item], Result], items: Sequence[Item], *, workers: int) -> Iterator[Result]:
    """`map(function, items)`, computed by worker processes; at most four chunks a worker wait to be consumed.

    function and items must pickle. workers: 0 computes here. The first exception that `function` raises ends it.

    Raises DrgateError when a worker is killed.
    """
    if workers == 0 or len(items) <= FEW:
        yield from map(function, items)
        return
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    waiting: deque[Future[list[Result]]] = deque()
    with ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context(method), initializer=_follow_the_parent
    ) as pool:
        try:
            for start in range(0, len(items), CHUNK):
                waiting.append(pool.submit(_each, function, items[start : start + CHUNK]))
                if len(waiting) >= 4 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool as problem:
            raise DrgateError(
                "A process that decodes images was killed, as happens when memory runs out; use fewer workers."
            ) from problem
        finally:
            pool.shutdown(cancel_futures=True)


def _each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


def _follow_the_parent() -> None:
    """Interrupts are the parent's to handle; and a worker whose parent was killed ends, instead of staying for good."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def end() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=end, daemon=True).start()
