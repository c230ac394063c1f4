"""A first inference in a process of its own: `python trial.py MODEL SHAPE MEMORY SECONDS`.

An ONNX file can ask for any amount of memory and time, in a loop or a constant of any shape, while it is loaded or when
it runs. This process may use MEMORY bytes of address space and SECONDS of each of its threads; it grades one black
image on the CPU. Exit code 0: it ran. It imports nothing of drgate, so that it starts in a moment.
"""

from __future__ import annotations

import contextlib
import sys

THREADS = 4
"""Each reserves address space; on a machine with many cores, one thread a core would need more than an honest model."""


def main(path: str, shape: list[int], memory: int, seconds: int) -> int:
    try:
        import resource
    except ImportError:  # not on Windows: there the caller's clock is the only limit
        pass
    else:
        for kind, limit in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds * THREADS)):
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
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        inputs = session.get_inputs()
        # The caller refuses a model with other inputs.
        if len(inputs) == 1 and inputs[0].type == "tensor(float)" and list(inputs[0].shape[1:]) == shape:
            session.run(None, {inputs[0].name: np.zeros((1, *shape), np.float32)})
    except Exception as error:  # onnxruntime's exceptions share no base class
        print((str(error).strip().splitlines() or [type(error).__name__])[0], file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], [int(length) for length in sys.argv[2].split(",")], *map(int, sys.argv[3:])))
