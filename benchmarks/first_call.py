"""One kernel's first and second call in a fresh process, and the first calls of other variants after them.

    python -m fa2verify.benchmarks.first_call KERNEL PROBLEM DEVICE

Prints one line of JSON: both times and a list of the others', in milliseconds. torch and the device are up before the
clock starts, so what the first call has over the second is loading the compiler and the kernel and compiling it. The
others find the compiler loaded: theirs is the price of a variant.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import get_args

from fa2verify.kernels.problem import DType, Problem
from fa2verify.reports.benchmark_record import Cache, FirstCall

# Where compilers keep what they made: ours, Triton's, Inductor's, the driver's. An empty folder each is a cold start.
CACHES = ("FA2VERIFY_CACHE", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH", "XDG_CACHE_HOME")


def first_calls(kernel: str, problem: Problem, device: str, timeout: float) -> tuple[FirstCall, ...]:
    """Two processes one after the other, with caches that begin empty: a cold start and one from disk.

    timeout  seconds that each may take
    """
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: str(Path(folder) / name.lower()) for name in CACHES}
        for path in caches.values():
            Path(path).mkdir()
        command = [sys.executable, "-m", "fa2verify.benchmarks.first_call", kernel, problem.to_json(), device]

        def run() -> subprocess.CompletedProcess[str]:
            environment = {**os.environ, **caches}
            return subprocess.run(
                command, env=environment, capture_output=True, text=True, timeout=timeout, check=False
            )

        return (_line(kernel, problem, "cold", run), _line(kernel, problem, "disk", run))


def _line(
    kernel: str, problem: Problem, cache: Cache, run: Callable[[], subprocess.CompletedProcess[str]]
) -> FirstCall:
    first_ms = second_ms = 0.0
    others_ms: list[float] = []
    message = ""
    try:
        done = run()
    except subprocess.TimeoutExpired as error:
        message = f"no answer within {error.timeout:.0f} s"
    else:
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            message = last[0]
        else:
            first_ms, second_ms, others_ms = json.loads(done.stdout.splitlines()[-1])
    return FirstCall(
        kernel=kernel,
        cache=cache,
        direction="both" if problem.backward else "forward",
        outcome="failed" if message else "measured",
        message=message,
        first_ms=first_ms,
        second_ms=second_ms,
        others_ms=tuple(others_ms),
    )


def others(problem: Problem) -> Iterator[Problem]:
    """The problem in the other dtypes and head dimensions: each has a variant of its own."""
    for dtype, head_dim in product(get_args(DType), (64, 128, 256)):
        if (dtype, head_dim) != (problem.dtype, problem.head_dim):
            yield replace(problem, dtype=dtype, head_dim=head_dim)


def main(arguments: list[str]) -> None:
    """Time the calls and print their times."""
    import torch

    from fa2verify.benchmarks.race import random_tensors
    from fa2verify.kernels.registry import select

    name, text, device_name = arguments
    device, problem = torch.device(device_name), Problem.from_json(text)
    (registered,) = select([name])

    def timed(problem: Problem, times: int = 1) -> list[float]:
        tensors = random_tensors(problem, device)
        synchronize()
        found = []
        for _ in range(times):
            begin = time.perf_counter()
            registered.kernel(problem, tensors)
            synchronize()
            found.append((time.perf_counter() - begin) * 1e3)
        return found

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    first, second = timed(problem, 2)
    further = [other for other in others(problem) if not registered.kernel.unsupported(other)]
    print(json.dumps([first, second, [ms for other in further for ms in timed(other)]]))


if __name__ == "__main__":
    main(sys.argv[1:])
