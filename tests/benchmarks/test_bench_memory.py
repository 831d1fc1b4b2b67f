"""What a call's peak memory is, and whether it follows the linear law."""

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401
from fa2verify.benchmarks.bench_memory import measure, problem_of, superlinear
from fa2verify.benchmarks.memory_gauge import dispatch_peak
from fa2verify.benchmarks.standard import StandardAttention

# isort: on
from fa2verify.kernels.function import FunctionKernel
from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.triton.kernel import TritonKernel
from fa2verify.reports.benchmark_record import Memory

CPU = torch.device("cpu")


def test_the_peak_is_what_lives_at_once() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.zeros(256)  # 1 KiB, freed before the next

    def together() -> list[Tensor]:
        return [torch.zeros(256) for _ in range(3)]

    assert dispatch_peak(one_after_the_other) == 1024
    assert dispatch_peak(together) == 3 * 1024


def test_views_and_changes_in_place_take_nothing() -> None:
    given = torch.zeros(256)
    assert dispatch_peak(lambda: given.view(16, 16).t().add_(1)) == 0


def test_gradients_count() -> None:
    given = torch.zeros(256, requires_grad=True)
    out = given * 2
    assert dispatch_peak(lambda: torch.autograd.grad(out, given, torch.ones(256))) >= 2 * 1024


def memory(seqlen: int, taken: int, outcome: str = "measured") -> Memory:
    return Memory(
        cell="c",
        kernel="k",
        direction="both",
        problem={},
        seqlen=seqlen,
        outcome=outcome,  # type: ignore[arg-type]
        bytes=taken,
    )


@pytest.mark.parametrize(
    ("taken", "broken"),
    [
        ({64: 100, 128: 200, 256: 400}, ""),
        ({64: 1100, 128: 1200}, ""),
        ({64: 100, 128: 201}, "k takes 100 bytes at seqlen 64 and 201 at 128; memory linear in the length"),
        ({64: 100, 128: 200, 256: 900}, "k takes 200 bytes at seqlen 128 and 900 at 256"),
    ],
)
def test_the_linear_law(taken: dict[int, int], broken: str) -> None:
    said = superlinear([memory(seqlen, size) for seqlen, size in taken.items()])
    assert said.startswith(broken)
    assert bool(said) == bool(broken)


def test_a_length_that_did_not_fit_says_nothing_about_the_law() -> None:
    assert not superlinear([memory(64, 100), memory(128, 0, "out_of_memory"), memory(256, 500)])


@pytest.mark.parametrize(
    ("make", "keeps_it", "lengths"), [(TritonKernel, True, (32, 64)), (StandardAttention, False, (32, 64, 128))]
)
@pytest.mark.parametrize("direction", ["forward", "both"])
def test_our_kernel_keeps_it_and_standard_attention_does_not(
    make: Callable[[], Kernel], keeps_it: bool, lengths: Sequence[int], direction: str
) -> None:
    lines = measure(make(), direction, [problem_of(seqlen, 1) for seqlen in lengths], CPU)
    assert [line.outcome for line in lines] == ["measured"] * len(lengths)
    assert bool(superlinear(lines)) != keeps_it


def test_our_forward_takes_out_and_lse_alone() -> None:
    (line,) = measure(TritonKernel(), "forward", [problem_of(48, 2)], CPU)
    out, lse = 48 * 2 * 64 * 2, 48 * 2 * 4
    assert line.bytes == out + lse
    assert line.inputs == 3 * out


def test_running_out_of_memory_is_recorded_and_the_next_length_tried() -> None:
    def short(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
        if q.shape[1] == 64:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return q + k + v

    lines = measure(FunctionKernel(short, "short"), "both", [problem_of(s, 1) for s in (32, 64, 128)], CPU, lambda _: 7)
    assert [(line.outcome, line.bytes) for line in lines] == [("measured", 7), ("out_of_memory", 0), ("measured", 7)]
