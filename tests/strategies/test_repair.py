"""A repair gives up as little as possible, and in the order that it promises."""

from collections.abc import Callable
from typing import Any

from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.strategies.repair import Changes, Repair
from fa2verify.strategies.size import Pair, Size
from fa2verify.strategies.support import probe

SIZE = Size(max_seqlen=512, max_scores=2**18, max_batch=6, max_heads=8)
CAUSAL = {"causal": {"causal": "bottom_right"}}
SOFTCAP = {"softcap": {"softcap": 30.0}}
GROUPS = {"heads": {"heads_q": 4, "heads_kv": 2}}
PACKED = {"layout": {"layout": "qkv_packed"}}

Reasons = tuple[str, ...]


def repaired(
    changes: Changes,
    *pairs: Pair,
    varlen: bool = False,
    unsupported: Callable[[Problem], Reasons] = lambda _: (),
    size: Size = SIZE,
) -> Problem:
    support = probe(unsupported, varlen=None, direction=None, size=size)
    return Repair.of(unsupported, support, size)(changes, pairs, varlen=varlen)


def problem(**fields: Any) -> Problem:
    return Problem(head_dim=8, **fields)


def test_what_is_supported_stays_as_drawn() -> None:
    got = repaired({**CAUSAL, **SOFTCAP, **GROUPS}, (70, 65), (3, 0), varlen=True)
    lengths = Varlen(seqlens_q=(70, 3), seqlens_k=(65, 0))
    assert got == problem(lengths=lengths, causal="bottom_right", softcap=30.0, heads_q=4, heads_kv=2)


def test_one_option_is_given_up_before_two() -> None:
    def exclusive(p: Problem) -> Reasons:
        return ("causal and softcap together",) if p.causal and p.softcap else ()

    got = repaired({**CAUSAL, **SOFTCAP, **GROUPS}, (70, 65), unsupported=exclusive)
    lengths = Dense(seqlen_q=70, seqlen_k=65)
    assert got == problem(lengths=lengths, softcap=30.0, heads_q=4, heads_kv=2)


def test_lengths_become_square_before_everything_is_given_up() -> None:
    def cross_needs_causal(p: Problem) -> Reasons:
        return ("other lengths without a causal mask",) if p.seqlens_q != p.seqlens_k and p.causal is None else ()

    got = repaired(SOFTCAP, (70, 65), unsupported=cross_needs_causal)
    assert got == problem(lengths=Dense(seqlen_q=65, seqlen_k=65), softcap=30.0)


def test_empty_sequences_are_filled_before_everything_is_given_up() -> None:
    def empty_needs_causal(p: Problem) -> Reasons:
        return ("empty without a causal mask",) if 0 in p.seqlens_k and p.causal is None else ()

    got = repaired(SOFTCAP, (70, 0), unsupported=empty_needs_causal)
    assert got == problem(lengths=Dense(seqlen_q=70, seqlen_k=1), softcap=30.0)


def test_packing_takes_the_fewer_heads_and_the_shorter_length() -> None:
    got = repaired({**GROUPS, **PACKED}, (70, 65))
    assert got == problem(lengths=Dense(seqlen_q=65, seqlen_k=65), heads_q=2, heads_kv=2, layout="qkv_packed")


def test_a_batch_gives_way_to_heads_and_both_to_lengths() -> None:
    assert repaired({}, *[(256, 512)] * 6).lengths == Dense(batch=2, seqlen_q=256, seqlen_k=512)
    got = repaired({"heads": {"heads_q": 8, "heads_kv": 4}}, (256, 256))
    assert got == problem(lengths=Dense(seqlen_q=256, seqlen_k=256), heads_q=4, heads_kv=2)
    got = repaired({"heads": {"heads_q": 8, "heads_kv": 1}}, (512, 512))
    assert got == problem(lengths=Dense(seqlen_q=512, seqlen_k=512))


def test_a_varlen_batch_keeps_its_sequences() -> None:
    got = repaired({}, *[(512, 512)] * 4, varlen=True)
    assert got.lengths == Varlen(seqlens_q=(256,) * 4, seqlens_k=(256,) * 4)


def test_a_size_holds_even_where_no_shorter_length_is_supported() -> None:
    def blocks(p: Problem) -> Reasons:
        return ("tails",) if any(length % 128 for length in (*p.seqlens_q, *p.seqlens_k)) else ()

    size = Size(max_seqlen=512, max_scores=2 * 128 * 128, max_batch=6, max_heads=8)
    assert repaired(SOFTCAP, *[(128, 128)] * 3, varlen=True, unsupported=blocks, size=size).scores <= size.max_scores
