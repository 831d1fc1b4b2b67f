"""The process that compute-sanitizer watches: one kernel on one problem, and nothing else on the GPU.

    python -m fa2verify.verify.trial.sanitized KERNEL PROBLEM-JSON DEVICE FILE [SPEC...]

writes to FILE what the call raised, or nothing. It is the other half of `fa2verify.verify.trial.sanitizer`, no command
for people.
"""

import sys
from pathlib import Path

import torch

from fa2verify.kernels.problem import Problem
from fa2verify.kernels.registry import select
from fa2verify.kernels.tensors import make_tensors


def main(name: str, problem: str, device: str, said: str, *specs: str) -> None:
    """Call the kernel once and wait for it."""
    kernel = next(registered.kernel for registered in select(specs) if registered.kernel.name == name)
    drawn = Problem.from_json(problem)
    tensors = make_tensors(drawn, device)
    words = ""
    try:
        kernel(drawn, tensors)
        if tensors.q.is_cuda:
            torch.cuda.synchronize()
    except Exception as error:  # noqa: BLE001 - foreign code: whatever it raises is its verdict
        words = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    Path(said).write_text(words)


if __name__ == "__main__":
    main(*sys.argv[1:])
