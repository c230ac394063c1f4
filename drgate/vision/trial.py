"""A model's first inferences in a process of its own: `python trial.py`, which reads from its standard input.

An ONNX file can ask for any amount of memory and time, in a loop or a constant of any shape, while it is loaded or when
it runs. This process may use `memory` bytes of address space and `seconds` of each of its threads. It imports nothing
of drgate, so that it starts in a moment.

Input: a line of JSON (model, memory, seconds, width, input, output, batch), then two images as NumPy saves an array.
Output: a line of JSON, {"batch": 0 for any number of images, else how many the model takes at a time, "other_answers":
whether an image gets another answer beside other images}. Exit code 3: it cannot be loaded; 1: it cannot grade them.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from typing import Any

THREADS = 4
"""Each reserves address space; on a machine with many cores, one thread a core would need more than an honest model."""

BATCHES = (1, 2, 4, 8, 16, 32)
"""Numbers of images that a graph may take although it declares that it takes any."""

TOLERANCE = 1e-3
"""Largest difference between answers that is rounding, as a fraction of the largest answer."""


def main(asked: dict[str, Any], images: bytes) -> int:
    try:
        import resource
    except ImportError:  # not on Windows: there the caller's clock is the only limit
        pass
    else:
        for kind, limit in ((resource.RLIMIT_AS, asked["memory"]), (resource.RLIMIT_CPU, asked["seconds"] * THREADS)):
            allowed = resource.getrlimit(kind)[1]
            lower = limit if allowed == resource.RLIM_INFINITY else min(limit, allowed)
            with contextlib.suppress(ValueError, OSError):  # macOS knows this limit and refuses to set it
                resource.setrlimit(kind, (lower, lower))
    import numpy as np
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = THREADS
    try:
        session = onnxruntime.InferenceSession(asked["model"], options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        return _failed(error, 3)
    pictures = np.load(io.BytesIO(images), allow_pickle=False)

    def answers(*which: int) -> Any:
        """(n, width) for the images with these numbers, 0 or 1. Raises ValueError for another shape."""
        found = session.run([asked["output"]], {asked["input"]: pictures[list(which)]})[0]
        shape, width = getattr(found, "shape", None), asked["width"]
        if shape != (len(which), width) and not (width == 1 and shape == (len(which),)):
            many = f"{len(which)} image{'' if len(which) == 1 else 's'}"
            raise ValueError(f"it gives the output {shape} for {many}; expected ({len(which)}, {width})")
        return np.asarray(found, dtype=np.float64).reshape(len(which), width)

    try:
        print(json.dumps(_decided(answers, asked["batch"])))
    except Exception as error:
        return _failed(error, 1)
    return 0


def _decided(answers: Callable[..., Any], declared: int) -> dict[str, Any]:
    """How many images the model takes at a time, and whether they change each other's answers."""
    batch = declared
    if batch:
        alike = answers(*[0] * batch)
    else:
        first: Exception | None = None
        for batch in BATCHES:
            try:
                alike = answers(*[0] * batch)
                break
            except Exception as error:
                first = first or error
        else:
            assert first is not None
            raise first
        if batch == 1:
            try:
                mixed = answers(1, 0, 1)  # with a neighbour on each side
            except Exception:  # such as a reshape to (1, 5)
                return {"batch": 1, "other_answers": False}
            return {"batch": 0, "other_answers": _differ(alike[0], mixed[1]) or _differ(mixed[0], mixed[2])}
    if batch == 1:
        return {"batch": 1, "other_answers": False}
    mixed, others = answers(*(i % 2 for i in range(batch))), answers(*[1] * batch)
    return {"batch": batch, "other_answers": _differ(alike[::2], mixed[::2]) or _differ(others[1::2], mixed[1::2])}


def _differ(one: Any, other: Any) -> bool:
    """Whether the answers are different by more than rounding; one that is not a number equals another."""
    import numpy as np

    largest = float(np.abs(np.nan_to_num([one, other], posinf=0, neginf=0)).max())
    return not np.allclose(one, other, rtol=0, atol=TOLERANCE * largest, equal_nan=True)


def _failed(error: Exception, code: int) -> int:
    print((str(error).strip().splitlines() or [type(error).__name__])[0], file=sys.stderr)
    return code


if __name__ == "__main__":
    line, _, rest = sys.stdin.buffer.read().partition(b"\n")
    sys.exit(main(json.loads(line), rest))
