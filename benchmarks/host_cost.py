"""Host time of a call: how long Python and torch take until the work is queued.

A small problem, so that the device always has finished before the host: what is timed is the host alone, and the queue
never fills. Kernels run beside the parts that a call is made of: an operator defined through `torch.library.Library`,
the same through `torch.library.custom_op`, and a launch by Triton, each around next to nothing.
"""

import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fa2verify.benchmarks.race import entries, random_tensors
from fa2verify.benchmarks.timing import Call, Elapsed, Failure, attempt, interleave
from fa2verify.kernels.autograd import AutogradKernel
from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.reports.benchmark_record import Direction, HostCost, Mode

PROBLEM = Problem(
    dtype="bfloat16", lengths=Dense(batch=1, seqlen_q=16, seqlen_k=16), head_dim=64, direction="forward_backward"
)
# A requirement, not a measurement's tolerance.
MOST_OF_TORCH_FLASH = 1.5
Subject = tuple[str, Mode, Direction]


class HostClock:
    """Times a batch of calls on the host, from an idle device, without waiting for what they queue."""

    def __init__(self, calls: int, device: torch.device) -> None:
        self._calls = calls
        self._device = device

    def time(self, call: Call) -> Elapsed:
        """Milliseconds of one call, the mean over a batch."""
        self.settle()
        begin = time.perf_counter()
        for _ in range(self._calls):
            call()
        ms = (time.perf_counter() - begin) * 1e3 / self._calls
        return lambda: ms

    def settle(self) -> None:
        """Wait for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def host_costs(
    kernels: Sequence[Kernel], device: torch.device, rounds: int, calls: int, deadline: float
) -> tuple[HostCost, ...]:
    """Every kernel, eager and compiled, and the parts, in interleaved batches; a line for each.

    deadline  of time.monotonic(): what has not been compiled by then is left out
    """
    subjects: dict[Subject, Call] = {(name, "eager", "forward"): call for name, call in parts(device).items()}
    failures: dict[Subject, Failure] = {}
    tensors = random_tensors(PROBLEM, device)
    for kernel in kernels:
        if kernel.unsupported(PROBLEM):
            continue
        made = entries(kernel, PROBLEM, tensors)
        subjects |= {(kernel.name, "eager", direction): made[direction] for direction in ("forward", "both")}
    # Last: each takes as long to compile as all the rest.
    for kernel in kernels:
        if isinstance(kernel, AutogradKernel) and not kernel.unsupported(PROBLEM):
            subjects[kernel.name, "compiled", "forward"] = compiled(kernel, device)
    for subject, call in list(subjects.items()):
        if subject[1] == "compiled" and time.monotonic() > deadline:
            del subjects[subject]
        elif failed := attempt(call, device):
            failures[subject] = failed
            del subjects[subject]
    laps = interleave(subjects, rounds, device, deadline, HostClock(calls, device))
    failures |= laps.failures
    return tuple(
        HostCost(subject=name, mode=mode, direction=direction, outcome="measured", us=_us(ms), calls=calls)
        for (name, mode, direction), ms in laps.ms.items()
    ) + tuple(
        HostCost(subject=name, mode=mode, direction=direction, outcome=failure.outcome, message=failure.message)
        for (name, mode, direction), failure in failures.items()
    )


def too_much(lines: Sequence[object]) -> str:
    """By how much our CUDA kernel's forward exceeds what it may cost, in a sentence; empty if it does not."""
    us = {
        line.subject: line.median_us
        for line in lines
        if isinstance(line, HostCost) and (line.mode, line.direction, line.outcome) == ("eager", "forward", "measured")
    }
    ours, torchs = us.get("fa2verify-cuda"), us.get("torch-flash")
    if ours is None or torchs is None or ours <= MOST_OF_TORCH_FLASH * torchs:
        return ""
    return (
        f"a forward of fa2verify-cuda takes the host {ours:.1f} us, one of torch-flash {torchs:.1f} us; "
        f"at most {MOST_OF_TORCH_FLASH} times that is allowed"
    )


def _us(ms: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(value * 1e3 for value in ms)


def compiled(kernel: AutogradKernel, device: torch.device) -> Call:
    """The forward under torch.compile as one graph; compiled by its first call, which fails where it breaks."""
    tensors = random_tensors(PROBLEM, device)
    forward = torch.compile(kernel.forward_of(PROBLEM, tensors), fullgraph=True)

    def call() -> object:
        with torch.no_grad():
            return forward(tensors.q, tensors.k, tensors.v)

    return call


def parts(device: torch.device) -> dict[str, Call]:
    """What calls are made of, by name."""
    tensor = torch.zeros(16, device=device)
    with_library, with_custom_op = _operators()
    made: dict[str, Call] = {
        "torch add_": lambda: tensor.add_(1),
        "library operator": lambda: with_library(tensor),
        "custom_op": lambda: with_custom_op(tensor),
    }
    if device.type == "cuda":
        made["triton launch"] = _triton_launch(tensor)
    return made


_library: list[torch.library.Library] = []  # an operator lives as long as its library


def _operators() -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """An operator around `add`, in both of torch's ways; they are global to torch, so defined once."""
    namespace = "fa2verify_host_cost"
    if not _library:
        library = torch.library.Library(namespace, "DEF")  # type: ignore[no-untyped-call]
        library.define("by_library(Tensor x) -> Tensor")  # type: ignore[no-untyped-call]
        for key in ("CPU", "CUDA"):
            library.impl("by_library", _increment, key)  # type: ignore[no-untyped-call]
        _library.append(library)
        torch.library.custom_op(f"{namespace}::by_custom_op", _increment, mutates_args=())
    operators = getattr(torch.ops, namespace)
    return operators.by_library.default, operators.by_custom_op.default


def _increment(x: Tensor) -> Tensor:
    return x + 1


def _triton_launch(tensor: Tensor) -> Call:
    from fa2verify.benchmarks.empty_kernel import empty_kernel

    return lambda: empty_kernel[(1,)](tensor, 16)
