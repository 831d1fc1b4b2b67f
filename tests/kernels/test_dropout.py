"""Philox against its published answers, and the mask as the pure function of positions that it must be."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fa2verify.kernels.dropout import kept, philox4x32_10
from fa2verify.kernels.problem import Dense, Problem

CPU = torch.device("cpu")
HALF = Problem(dropout=0.5, dropout_seed=7, heads_q=3)


# Random123's known-answer file, "philox4x32 10".
@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_published_answers(counter: str, key: str, expected: str) -> None:
    c0, c1, c2, c3 = (torch.tensor([int(word, 16)]) for word in counter.split())
    k0, k1 = (int(word, 16) for word in key.split())
    assert " ".join(f"{int(word[0]):08x}" for word in philox4x32_10((c0, c1, c2, c3), (k0, k1))) == expected


def words_at(seed: int, batch: int, head: int, query: int, key: int) -> int:
    """The word that decides on one weight, from the docstring's text, with Python's own integers."""
    counter = [key // 4, query, head, batch]
    k = [seed % 2**32, seed // 2**32]
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(b >> 32) ^ counter[1] ^ k[0], b % 2**32, (a >> 32) ^ counter[3] ^ k[1], a % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return counter[key % 4]


@settings(max_examples=100, database=None, derandomize=True, deadline=None)
@given(
    seed=st.integers(0, 2**63 - 1),
    sequence=st.integers(0, 5),
    seqlen_q=st.integers(1, 9),
    seqlen_k=st.integers(1, 9),
    rate=st.sampled_from([0.0, 0.1, 0.5, 0.999]),
)
def test_every_weight_is_decided_by_its_own_word(
    seed: int, sequence: int, seqlen_q: int, seqlen_k: int, rate: float
) -> None:
    problem = Problem(dropout=rate, dropout_seed=seed, heads_q=2)
    mask = kept(problem, sequence, seqlen_q, seqlen_k, CPU)
    assert mask.shape == (2, seqlen_q, seqlen_k)
    for head, query, key in np.ndindex(2, seqlen_q, seqlen_k):
        expected = words_at(seed, sequence, head, query, key) >= math.floor(rate * 2**32)
        assert bool(mask[head, query, key]) == expected


@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(1, 1), (3, 4), (17, 5), (16, 33), (40, 63)])
def test_positions_are_absolute(seqlen_q: int, seqlen_k: int) -> None:
    """A kernel may draw any tile of the mask on its own: a shorter call's mask is a corner of a longer one's."""
    whole = kept(HALF, 1, 40, 64, CPU)
    assert torch.equal(kept(HALF, 1, seqlen_q, seqlen_k, CPU), whole[:, :seqlen_q, :seqlen_k])


def test_the_mask_does_not_depend_on_what_else_the_problem_is() -> None:
    other = replace(HALF, dtype="bfloat16", lengths=Dense(batch=3, seqlen_q=9, seqlen_k=9), head_dim=8, seed=5)
    assert torch.equal(kept(other, 2, 16, 16, CPU), kept(HALF, 2, 16, 16, CPU))
    more_heads = replace(HALF, heads_q=6)
    assert torch.equal(kept(more_heads, 2, 16, 16, CPU)[:3], kept(HALF, 2, 16, 16, CPU))


def test_every_coordinate_counts() -> None:
    """Heads, sequences, queries, keys and both halves of the seed draw masks of their own."""
    one = kept(HALF, 0, 64, 64, CPU)
    others = [
        kept(HALF, 1, 64, 64, CPU),
        kept(replace(HALF, dropout_seed=8), 0, 64, 64, CPU),
        kept(replace(HALF, dropout_seed=7 + 2**32), 0, 64, 64, CPU),
        one.roll(1, 0),
        one.roll(1, 1),
        one.roll(1, 2),
    ]
    # Independent halves agree on half of 12,288 weights, standard deviation 55: six of them are 332.
    for other in others:
        assert abs(int((one == other).sum()) - 6144) < 332


@pytest.mark.parametrize("rate", [0.01, 0.1, 0.17, 0.5, 0.9])
def test_rate(rate: float) -> None:
    """Within six standard deviations of a binomial's mean."""
    mask = kept(replace(HALF, dropout=rate), 0, 128, 130, CPU)
    count = mask.numel()
    assert abs(int((~mask).sum()) - rate * count) < 6 * math.sqrt(count * rate * (1 - rate))


@pytest.mark.parametrize(("seqlen_q", "seqlen_k"), [(0, 5), (5, 0), (0, 0)])
def test_empty(seqlen_q: int, seqlen_k: int) -> None:
    assert kept(HALF, 0, seqlen_q, seqlen_k, CPU).shape == (3, seqlen_q, seqlen_k)
