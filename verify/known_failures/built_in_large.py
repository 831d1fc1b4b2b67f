"""The known failures of the kernels that are built in which only a large problem shows: predicates, and the entries.

Apart from the others, because drawn problems are far below these limits and no predicate of the others is about them.
The smallest problem of each is the large problem on which it was seen (`fa2verify.verify.run.large_problems`), as no
smaller one was tried; which of its numbers matters is what docs/findings/offsets-past-2-31.md infers.
"""

import math
from collections.abc import Callable
from itertools import accumulate

from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.verify.known_failures.ledger import KnownFailure

# The first offset that a signed integer of 32 bits does not hold.
_WRAPS = 2**31
# Blocks of a CUDA grid in y and z.
_GRID = 65_535
# flash-attn 2 sums dQ in rows of head_dim rounded up to the first, and of each dense sequence in whole tiles of the
# second.
_WIDTH, _TILE = 32, 128


def _problem(lengths: Dense | Varlen, heads: int) -> Problem:
    return Problem(
        values="sampled", lengths=lengths, heads_q=heads, heads_kv=heads, head_dim=128, direction="forward_backward"
    )


_LONG_QUERIES = (1, 3, *[131_080] * 8, 2, 1)
_ROWS = _problem(Dense(seqlen_q=2**23 + 77, seqlen_k=40), 2)
_MANY = _problem(Dense(batch=70_001, seqlen_q=2, seqlen_k=3), 1)


def _accumulated(problem: Problem, rows: int) -> int:
    """Elements that `rows` rows of flash-attn's sum of dQ take."""
    return rows * problem.heads_q * _WIDTH * math.ceil(problem.head_dim / _WIDTH)


def sequence_past_the_sum_of_dq(problem: Problem) -> bool:
    """Dense, backward, and the last sequence begins past 2^31 elements of the sum of dQ.

    Where it ends does not matter: one sequence of more elements has been seen to pass.
    """
    if problem.is_varlen or not problem.backward:
        return False
    tiles = math.ceil(problem.seqlens_q[0] / _TILE)
    return _accumulated(problem, (problem.batch - 1) * tiles * _TILE) >= _WRAPS


def packed_sequence_past_the_sum_of_dq(problem: Problem) -> bool:
    """Packed, backward, and a sequence begins past 2^31 elements, without the tiles in between.

    Those are added to a sequence's offset in 64 bits: 1,030 sequences of one query, with 2^31 elements of tiles, pass.
    """
    if not problem.is_varlen or not problem.backward:
        return False
    begins = accumulate(problem.seqlens_q, initial=0)
    last = max((begin for begin, length in zip(begins, problem.seqlens_q, strict=False) if length), default=0)
    return _accumulated(problem, last) >= _WRAPS


def rows_past_2_31(problem: Problem) -> bool:
    """Dense, backward, and more than 2^31 elements in the queries of one sequence."""
    rows = 0 if problem.is_varlen else problem.seqlens_q[0]
    return problem.backward and rows * problem.heads_q * problem.head_dim > _WRAPS


def sequences_past_a_grid(problem: Problem) -> bool:
    """Dense, and more sequences than a dimension of a CUDA grid has blocks."""
    return not problem.is_varlen and problem.batch > _GRID


def gradients_of_sequences_past_a_grid(problem: Problem) -> bool:
    """The same, backward."""
    return problem.backward and sequences_past_a_grid(problem)


def _seen(
    name: str, says: str, kernel: str, covers: Callable[[Problem], bool], rule: str, smallest: Problem
) -> KnownFailure:
    """An entry of what was seen on an H200 with torch 2.11. A rule that names what was raised or lost is a crash."""
    return KnownFailure(
        name=name,
        says=says,
        link="docs/findings/offsets-past-2-31.md",
        kernels=(kernel,),
        covers=covers,
        verdict="failed" if rule.startswith("R") else "crashed",
        rules=(rule,),
        packages={"torch": "==2.11.*"},
        device="cuda",
        capabilities=((9, 0),),
        smallest=smallest,
    )


LARGE = (
    _seen(
        "flash-backward-past-2-31",
        "Where a sequence begins past 2^31 elements of the sum of dQ, the backward accesses memory illegally.",
        "torch-flash",
        sequence_past_the_sum_of_dq,
        "CUDA context lost",
        _problem(Dense(batch=1030, seqlen_q=1, seqlen_k=3), 128),
    ),
    _seen(
        "varlen-backward-past-2-31",
        "Where a packed sequence begins past 2^31 elements, the backward accesses memory illegally.",
        "torch-varlen",
        packed_sequence_past_the_sum_of_dq,
        "CUDA context lost",
        _problem(Varlen(seqlens_q=_LONG_QUERIES, seqlens_k=(40,) * len(_LONG_QUERIES)), 16),
    ),
    _seen(
        "flex-backward-past-2-31",
        "With more than 2^31 elements of queries in one sequence, dK and dV are wrong.",
        "torch-flex",
        rows_past_2_31,
        "R1 dk",
        _ROWS,
    ),
    _seen(
        "cudnn-backward-past-2-31",
        "With more than 2^31 elements of queries in one sequence, dQ and dK are wrong.",
        "torch-cudnn",
        rows_past_2_31,
        "R1 dq",
        _ROWS,
    ),
    _seen(
        "cudnn-sequences-past-65535",
        "With more than 65,535 sequences the backward raises an internal error instead of refusing them.",
        "torch-cudnn",
        gradients_of_sequences_past_a_grid,
        "raised RuntimeError",
        _MANY,
    ),
    _seen(
        "flash-sequences-past-65535",
        "With more than 65,535 sequences the forward's launch is refused by CUDA: invalid argument.",
        "torch-flash",
        sequences_past_a_grid,
        "raised AcceleratorError",
        _MANY,
    ),
)
