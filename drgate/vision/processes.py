"""The processes of one run: a single one, or one per device, started by torchrun or `accelerate launch`.

    with processes() as group:
        group.rank, group.size, group.device
        everything = group.gather(mine)             # on every process, in order of rank

Only process 0 writes files and prints. What all processes must agree on (when to stop, when to save) uses `any_of`.
"""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from drgate.errors import DrgateError

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process and its place among the processes of the run."""

    rank: int
    local_rank: int
    """Rank among the processes of this machine."""
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is process 0, which writes files and prints."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, by rank."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def share(self, value: Any) -> Any:
        """The value of process 0, on all processes."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def any_of(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether it is true on any process; all processes get the same answer."""
        if self.size == 1:
            return list(flags)
        raised = torch.tensor([float(flag) for flag in flags], device=self.device)
        dist.all_reduce(raised, dist.ReduceOp.MAX)
        return [bool(flag) for flag in raised.tolist()]

    def together(self, action: Callable[[], Result]) -> Result:
        """Run an action on all processes, on the first one before the others, so that an error is printed once.

        Raises what `action` raises on the first process; the others then end (SystemExit with its exit code).
        """
        if self.size == 1:
            return action()
        problem: DrgateError | None = None
        if self.first:
            try:
                result = action()
            except DrgateError as error:
                problem = error
        code: int = self.share(problem.exit_code if problem else 0)
        if problem is not None:
            raise problem
        if code:
            raise SystemExit(code)
        return result if self.first else action()

    def wait(self) -> None:
        """Wait until all processes reach this point."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def processes() -> Iterator[Processes]:
    """This process's place, from the environment variables of torchrun; leaves the process group at the end.

    Raises DrgateError if there are several processes and they cannot connect.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        yield Processes(0, 0, 1, device)
        return
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            # the first process decodes a whole data set while the others wait
            timeout=datetime.timedelta(hours=12),
        )
    except (ValueError, RuntimeError) as problem:  # torch's DistError is a RuntimeError
        raise DrgateError(
            f"The {size} processes of this run could not connect ({' '.join(str(problem).split())[:160]}); start"
            " them with torchrun."
        ) from problem
    try:
        yield Processes(dist.get_rank(), local, size, device)
        dist.barrier()  # a process that ends while another still receives from it is aborted, now and then
    finally:
        dist.destroy_process_group()
