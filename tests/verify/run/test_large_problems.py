"""Each large problem passes the limit that it is named after."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.reference import reference
from fa2verify.kernels.tensors import make_tensors
from fa2verify.verify.run import large_problems as module
from fa2verify.verify.run.large_problems import LARGE_PROBLEMS, bytes_needed, large_problems, not_tried

LIMIT = 2**31
GRID = 65_535


def elements(problem: Problem, side: str) -> int:
    lengths, heads = {"q": (problem.seqlens_q, problem.heads_q), "k": (problem.seqlens_k, problem.heads_kv)}[side]
    return sum(lengths) * heads * problem.head_dim


def reach(problem: Problem, side: str) -> int:
    """Elements from the first row of q or of k to the end of its last, gaps included."""
    packed = {"qkv_packed": (3, 3), "kv_packed": (1, 2)}.get(problem.layout, (1, 1))
    return elements(problem, side) * packed["qk".index(side)]


def padded(problem: Problem) -> int:
    """Elements of an accumulator of dQ that has rows for whole tiles of 128 in each sequence."""
    return sum(-(-length // 128) * 128 for length in problem.seqlens_q) * problem.heads_q * problem.head_dim


def blocks(problem: Problem) -> int:
    return max(-(-length // 128) for length in problem.seqlens_q)


PASSES: dict[str, Callable[[Problem], bool]] = {
    "elements of q, out and dq; blocks of queries": lambda p: elements(p, "q") > LIMIT and blocks(p) > GRID,
    "elements of k, v, dk and dv": lambda p: elements(p, "k") > LIMIT,
    "batch * heads": lambda p: p.batch * p.heads_q > GRID and padded(p) > LIMIT and not p.is_varlen,
    "batch * heads, packed": lambda p: p.batch * p.heads_q > GRID and padded(p) > LIMIT and p.is_varlen,
    "elements of q, out and dq, packed": lambda p: elements(p, "q") > LIMIT and max(p.seqlens_q) > 2 * GRID,
    "offsets of k and v by their stride, packed": lambda p: (
        reach(p, "k") > LIMIT and p.is_varlen and p.batch * p.heads_q > GRID
    ),
    "offsets of q, k and v by their stride": lambda p: reach(p, "q") > LIMIT and reach(p, "k") > LIMIT,
    "keys": lambda p: min(p.seqlens_k) > 2 * GRID,
    "batch": lambda p: p.batch > GRID,
    "rows of one sequence, in a window": lambda p: reach(p, "k") > LIMIT and p.batch == 1,
}


def test_every_problem_is_here() -> None:
    assert list(PASSES) == list(LARGE_PROBLEMS)


@pytest.mark.parametrize("name", PASSES)
def test_it_passes_its_limit(name: str) -> None:
    assert PASSES[name](LARGE_PROBLEMS[name])


@pytest.mark.parametrize("problem", LARGE_PROBLEMS.values(), ids=LARGE_PROBLEMS)
def test_it_takes_no_more_than_an_80_gb_device_has_and_little_work(problem: Problem) -> None:
    assert bytes_needed(problem) < 50 * 2**30
    left = problem.window[0]
    seen = (
        problem.heads_q
        * problem.head_dim
        * sum(
            # A kernel works on whole tiles of 128 or less.
            (-(-q // 128) * 128) * (-(-(k if left < 0 else min(k, left + 256)) // 128) * 128)
            for q, k in zip(problem.seqlens_q, problem.seqlens_k, strict=True)
        )
    )
    # Two matrix products forward, five backward, two operations each: at a tenth of an H200's 990 TFLOP/s.
    assert 14 * seen / 99e12 < 1.0, "seconds"


@pytest.mark.parametrize("direction", ["forward", "forward_backward"])
def test_bytes_needed_counts_the_tensors(direction: str) -> None:
    problem = Problem(
        values="sampled",
        lengths=Varlen(seqlens_q=(30, 50), seqlens_k=(20, 10)),
        heads_q=4,
        heads_kv=2,
        head_dim=16,
        direction=direction,  # type: ignore[arg-type]
    )
    tensors = make_tensors(problem)
    exact = reference(problem, tensors)
    inputs = sum(each.nbytes for each in (tensors.q, tensors.k, tensors.v, tensors.dout))
    assert exact.lse is not None
    outputs = exact.out.numel() * 2 + exact.lse.numel() * 4
    if problem.backward:
        gradients = [each for each in (exact.dq, exact.dk, exact.dv) if each is not None]
        outputs += sum(each.numel() * (2 + 4) for each in gradients) + 2 * exact.lse.numel() * 4
    assert bytes_needed(problem) == 2 * inputs + outputs + module._OF_SAMPLE


def test_a_kernel_gets_what_it_takes(made: Callable[..., Kernel]) -> None:
    kernel = made(lambda problem, tensors: None)

    def forward_of_bfloat16(problem: Problem) -> tuple[str, ...]:
        return ("No.",) if problem.backward or problem.dtype == "float16" or problem.is_varlen else ()

    taken = large_problems(kernel, forward_of_bfloat16)
    assert len(taken) == len(LARGE_PROBLEMS)
    for problem, asked in zip(taken, LARGE_PROBLEMS.values(), strict=True):
        other = asked if asked.is_varlen else replace(asked, dtype="bfloat16", direction="forward")
        assert problem == other, "the nearest form, or itself, so that the kernel's reasons are recorded"


def test_a_kernel_that_compiles_for_each_shape_gets_its_share(made: Callable[..., Kernel]) -> None:
    kernel = made(lambda problem, tensors: None, budget=0.2)
    taken = large_problems(kernel, lambda problem: ())
    assert taken == tuple(LARGE_PROBLEMS.values())[: math.ceil(0.2 * len(LARGE_PROBLEMS))]


@pytest.mark.parametrize(
    ("device", "profile", "sanitized", "said"),
    [
        ("cpu", "default", False, "GPU only"),
        ("cuda", "quick", False, "profile quick"),
        ("cuda", "default", True, "sanitizer"),
        ("cuda", "default", False, ""),
        ("cuda", "deep", False, ""),
    ],
)
def test_why_a_run_leaves_them_out(device: str, profile: str, sanitized: bool, said: str) -> None:
    reason = not_tried(device, profile, sanitized=sanitized)
    assert said in reason
    assert bool(reason) == bool(said)


def test_sampled_problems_are_json_as_any_other() -> None:
    problem = LARGE_PROBLEMS["keys"]
    assert Problem.from_json(problem.to_json()) == problem
    small = replace(problem, lengths=Dense(seqlen_q=2, seqlen_k=3))
    assert torch.equal(make_tensors(small).q, make_tensors(Problem.from_json(small.to_json())).q)
