"""Problems in each of which something passes a limit of an index, and as little work as that takes.

Drawn problems stay small (`fa2verify.verify.run.sizes`). Bugs past 2^31 elements have shipped all the same: the offset
of an accumulator of dQ in 32 bits (flash-attention 1500, 2260), cu_seqlens times a stride (2611); and a CUDA grid ends
at 65,535 blocks in y and z. So every kernel is also tried on these, on a GPU. They are judged on a sample
(`fa2verify.verify.judgement.sampled`).

An index of lse past 2^31 would take 2^31 rows of q, 34 GB for head_dim 8 alone, and is left out.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Dense, Problem, Varlen

# A few sequences of more than 65,536 tokens and short ones around them: with 16 heads of 128, 2^31 elements in all.
_LONG_QUERIES = (1, 3, *[131_080] * 8, 2, 1)


def _large(lengths: Dense | Varlen, heads: int, **others: object) -> Problem:
    given = {"head_dim": 128, "direction": "forward_backward", **others}
    return Problem(values="sampled", lengths=lengths, heads_q=heads, heads_kv=heads, **given)  # type: ignore[arg-type]


# What passes a limit to the problem in which it does; those that tell most come first.
LARGE_PROBLEMS = MappingProxyType(
    {
        "elements of q, out and dq; blocks of queries": _large(Dense(seqlen_q=2**23 + 77, seqlen_k=40), 2),
        "elements of k, v, dk and dv": _large(Dense(batch=2049, seqlen_q=8, seqlen_k=512), 16),
        # 1030 sequences, rounded up to 128 rows each: 2^31 elements of an accumulator too.
        "batch * heads": _large(Dense(batch=1030, seqlen_q=1, seqlen_k=3), 128),
        "batch * heads, packed": _large(Varlen(seqlens_q=(1,) * 1030, seqlens_k=(3,) * 1030), 128),
        "elements of q, out and dq, packed": _large(
            Varlen(seqlens_q=_LONG_QUERIES, seqlens_k=(40,) * len(_LONG_QUERIES)), 16
        ),
        "offsets of k and v by their stride, packed": _large(
            Varlen(seqlens_q=(2,) * 1030, seqlens_k=(128,) * 1030), 64, layout="kv_packed"
        ),
        "offsets of q, k and v by their stride": _large(
            Dense(batch=5500, seqlen_q=64, seqlen_k=64), 16, layout="qkv_packed"
        ),
        "keys": _large(Dense(seqlen_q=5, seqlen_k=131_101), 1, causal="bottom_right"),
        "batch": _large(Dense(batch=70_001, seqlen_q=2, seqlen_k=3), 1),
        "rows of one sequence, in a window": _large(
            Dense(seqlen_q=5_592_500, seqlen_k=5_592_500), 1, layout="qkv_packed", window=(32, 0), causal="bottom_right"
        ),
    }
)


def large_problems(kernel: Kernel, refused: Callable[[Problem], tuple[str, ...]]) -> tuple[Problem, ...]:
    """The problems that `kernel` is tried on: its budget's share of them, each in a form that it takes if there is one.

    refused  why it does not take a problem, in sentences
    """
    count = math.ceil(len(LARGE_PROBLEMS) * min(1.0, kernel.budget))
    return tuple(_taken(problem, refused) for problem in list(LARGE_PROBLEMS.values())[:count])


def _taken(problem: Problem, refused: Callable[[Problem], tuple[str, ...]]) -> Problem:
    """`problem`, in the other dtype or without its gradients if the kernel takes no better; else as it is."""
    forms = (
        replace(problem, direction=direction, dtype=dtype)
        for direction in ("forward_backward", "forward")
        for dtype in ("float16", "bfloat16")
    )
    return next((form for form in forms if not refused(form)), problem)


def bytes_needed(problem: Problem) -> int:
    """Memory that a call and its judgement take at once, in bytes.

    Inputs and a copy of them, to see that they are unchanged; outputs; fp32 sums of gradients, which is what a kernel
    may keep besides; and what the sample takes.
    """
    rows_q, rows_k = sum(problem.seqlens_q) * problem.heads_q, sum(problem.seqlens_k) * problem.heads_kv
    q, k, lse = 2 * rows_q * problem.head_dim, 2 * rows_k * problem.head_dim, 4 * rows_q
    outputs = q + lse
    if problem.backward:
        outputs += (q + 2 * k) + 2 * (q + 2 * k) + 2 * lse
    return 2 * (2 * q + 2 * k) + outputs + _OF_SAMPLE


_OF_SAMPLE = 6 * 2**30


def not_tried(device: str, profile: str, *, sanitized: bool) -> str:
    """Why a run tries none of them, in a sentence; empty: it does."""
    if device != "cuda":
        return "They are tried on a GPU only: on a CPU they would take hours."
    if profile == "quick":
        return "They are left out of the profile quick."
    if sanitized:
        return "They are left out under a sanitizer, which would take hours."
    return ""
