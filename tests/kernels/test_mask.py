"""The vectorised mask against loops over i and j, written from the design's text alone."""

from dataclasses import replace

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fa2verify.kernels.mask import distance, visible
from fa2verify.kernels.problem import Causal, Dense, Problem

CPU = torch.device("cpu")
ALIGNMENTS: tuple[Causal | None, ...] = (None, "top_left", "bottom_right")


def oracle(problem: Problem, seqlen_q: int, seqlen_k: int) -> list[list[bool]]:
    """Which (i, j) are visible: design, "What one attention call means here", rule 4."""
    rows = []
    for i in range(seqlen_q):
        row = []
        for j in range(seqlen_k):
            offset = 0 if problem.causal == "top_left" else seqlen_k - seqlen_q
            seen = True
            if problem.causal is not None and j > i + offset:
                seen = False
            left, right = problem.window
            if left != -1 and j < i + offset - left:
                seen = False
            if right != -1 and j > i + offset + right:
                seen = False
            row.append(seen)
        rows.append(row)
    return rows


def text(problem: Problem, seqlen_q: int, seqlen_k: int) -> str:
    seen = visible(problem, seqlen_q, seqlen_k, CPU)
    return " ".join("".join("1" if one else "0" for one in row) for row in seen.tolist())


# From the changelog of flash-attn 2.1, which moved the diagonal.
@pytest.mark.parametrize(
    ("causal", "seqlen_q", "seqlen_k", "expected"),
    [
        ("top_left", 2, 5, "10000 11000"),
        ("bottom_right", 2, 5, "11110 11111"),
        ("top_left", 5, 2, "10 11 11 11 11"),
        ("bottom_right", 5, 2, "00 00 00 10 11"),
    ],
)
def test_published_masks(causal: Causal, seqlen_q: int, seqlen_k: int, expected: str) -> None:
    assert text(Problem(causal=causal), seqlen_q, seqlen_k) == expected


# By hand: both ends inclusive, around the bottom-right diagonal unless the alignment is top-left.
@pytest.mark.parametrize(
    ("causal", "window", "seqlen_q", "seqlen_k", "expected"),
    [
        (None, (0, 0), 3, 3, "100 010 001"),
        (None, (1, 0), 3, 3, "100 110 011"),
        (None, (0, 1), 3, 3, "110 011 001"),
        (None, (0, 0), 2, 4, "0010 0001"),
        (None, (0, -1), 2, 4, "0011 0001"),
        (None, (-1, 0), 2, 4, "1110 1111"),
        (None, (0, 0), 4, 2, "00 00 10 01"),
        ("top_left", (1, -1), 2, 4, "1000 1100"),
        ("top_left", (0, 3), 4, 2, "10 01 00 00"),
        ("bottom_right", (1, 3), 2, 4, "0110 0011"),
    ],
)
def test_windows_by_hand(
    causal: Causal | None, window: tuple[int, int], seqlen_q: int, seqlen_k: int, expected: str
) -> None:
    assert text(Problem(causal=causal, window=window), seqlen_q, seqlen_k) == expected


lengths = st.integers(0, 24)
sides = st.one_of(st.just(-1), st.integers(0, 26))


@settings(max_examples=400, database=None, derandomize=True, deadline=None)
@given(lengths, lengths, st.sampled_from(ALIGNMENTS), sides, sides)
@example(0, 5, "bottom_right", 0, 0)
@example(5, 0, "top_left", 0, 0)
@example(0, 0, None, -1, -1)
@example(7, 3, "bottom_right", 2, 1)
@example(3, 7, "top_left", 2, 1)
def test_any_mask_is_the_loops(seqlen_q: int, seqlen_k: int, causal: Causal | None, left: int, right: int) -> None:
    problem = Problem(causal=causal, window=(left, right))
    seen = visible(problem, seqlen_q, seqlen_k, CPU)
    assert seen.shape == (seqlen_q, seqlen_k)
    assert seen.dtype == torch.bool
    assert seen.tolist() == oracle(problem, seqlen_q, seqlen_k)


@settings(max_examples=100, database=None, derandomize=True, deadline=None)
@given(lengths, lengths, st.sampled_from(ALIGNMENTS))
def test_distance_is_from_the_diagonal(seqlen_q: int, seqlen_k: int, causal: Causal | None) -> None:
    """ALiBi's |i + offset - j| is its absolute value; a whole problem's diagonal is the same number."""
    problem = Problem(causal=causal, lengths=Dense(seqlen_q=seqlen_q, seqlen_k=seqlen_k))
    offset = 0 if causal == "top_left" else seqlen_k - seqlen_q
    away = distance(problem, seqlen_q, seqlen_k, CPU)
    assert away.tolist() == [[j - (i + offset) for j in range(seqlen_k)] for i in range(seqlen_q)]
    assert problem.diagonal(0) == offset


def test_the_mask_is_of_the_lengths_given_and_not_of_the_problems() -> None:
    """A varlen problem's sequences have diagonals of their own."""
    problem = Problem(causal="bottom_right", lengths=Dense(seqlen_q=9, seqlen_k=9))
    assert text(problem, 2, 5) == "11110 11111"
    assert text(replace(problem, causal="top_left"), 2, 5) == "10000 11000"
