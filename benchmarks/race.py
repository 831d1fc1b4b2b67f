"""Kernels side by side on one problem: forward, backward and both of every kernel in the same interleaved rounds.

In the same rounds run a large matrix product and a large copy. They are the ceilings that attention could reach on this
device at this moment; a data sheet's peak is reached by nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from fa2verify.benchmarks.grid import Cell
from fa2verify.benchmarks.operations import operations
from fa2verify.benchmarks.timing import Call, Clock, Failure, attempt, interleave
from fa2verify.kernels.autograd import AutogradKernel, Forward
from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import TORCH_DTYPE, Tensors
from fa2verify.reports.benchmark_record import Ceiling, Direction, Timing

DIRECTIONS: tuple[Direction, ...] = ("forward", "backward", "both")
_CEILING = "ceiling"
# Of nine times the interval that holds the median leaves out the highest and the lowest; of fewer, one of both decides.
# The ratios that moved by more than 3 % from run to run all had three rounds in one of them (docs/results).
_LEAST = 9
_MOST = 4  # times as many rounds, where medians are not sure
Key = tuple[str, str]


def race(
    cell: Cell,
    kernels: Sequence[Kernel],
    rounds: int,
    device: torch.device,
    deadline: float,
    clock: Clock | None = None,
) -> tuple[Timing | Ceiling, ...]:
    """Time every kernel on the cell's problem; a line for each kernel and direction, then the ceilings.

    What a kernel cannot do, and running out of memory, is the outcome on its lines. Raises ContextLost.
    """
    problem = cell.problem
    tensors = random_tensors(problem, device)
    failures: dict[Key, Failure] = {}
    calls: dict[Key, Call] = {}
    for kernel in kernels:
        if reasons := kernel.unsupported(problem):
            failures |= {
                (kernel.name, direction): Failure("unsupported", " ".join(reasons)) for direction in DIRECTIONS
            }
            continue
        made = entries(kernel, problem, tensors)
        for direction in DIRECTIONS:
            key = (kernel.name, direction)
            if direction not in made:
                failures[key] = Failure("unsupported", "Forward and backward of this kernel cannot be called apart.")
            elif failed := attempt(made[direction], device):
                failures[key] = failed
                if device.type == "cuda":
                    torch.cuda.empty_cache()
            else:
                calls[key] = made[direction]
    amounts: dict[Literal["matmul", "copy"], float] = {}
    for name, call, amount in _ceilings(problem, device):
        calls[_CEILING, name], amounts[name] = call, amount
    # A CPU's times are no measurement, and never sure.
    most = _MOST * rounds if device.type == "cuda" else rounds
    laps = interleave(calls, rounds, device, deadline, clock, _LEAST, most)
    failures |= laps.failures
    timings = [
        _timing(cell, kernel.name, direction, laps.ms.get((kernel.name, direction)), failures)
        for kernel in kernels
        for direction in DIRECTIONS
    ]
    ceilings = [
        Ceiling(cell=cell.name, name=name, ms=laps.ms[_CEILING, name], amount=amount)
        for name, amount in amounts.items()
        if (_CEILING, name) in laps.ms
    ]
    return (*timings, *ceilings)


def random_tensors(problem: Problem, device: torch.device) -> Tensors:
    """Standard normal tensors made on the device: `make_tensors` draws on the CPU, too slow for 16k tokens."""
    heads = {"q": problem.heads_q, "k": problem.heads_kv}
    lengths = {"q": problem.seqlens_q, "k": problem.seqlens_k}
    generator = torch.Generator(device).manual_seed(0)

    def randn(side: str) -> Tensor:
        rows = (sum(lengths[side]),) if problem.is_varlen else (problem.batch, lengths[side][0])
        shape = (*rows, heads[side], problem.head_dim)
        return torch.randn(shape, generator=generator, device=device, dtype=TORCH_DTYPE[problem.dtype])

    def offsets(side: str) -> Tensor | None:
        if not problem.is_varlen:
            return None
        ends = torch.tensor(lengths[side]).cumsum(0)
        return torch.cat([torch.zeros(1, dtype=ends.dtype), ends]).to(device=device, dtype=torch.int32)

    return Tensors(
        q=randn("q"),
        k=randn("k"),
        v=randn("k"),
        dout=randn("q"),
        cu_seqlens_q=offsets("q"),
        cu_seqlens_k=offsets("k"),
        max_seqlen_q=max(problem.seqlens_q),
        max_seqlen_k=max(problem.seqlens_k),
        alibi_slopes=None,
    )


def entries(kernel: Kernel, problem: Problem, tensors: Tensors) -> dict[Direction, Call]:
    """What is timed of a kernel: without a backward of its own for one that is no differentiable forward."""
    alone = replace(problem, direction="forward")
    if not isinstance(kernel, AutogradKernel):
        return {"forward": lambda: kernel(alone, tensors), "both": lambda: kernel(problem, tensors)}
    inputs = [tensor.detach().requires_grad_() for tensor in (tensors.q, tensors.k, tensors.v)]
    forward = kernel.forward_of(problem, tensors)
    return {
        "forward": _without_graph(kernel.forward_of(alone, tensors), tensors),
        "backward": _backward(forward, inputs, tensors.dout),
        "both": lambda: torch.autograd.grad(forward(*inputs)[0], inputs, tensors.dout),
    }


def _without_graph(forward: Forward, tensors: Tensors) -> Call:
    def call() -> object:
        with torch.no_grad():
            return forward(tensors.q, tensors.k, tensors.v)

    return call


def _backward(forward: Forward, inputs: list[Tensor], dout: Tensor) -> Call:
    # The graph is made by the first call, the attempt, so that a lack of memory for it is that call's failure.
    kept: list[Tensor] = []

    def call() -> object:
        if not kept:
            kept.append(forward(*inputs)[0])
        return torch.autograd.grad(kept[0], inputs, dout, retain_graph=True)

    return call


def _ceilings(problem: Problem, device: torch.device) -> list[tuple[Literal["matmul", "copy"], Call, float]]:
    side, size = (8192, 2**30) if device.type == "cuda" else (64, 2**12)
    a, b, out = (torch.randn(side, side, device=device, dtype=TORCH_DTYPE[problem.dtype]) for _ in range(3))
    source, target = (torch.zeros(size, device=device, dtype=torch.uint8) for _ in range(2))
    return [
        ("matmul", lambda: torch.mm(a, b.mT, out=out), 2.0 * side**3),
        ("copy", lambda: target.copy_(source), 2.0 * size),
    ]


def _timing(
    cell: Cell, kernel: str, direction: Direction, ms: tuple[float, ...] | None, failures: dict[Key, Failure]
) -> Timing:
    failure = failures.get((kernel, direction))
    return Timing(
        grid=cell.grid,
        cell=cell.name,
        kernel=kernel,
        direction=direction,
        problem=cell.problem.to_dict(),
        outcome=failure.outcome if failure else "measured",
        message=failure.message if failure else "",
        ms=ms or (),
        operations=operations(cell.problem, direction),
    )
