"""Each axis draws what it is given, all of it, shrinks towards the plainest, and refuses to draw from nothing."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from fa2verify.kernels.values import FAMILIES
from fa2verify.strategies.batches import batches, uniform_batches
from fa2verify.strategies.choice import choice
from fa2verify.strategies.dropouts import PROBABILITIES, dropouts
from fa2verify.strategies.dtypes import DTYPES, dtypes
from fa2verify.strategies.families import families, seeds
from fa2verify.strategies.head_dims import COMMON, drawn_head_dims, head_dims
from fa2verify.strategies.heads import groupings, heads
from fa2verify.strategies.layouts import LAYOUTS, layouts
from fa2verify.strategies.masks import CAUSALS, WINDOW_KINDS, causals, windows
from fa2verify.strategies.scores import ALIBIS, SCALES, SOFTCAPS, alibis, scales, softcaps
from fa2verify.strategies.shapes import lengths, notable_lengths, pairs

QUIET = settings(max_examples=500, database=None, derandomize=True, deadline=None)


def drawn(strategy: SearchStrategy[Any], examples: int = 500) -> list[Any]:
    """What `examples` draws give."""
    got: list[Any] = []

    @settings(QUIET, max_examples=examples, phases=[Phase.generate])
    @given(strategy)
    def collect(value: Any) -> None:
        got.append(value)

    collect()
    return got


def smallest(strategy: SearchStrategy[Any], condition: Callable[[Any], bool] = lambda _: True) -> Any:
    return find(strategy, condition, settings=QUIET)


OPTIONS: list[tuple[Callable[[Any], SearchStrategy[Any]], Sequence[Any]]] = [
    (dtypes, DTYPES),
    (causals, CAUSALS),
    (scales, SCALES),
    (softcaps, SOFTCAPS),
    (alibis, ALIBIS),
    (families, FAMILIES),
    (layouts, LAYOUTS),
    (heads, groupings(8)),
]


@pytest.mark.parametrize(("axis", "options"), OPTIONS)
def test_every_option_is_drawn_and_the_first_is_the_plainest(
    axis: Callable[[Any], SearchStrategy[Any]], options: Sequence[Any]
) -> None:
    assert set(drawn(axis(options))) == set(options)
    assert smallest(axis(options)) == options[0]


@pytest.mark.parametrize(("axis", "options"), OPTIONS)
def test_an_axis_keeps_to_what_it_is_given(axis: Callable[[Any], SearchStrategy[Any]], options: Sequence[Any]) -> None:
    assert set(drawn(axis(options[-1:]), 5)) == {options[-1]}


@pytest.mark.parametrize(
    ("axis", "name"),
    [
        *((lambda axis=axis: axis(()), "nothing to draw|no grouping") for axis, _ in OPTIONS),
        (lambda: choice((), "colour"), "^colour: nothing to draw"),
        (lambda: drawn_head_dims(()), "^supported: no head dimension"),
        (lambda: dropouts(()), "^dropouts: nothing to draw"),
        (lambda: windows(st.just(1), ()), "^windows: nothing to draw"),
        (lambda: pairs(8, ()), "^kinds: no kind of pair"),
        (lambda: lengths(0), "^limit: 0 "),
        (lambda: lengths(8, ()), "leave no length"),
        (lambda: batches(st.just((1, 1)), 0, [1], [1]), "^max_batch: 0 "),
        (lambda: batches(st.just((1, 1)), 1, [], [1]), "^lengths_q: "),
        (lambda: batches(st.just((1, 1)), 1, [1], []), "^lengths_k: "),
        (lambda: uniform_batches(st.just((1, 1)), 0), "^max_batch: 0 "),
    ],
)
def test_nothing_to_draw_is_refused_at_once(axis: Callable[[], object], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        axis()


def test_dropout_has_every_probability_and_shrinks_to_seed_0() -> None:
    assert {probability for probability, _ in drawn(dropouts())} == set(PROBABILITIES)
    assert smallest(dropouts()) == (0.5, 0)


def test_seeds_differ_and_shrink_to_0() -> None:
    assert len(set(drawn(seeds()))) > 250
    assert smallest(seeds()) == 0


def test_groupings_are_every_divisor_with_fewest_heads_first() -> None:
    assert groupings(4) == ((1, 1), (2, 2), (2, 1), (3, 3), (3, 1), (4, 4), (4, 2), (4, 1))


def test_groups_mostly_have_several_key_heads() -> None:
    got = drawn(heads(groupings(8)))
    assert sum(q == kv for q, kv in got) > 250
    assert sum(q > kv > 1 for q, kv in got) > 100
    assert sum(q > kv == 1 for q, kv in got) > 50


@pytest.mark.parametrize(("group", "expected"), [(2, (2, 1)), (3, (3, 1)), (8, (8, 1))])
def test_a_group_shrinks_to_one_key_head(group: int, expected: tuple[int, int]) -> None:
    assert smallest(heads(groupings(16)), lambda one: one[0] // one[1] == group) == expected


def test_key_heads_shrink_without_a_group() -> None:
    assert smallest(heads(groupings(16)), lambda one: one[1] > 2) == (3, 3)


def test_head_dims_are_common_and_odd_and_up_to_the_limit() -> None:
    assert sorted(head_dims(20)) == list(range(1, 21))
    assert head_dims(20)[:3] == (8, 16, 1)
    got = drawn(drawn_head_dims(head_dims()))
    assert set(COMMON) <= set(got)
    assert max(got) == 256
    assert sum(dim in COMMON for dim in got) > 200
    assert sum(dim % 8 != 0 for dim in got) > 50


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (lambda _: True, 8),
        (lambda dim: dim > 100, 104),
        (lambda dim: dim % 8 != 0, 1),
        (lambda dim: dim % 8 != 0 and dim > 64, 65),
    ],
)
def test_head_dims_shrink_to_multiples_of_8(condition: Callable[[int], bool], expected: int) -> None:
    assert smallest(drawn_head_dims(head_dims()), condition) == expected


@pytest.mark.parametrize("supported", [(64,), (7,), (1, 2, 3), (48, 80)])
def test_head_dims_keep_to_what_is_supported(supported: tuple[int, ...]) -> None:
    assert set(drawn(drawn_head_dims(supported), 100)) == set(supported)


def test_windows_are_bounded_on_the_sides_of_their_kind() -> None:
    got = drawn(windows(lengths(300)))
    assert {(left >= 0, right >= 0) for left, right in got} == {(True, False), (False, True), (True, True)}
    assert (0, 0) in got
    assert {63, 64, 127} <= {left for left, _ in got}
    for kind, sides in zip(WINDOW_KINDS, [(True, False), (False, True), (True, True)], strict=True):
        assert {(left >= 0, right >= 0) for left, right in drawn(windows(lengths(300), [kind]), 50)} == {sides}
    assert smallest(windows(lengths(300))) == (0, -1)


def test_notable_lengths_are_around_tiles_and_ascend() -> None:
    notable = notable_lengths(300)
    assert list(notable) == sorted(set(notable))
    assert {1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97, 127, 128, 129, 256, 257} <= set(notable)
    assert notable_lengths(1) == (1,)
    assert max(notable_lengths(1000)) <= 1000


def test_lengths_are_mostly_notable_and_of_every_size() -> None:
    got = drawn(lengths(300))
    assert sum(length in notable_lengths(300) for length in got) > 250
    assert min(got) == 1
    assert max(got) > 270
    for tile in (16, 32, 64, 128):
        assert {tile - 1, tile, tile + 1} <= set(got)


@pytest.mark.parametrize("least", [1, 2, 5, 16, 17, 77, 129, 130, 299])
def test_a_length_shrinks_to_the_smallest_that_fails(least: int) -> None:
    assert smallest(lengths(300), lambda length: length >= least) == least


@pytest.mark.parametrize(("tile", "past"), [(16, 1), (64, 1), (64, 0), (64, 63), (128, 1)])
def test_a_length_at_a_tile_s_edge_shrinks_to_the_first_tile(tile: int, past: int) -> None:
    least = tile + past if past < tile - 1 else past
    got = smallest(lengths(512), lambda length: length >= least and length % tile == past % tile)
    assert got == least


def test_lengths_keep_to_what_is_supported() -> None:
    supported = range(128, 1025, 128)
    assert set(drawn(lengths(1024, supported))) == set(supported)
    assert smallest(lengths(1024, supported)) == 128


def test_pairs_have_every_kind() -> None:
    got = drawn(pairs(300))
    assert (0, 0) in got
    assert sum(q == k > 0 for q, k in got) > 50
    assert sum(q == 0 < k for q, k in got) > 10
    assert sum(k == 0 < q for q, k in got) > 10
    assert sum(0 < q < k for q, k in got) > 10
    assert sum(q > k > 0 for q, k in got) > 10
    assert sum(0 < q <= 16 and k > 128 for q, k in got) > 30
    assert sum(0 < k <= 16 and q > 128 for q, k in got) > 15
    assert all(q and k for q, k in drawn(pairs(300, ["free"]), 50))
    assert all(q == k for q, k in drawn(pairs(300, ["square"]), 50))


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (lambda _: True, (1, 1)),
        (lambda pair: pair[1] > 16, (1, 17)),
        (lambda pair: pair[0] > 16, (17, 1)),
        (lambda pair: pair[0] >= 77 and pair[1] >= 100, (77, 100)),
        (lambda pair: pair[0] == pair[1] > 20, (21, 21)),
        (lambda pair: pair[0] == 0 and pair[1] > 20, (0, 21)),
        (lambda pair: pair[0] == 0, (0, 1)),
        (lambda pair: pair[1] == 0, (1, 0)),
    ],
)
def test_pairs_shrink_side_by_side(condition: Callable[[tuple[int, int]], bool], expected: tuple[int, int]) -> None:
    assert smallest(pairs(300), condition) == expected


def test_batches_have_every_pattern() -> None:
    got = drawn(batches(pairs(300), 6, range(1, 301), range(1, 301)))
    assert {len(batch) for batch in got} == {1, 2, 3, 4, 5, 6}
    assert sum(len(batch) > 2 and len(set(batch)) == 1 for batch in got) > 20
    keys = [sorted(k for _, k in batch) for batch in got if len(batch) > 3]
    assert sum(ks[-1] > 64 and ks[-2] <= 8 for ks in keys) > 10


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (lambda _: True, ((1, 1),)),
        (lambda batch: any(k > 20 for _, k in batch), ((1, 21),)),
        (lambda batch: len(batch) >= 3, ((1, 1),) * 3),
        (lambda batch: len(batch) >= 2 and batch[-1][1] == 0, ((1, 1), (1, 0))),
    ],
)
def test_batches_shrink_to_one_short_sequence(
    condition: Callable[[tuple[tuple[int, int], ...]], bool], expected: tuple[tuple[int, int], ...]
) -> None:
    assert smallest(batches(pairs(300), 6, range(1, 301), range(1, 301)), condition) == expected


def test_a_short_sequence_has_a_supported_length() -> None:
    supported = range(32, 1025, 32)
    for batch in drawn(
        batches(pairs(1024, ["free"], supported_q=supported, supported_k=supported), 6, supported, supported), 100
    ):
        assert all(length in supported for pair in batch for length in pair)


def test_uniform_batches_repeat_one_pair() -> None:
    got = drawn(uniform_batches(pairs(300), 5))
    assert {len(batch) for batch in got} == {1, 2, 3, 4, 5}
    assert all(len(set(batch)) == 1 for batch in got)
    assert smallest(uniform_batches(pairs(300), 5)) == ((1, 1),)
