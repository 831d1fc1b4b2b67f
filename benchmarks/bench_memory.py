"""Peak memory of forward and of forward and backward by sequence length, beside standard attention's.

    tox run -e bench -- benchmarks/bench_memory.py

Batch 1, hidden size 2048, head_dim 64, bf16. What flash attention promises is memory linear in the sequence length: a
constant and something proportional, where every allocation is rounded up. Of such a law twice the length never takes
more than twice the memory; of standard attention's scores it takes four times. Ours fail if they break it.
"""

from collections.abc import Sequence

import pytest
import torch

from fa2verify.benchmarks.memory_gauge import Gauge, gauge_for
from fa2verify.benchmarks.race import entries, random_tensors
from fa2verify.benchmarks.session import BenchmarkSession, measured_or_skipped, session_of
from fa2verify.benchmarks.timing import attempt
from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.reports.benchmark_record import Memory

LENGTHS = {"cuda": tuple(512 << shift for shift in range(7)), "cpu": (32, 64, 128)}
_HEADS = {"cuda": 32, "cpu": 1}
_OURS = "fa2verify-"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each kernel and direction."""
    kernels = session_of(metafunc.config).kernels
    metafunc.parametrize(
        ("kernel", "direction"),
        [
            pytest.param(
                kernel,
                direction,
                id=f"{direction}-{kernel.name}",
                marks=pytest.mark.cell(("memory", kernel.name, direction)),
            )
            for kernel in kernels
            for direction in ("forward", "both")
            if not kernel.unsupported(problem_of(64, 1))
        ],
    )


def test_memory(kernel: Kernel, direction: str, bench: BenchmarkSession) -> None:
    """Peak memory of one kernel in one direction, over all lengths."""
    lengths, heads = LENGTHS[bench.device.type], _HEADS[bench.device.type]
    made = measured_or_skipped(
        bench,
        ("memory", kernel.name, direction),
        f"memory {kernel.name} {direction}",
        lambda _: measure(kernel, direction, [problem_of(seqlen, heads) for seqlen in lengths], bench.device),
    )
    memories = [line for line in made if isinstance(line, Memory)]
    if failed := [line for line in memories if line.outcome == "failed"]:
        pytest.fail(f"{kernel.name} at seqlen {failed[0].seqlen}: {failed[0].message}")
    if kernel.name.startswith(_OURS) and (broken := superlinear(memories)):
        pytest.fail(broken)


def problem_of(seqlen: int, heads: int) -> Problem:
    """One sequence."""
    lengths = Dense(batch=1, seqlen_q=seqlen, seqlen_k=seqlen)
    return Problem(
        dtype="bfloat16",
        lengths=lengths,
        heads_q=heads,
        heads_kv=heads,
        head_dim=64,
        causal="bottom_right",
        direction="forward_backward",
    )


def measure(
    kernel: Kernel, direction: str, problems: Sequence[Problem], device: torch.device, gauge: Gauge | None = None
) -> tuple[Memory, ...]:
    """A line for each problem; the second call counts, as the first may compile and keep workspace."""
    gauge = gauge or gauge_for(device)
    lines = []
    for problem in problems:
        tensors = random_tensors(problem, device)
        call = entries(kernel, problem, tensors)["forward" if direction == "forward" else "both"]
        failure = attempt(call, device)
        held = (tensors.q, tensors.k, tensors.v, *((tensors.dout,) if direction == "both" else ()))
        lines.append(
            Memory(
                cell=f"memory-s{problem.seqlens_q[0]}",
                kernel=kernel.name,
                direction="forward" if direction == "forward" else "both",
                problem=problem.to_dict(),
                seqlen=problem.seqlens_q[0],
                outcome=failure.outcome if failure else "measured",
                message=failure.message if failure else "",
                bytes=0 if failure else gauge(call),
                inputs=sum(tensor.nbytes for tensor in held),
            )
        )
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return tuple(lines)


def superlinear(memories: Sequence[Memory]) -> str:
    """The first doubling of the length that more than doubles the memory, in a sentence; empty if none does."""
    by_length = {line.seqlen: line.bytes for line in memories if line.outcome == "measured"}
    for seqlen, before in sorted(by_length.items()):
        after = by_length.get(2 * seqlen)
        if after is not None and after > 2 * before:
            return (
                f"{memories[0].kernel} takes {before} bytes at seqlen {seqlen} and {after} at {2 * seqlen}; "
                f"memory linear in the length would be at most {2 * before}"
            )
    return ""
