"""The grids that kernels are timed on, and what their operations come to."""

import math
import statistics

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from fa2verify.benchmarks.grid import GRIDS, HIDDEN, LENGTHS, TOKENS
from fa2verify.benchmarks.operations import operations
from fa2verify.benchmarks.race import random_tensors
from fa2verify.benchmarks.standard import StandardAttention
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.verify.trial.attempt import Bench, attempt

CPU = torch.device("cpu")


def test_a_name_says_the_grid_and_is_unique() -> None:
    cells = [cell for grid in GRIDS.values() for cell in grid()]
    assert all(cell.name.startswith(f"{cell.grid}-") for cell in cells)
    assert len({cell.name for cell in cells}) == len(cells)
    assert {cell.grid for cell in cells} == set(GRIDS)


def test_flash_attentions_grid_keeps_hidden_size_and_tokens() -> None:
    problems = [cell.problem for cell in GRIDS["flash"]()]
    assert {problem.heads_q * problem.head_dim for problem in problems} == {HIDDEN}
    assert {problem.batch * problem.seqlens_q[0] for problem in problems} == {TOKENS}
    wanted = {(d, c, s) for d in (64, 128, 256) for c in (False, True) for s in (512, 1024, 2048, 4096, 8192, 16384)}
    assert {(p.head_dim, p.causal is not None, p.seqlens_q[0]) for p in problems} == wanted


def test_the_triton_report_has_its_six_lengths() -> None:
    assert [cell.problem.seqlens_q[0] for cell in GRIDS["triton"]()] == [1024, 2048, 4096, 8192, 16384, 32768]


@pytest.mark.parametrize("name", LENGTHS)
def test_drawn_lengths_fill_the_batch_and_follow_the_distribution(name: str) -> None:
    distribution = LENGTHS[name]
    lengths = distribution.draw(2**22)
    assert sum(lengths) == 2**22
    assert min(lengths) >= 1
    assert max(lengths) <= distribution.longest
    # The median of n logarithms of spread sigma strays by sigma * sqrt(pi / 2n); six of that, chance 1e-9.
    allowed = 6 * distribution.sigma * math.sqrt(math.pi / (2 * len(lengths)))
    assert abs(math.log(statistics.median(lengths) / distribution.median)) < allowed
    assert lengths == distribution.draw(2**22)


def test_operations_of_a_forward_are_what_torch_counts() -> None:
    problem = Problem(dtype="bfloat16", lengths=Dense(batch=2, seqlen_q=24, seqlen_k=24), heads_q=3, heads_kv=3)
    tensors = random_tensors(problem, CPU)
    forward = StandardAttention().forward_of(problem, tensors)
    with FlopCounterMode(display=False) as counter:
        forward(tensors.q, tensors.k, tensors.v)
    assert operations(problem, "forward") == counter.get_total_flops()
    assert operations(problem, "backward") == 2.5 * counter.get_total_flops()
    assert operations(problem, "both") == 3.5 * counter.get_total_flops()


def test_a_causal_mask_halves_them_and_a_window_has_no_convention() -> None:
    lengths = Dense(seqlen_q=8, seqlen_k=8)
    causal = operations(Problem(lengths=lengths, causal="top_left"), "forward")
    assert causal == operations(Problem(lengths=lengths), "forward") / 2
    with pytest.raises(ValueError, match="no published convention counts a window's operations"):
        operations(Problem(lengths=lengths, window=(3, 0)), "forward")


@pytest.mark.parametrize("causal", [None, "bottom_right"])
@pytest.mark.parametrize("heads_kv", [1, 4])
def test_standard_attention_is_right(causal: str | None, heads_kv: int) -> None:
    problem = Problem(
        dtype="bfloat16",
        lengths=Dense(batch=2, seqlen_q=33, seqlen_k=33),
        heads_q=4,
        heads_kv=heads_kv,
        head_dim=16,
        causal=causal,  # type: ignore[arg-type]
        direction="forward_backward",
    )
    record = attempt(StandardAttention(), problem, Bench(CPU))
    assert record.verdict == "passed", record.message
