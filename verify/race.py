"""Kernels side by side on one GPU: the same problems in one process, rounds interleaved, device time by events.

    python -m fa2verify.verify.race --kernel fa2verify-triton --kernel torch-flash --json race.json

Rates drift by 5 to 10 % with power and temperature, so two runs are not comparable and neither are two kernels timed
one after the other: every round runs each kernel once, and what counts is the ratio of medians. Before each call the L2
cache is overwritten, which also keeps the device busy while the host prepares the call.
"""

import json
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import click
import torch
import torch._functorch.config
from torch import Tensor

from fa2verify.kernels.autograd import AutogradKernel, Forward
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.registry import KernelSpecError, select
from fa2verify.kernels.tensors import Tensors
from fa2verify.verify.environment import describe

HIDDEN = 2048
TOKENS = 16384
_FLUSH_BYTES = 256 * 2**20  # several times the largest L2


@dataclass(frozen=True, slots=True)
class Lap:
    """One kernel on one problem in one direction.

    ms       device time of every round
    tflops   operations over the median time: 4 B H Sq Sk D (half if causal), backward 2.5 times that
    """

    kernel: str
    direction: str
    head_dim: int
    seqlen: int
    causal: bool
    ms: tuple[float, ...]
    tflops: float


def grid(head_dims: Sequence[int], seqlens: Sequence[int]) -> list[Problem]:
    """FlashAttention's benchmark: hidden size 2048, 16k tokens, causal and full, bf16."""
    return [
        Problem(
            dtype="bfloat16",
            lengths=Dense(batch=TOKENS // seqlen, seqlen_q=seqlen, seqlen_k=seqlen),
            heads_q=HIDDEN // head_dim,
            heads_kv=HIDDEN // head_dim,
            head_dim=head_dim,
            causal="bottom_right" if causal else None,
            direction="forward_backward",
        )
        for head_dim, causal, seqlen in product(head_dims, (False, True), seqlens)
    ]


def race(problem: Problem, kernels: Sequence[AutogradKernel], rounds: int) -> list[Lap]:
    """Time every kernel on `problem`, forward and backward, in interleaved rounds after two that are thrown away."""
    shape = (problem.batch, problem.seqlens_q[0], problem.heads_q, problem.head_dim)
    q, k, v, dout = (torch.randn(shape, dtype=torch.bfloat16, device="cuda") for _ in range(4))
    inputs = [tensor.requires_grad_() for tensor in (q, k, v)]
    tensors = Tensors(q, k, v, dout, None, None, shape[1], shape[1], None)
    forwards = {kernel.name: kernel.forward_of(problem, tensors) for kernel in kernels}
    graphs = {name: forward(*inputs)[0] for name, forward in forwards.items()}
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for name, forward in forwards.items():
        calls[name, "forward"] = _without_graph(forward, q, k, v)
        calls[name, "backward"] = _backward(graphs[name], inputs, dout)
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")
    times: dict[tuple[str, str], list[float]] = {key: [] for key in calls}
    for number in range(rounds + 2):
        marks = []
        for key, call in calls.items():
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            flush.zero_()
            begin.record()
            call()
            end.record()
            marks.append((key, begin, end))
        torch.cuda.synchronize()
        if number >= 2:
            for key, begin, end in marks:
                times[key].append(begin.elapsed_time(end))
    return [_lap(problem, name, direction, times[name, direction]) for name, direction in calls]


def _without_graph(forward: Forward, q: Tensor, k: Tensor, v: Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return forward(q, k, v)

    return call


def _backward(out: Tensor, inputs: list[Tensor], dout: Tensor) -> Callable[[], object]:
    return lambda: torch.autograd.grad(out, inputs, dout, retain_graph=True)


def _lap(problem: Problem, kernel: str, direction: str, ms: list[float]) -> Lap:
    causal = problem.causal is not None
    operations = 4 * problem.scores * problem.head_dim * (0.5 if causal else 1) * (1 if direction == "forward" else 2.5)
    rate = operations / statistics.median(ms) / 1e9
    return Lap(kernel, direction, problem.head_dim, problem.seqlens_q[0], causal, tuple(ms), rate)


def table(laps: Sequence[Lap], against: str) -> str:
    """Markdown: TFLOP/s of every kernel, and in brackets the ratio to `against`."""
    kernels = list(dict.fromkeys(lap.kernel for lap in laps))
    cells = {(lap.direction, lap.head_dim, lap.causal, lap.seqlen, lap.kernel): lap.tflops for lap in laps}
    lines = [f"| direction | head_dim | mask | seqlen | {' | '.join(kernels)} |", "| --- " * (4 + len(kernels)) + "|"]
    for row in dict.fromkeys(key[:4] for key in cells):
        base = cells.get((*row, against))
        shown = [_cell(cells.get((*row, kernel)), base) for kernel in kernels]
        direction, head_dim, causal, seqlen = row
        lines.append(
            f"| {direction} | {head_dim} | {'causal' if causal else 'full'} | {seqlen} | {' | '.join(shown)} |"
        )
    return "\n".join(lines)


def _cell(rate: float | None, base: float | None) -> str:
    if rate is None:
        return "-"
    return f"{rate:.0f} ({rate / base:.2f})" if base else f"{rate:.0f}"


@click.command()
@click.option("--kernel", "specs", multiple=True, required=True, help="A kernel's name; repeatable.")
@click.option("--against", default="torch-flash", show_default=True, help="The kernel that ratios are to.")
@click.option("--head-dim", "head_dims", type=int, multiple=True, default=(64, 128, 256), show_default=True)
@click.option("--seqlen", "seqlens", type=int, multiple=True, default=(512, 1024, 2048, 4096, 8192, 16384))
@click.option("--rounds", default=12, show_default=True, help="Rounds that count.")
@click.option("--json", "output", type=click.Path(dir_okay=False, path_type=Path), help="Where the laps go.")
def main(
    specs: tuple[str, ...],
    against: str,
    head_dims: tuple[int, ...],
    seqlens: tuple[int, ...],
    rounds: int,
    output: Path | None,
) -> None:
    """Time kernels side by side on FlashAttention's grid and print a table."""
    if not torch.cuda.is_available():
        raise click.UsageError("there is no GPU to race on")
    try:
        selected = [registered.kernel for registered in select(specs)]
    except KernelSpecError as error:
        raise click.UsageError(str(error)) from error
    kernels = [kernel for kernel in selected if isinstance(kernel, AutogradKernel)]
    if whole := [kernel.name for kernel in selected if not isinstance(kernel, AutogradKernel)]:
        raise click.UsageError(f"forward and backward of {', '.join(whole)} cannot be called apart")
    # Backward runs again and again on one graph; compiled peers would give its buffers away the first time.
    torch._functorch.config.donated_buffer = False
    laps: list[Lap] = []
    for problem in grid(head_dims, seqlens):
        takers = [kernel for kernel in kernels if not kernel.unsupported(problem)]
        laps += race(problem, takers, rounds)
        torch.cuda.empty_cache()
        if output is not None:
            record = {"environment": describe("cuda"), "laps": [asdict(lap) for lap in laps]}
            output.write_text(json.dumps(record, indent=0))
        print(
            table(laps[-2 * len(takers) :], against).partition("\n")[2].partition("\n")[2], file=sys.stderr, flush=True
        )
    click.echo(table(laps, against))


if __name__ == "__main__":
    main()
