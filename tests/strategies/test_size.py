"""Sizes refuse what leaves no problem, and lengths are cut to fit them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fa2verify.strategies.size import Pair, Size, Snap, fit_batch, fit_pair

EVERY = range(1, 301)
NOTABLE = (1, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129)
SNAP = Snap(EVERY, NOTABLE)


@pytest.mark.parametrize("field", ["max_seqlen", "max_scores", "max_batch", "max_heads", "max_head_dim"])
def test_a_size_without_room_is_refused(field: str) -> None:
    sizes = {"max_seqlen": 64, "max_scores": 4096, "max_batch": 2, "max_heads": 4, "max_head_dim": 64}
    with pytest.raises(ValueError, match=rf"^{field}: 0 .*at least 1$"):
        Size(**{**sizes, field: 0})


def test_a_size_too_small_for_its_heads_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^max_scores: 3 is less than max_heads = 4"):
        Size(max_seqlen=64, max_scores=3, max_batch=1, max_heads=4)


@pytest.mark.parametrize(("bound", "length"), [(1, 1), (14, 1), (15, 15), (40, 33), (300, 129), (0, 1)])
def test_snap_gives_the_largest_notable_length_that_fits(bound: int, length: int) -> None:
    assert SNAP(bound) == length


def test_snap_without_a_notable_length_gives_the_largest_that_fits() -> None:
    assert Snap((40, 50, 60), (64,))(55) == 50


@pytest.mark.parametrize(
    ("pair", "fitted"),
    [
        ((10, 10), (10, 10)),
        ((0, 300), (0, 300)),
        ((70, 70), (64, 64)),
        ((2, 300), (2, 300)),
        ((20, 300), (20, 129)),
        ((300, 20), (129, 20)),
        ((100, 200), (64, 64)),
    ],
)
def test_the_longer_side_is_cut_first(pair: Pair, fitted: Pair) -> None:
    assert fit_pair(pair, 4096, SNAP) == fitted


PAIRS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=8)


@settings(max_examples=300, database=None, derandomize=True, deadline=None)
@given(pairs=PAIRS, most=st.integers(1, 100_000))
def test_a_batch_stays_within_what_it_may_have(pairs: list[Pair], most: int) -> None:
    fitted = fit_batch(pairs, most, SNAP)
    assert sum(q * k for q, k in fitted) <= most
    assert len(fitted) == min(len(pairs), most)
    for (q, k), (fit_q, fit_k) in zip(pairs, fitted, strict=False):
        assert 0 <= fit_q <= q
        assert 0 <= fit_k <= k
        # Cutting never empties a sequence: that is another problem.
        assert (fit_q == 0, fit_k == 0) == (q == 0, k == 0)
        if q == k:
            assert fit_q == fit_k


@settings(max_examples=300, database=None, derandomize=True, deadline=None)
@given(pairs=PAIRS)
def test_a_batch_that_fits_is_left_alone(pairs: list[Pair]) -> None:
    assert fit_batch(pairs, max(len(pairs), sum(q * k for q, k in pairs)), SNAP) == tuple(pairs)


def test_one_long_sequence_stays_long_among_short_ones() -> None:
    assert fit_batch([(8, 8), (300, 300), (8, 8)], 129 * 129 + 2 * 64, SNAP) == ((8, 8), (129, 129), (8, 8))


def test_equal_pairs_stay_equal() -> None:
    assert len(set(fit_batch([(300, 300)] * 3, 3 * 4000 + 2, SNAP))) == 1
