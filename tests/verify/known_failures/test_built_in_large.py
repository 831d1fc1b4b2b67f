"""The entries that only a large problem shows: their predicates, against what an H200 with torch 2.11 gave."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.verify.known_failures.built_in_large import (
    LARGE,
    packed_sequence_past_the_sum_of_dq,
    rows_past_2_31,
    sequence_past_the_sum_of_dq,
    sequences_past_a_grid,
)
from fa2verify.verify.known_failures.ledger import KnownFailure
from fa2verify.verify.run.large_problems import LARGE_PROBLEMS

# What became of each large problem that the kernel took. torch-flash on "keys" is its split forward's known failure.
FAILED = {
    "torch-flash": ("batch * heads", "batch"),
    "torch-varlen": ("elements of q, out and dq, packed",),
    "torch-flex": ("elements of q, out and dq; blocks of queries",),
    "torch-cudnn": ("elements of q, out and dq; blocks of queries", "batch"),
}
PASSED = {
    "torch-flash": (
        "elements of q, out and dq; blocks of queries",
        "elements of k, v, dk and dv",
        "offsets of q, k and v by their stride",
        "keys",
    ),
    "torch-varlen": ("batch * heads, packed", "offsets of k and v by their stride, packed"),
    "torch-flex": ("elements of k, v, dk and dv",),
    "torch-cudnn": (
        "elements of k, v, dk and dv",
        "batch * heads",
        "offsets of q, k and v by their stride",
        "keys",
    ),
}


@pytest.mark.parametrize("kernel", FAILED)
def test_it_covers_the_problems_that_failed_and_none_that_passed(kernel: str) -> None:
    entries = [entry for entry in LARGE if kernel in entry.kernels]
    covered = [name for name, problem in LARGE_PROBLEMS.items() if any(entry.covers(problem) for entry in entries)]
    assert set(FAILED[kernel]) <= set(covered)
    assert not set(PASSED[kernel]) & set(covered)
    assert len(entries) == len(FAILED[kernel])


@pytest.mark.parametrize("entry", LARGE, ids=lambda entry: entry.name)
def test_its_smallest_problem_is_a_large_problem_that_no_other_entry_covers(entry: KnownFailure) -> None:
    (kernel,) = entry.kernels
    assert entry.is_large
    (name,) = (name for name, problem in LARGE_PROBLEMS.items() if problem == entry.smallest)
    assert name in FAILED[kernel]
    assert [other for other in LARGE if kernel in other.kernels and other.covers(entry.smallest)] == [entry]


@pytest.mark.parametrize("entry", LARGE, ids=lambda entry: entry.name)
def test_it_is_far_from_what_is_drawn_and_about_gradients_but_for_one(entry: KnownFailure) -> None:
    forward = entry.covers(replace(entry.smallest, direction="forward"))
    assert forward == (entry.name == "flash-sequences-past-65535")
    assert not entry.covers(Problem(direction="forward_backward"))


@pytest.mark.parametrize("entry", LARGE, ids=lambda entry: entry.name)
def test_one_that_loses_the_context_is_tried_in_a_child(entry: KnownFailure) -> None:
    assert entry.takes_process == (entry.name in {"flash-backward-past-2-31", "varlen-backward-past-2-31"})


def problem(lengths: Dense | Varlen, heads: int = 16, head_dim: int = 128) -> Problem:
    sizes: dict[str, Any] = {"heads_q": heads, "heads_kv": heads, "head_dim": head_dim}
    return Problem(lengths=lengths, direction="forward_backward", **sizes)


# Each with the largest number that is not covered. 8193 sequences of a tile of 128 rows of 16 heads: the last begins
# at 2^31.
LIMITS: list[tuple[Callable[[Problem], bool], Callable[[int], Problem], int]] = [
    (sequence_past_the_sum_of_dq, lambda batch: problem(Dense(batch=batch)), 8192),
    (sequence_past_the_sum_of_dq, lambda batch: problem(Dense(batch=batch), head_dim=97), 8192),
    (sequence_past_the_sum_of_dq, lambda batch: problem(Dense(batch=batch, seqlen_q=129)), 4096),
    (sequence_past_the_sum_of_dq, lambda length: problem(Dense(batch=2, seqlen_q=length)), 2**20 - 128),
    (
        packed_sequence_past_the_sum_of_dq,
        lambda first: problem(Varlen(seqlens_q=(first, 1), seqlens_k=(1, 1))),
        2**20 - 1,
    ),
    (rows_past_2_31, lambda length: problem(Dense(seqlen_q=length)), 2**20),
    (sequences_past_a_grid, lambda batch: problem(Dense(batch=batch), heads=1), 65_535),
]


@pytest.mark.parametrize(("covers", "sized", "most"), LIMITS)
def test_where_it_begins(covers: Callable[[Problem], bool], sized: Callable[[int], Problem], most: int) -> None:
    assert not covers(sized(most))
    assert covers(sized(most + 1))


def test_where_packed_sequences_begin_is_what_counts() -> None:
    """Not their number times a tile, and not where the last ends."""

    def covered(*lengths: int) -> bool:
        packed = Varlen(seqlens_q=lengths, seqlens_k=(1,) * len(lengths))
        return packed_sequence_past_the_sum_of_dq(problem(packed))

    assert covered(2**20, 1)
    assert covered(0, 2**20, 0, 1, 0)
    assert not covered(2**20, 0), "nothing begins there"
    assert not covered(2**21)
    assert not covered(*[1] * 16_384)


def test_dense_and_packed_are_entries_of_their_own() -> None:
    packed = LARGE_PROBLEMS["elements of q, out and dq, packed"]
    assert not any(covers(packed) for covers in (sequence_past_the_sum_of_dq, rows_past_2_31, sequences_past_a_grid))
    assert not packed_sequence_past_the_sum_of_dq(problem(Dense(batch=2, seqlen_q=2**20)))
    many = Varlen(seqlens_q=(1,) * 70_000, seqlens_k=(1,) * 70_000)
    assert not sequences_past_a_grid(problem(many))
