"""A failure ends at the smallest, plainest problem that shows it: exactly that one, from several starting points."""

from collections.abc import Callable
from random import Random

import pytest
from hypothesis import find, settings

from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.strategies.problems import Size, problems

SIZE = Size(max_seqlen=512, max_scores=2**18, max_batch=6, max_heads=8)
STRATEGY = problems(lambda _: (), size=SIZE)

Condition = Callable[[Problem], object]


def dense(q: int = 1, k: int = 1, batch: int = 1) -> Dense:
    return Dense(batch=batch, seqlen_q=q, seqlen_k=k)


def smallest(condition: Condition, seed: int) -> Problem:
    # Two in a thousand problems is the rarest condition here.
    quiet = settings(max_examples=5000, database=None, deadline=None)
    return find(STRATEGY, lambda problem: bool(condition(problem)), settings=quiet, random=Random(seed))


EXACT: dict[str, tuple[Condition, Problem]] = {
    "any": (lambda _: True, Problem(head_dim=8)),
    "causal past 16 keys": (
        lambda p: max(p.seqlens_k) > 16 and p.causal,
        Problem(lengths=dense(k=17), head_dim=8, causal="bottom_right"),
    ),
    "top-left": (lambda p: p.causal == "top_left", Problem(head_dim=8, causal="top_left")),
    "77 queries": (lambda p: max(p.seqlens_q) >= 77, Problem(lengths=dense(77), head_dim=8)),
    "both lengths": (
        lambda p: any(q >= 77 and k >= 100 for q, k in zip(p.seqlens_q, p.seqlens_k, strict=True)),
        Problem(lengths=dense(77, 100), head_dim=8),
    ),
    "one past a tile": (
        lambda p: any(k > 64 and k % 64 == 1 for k in p.seqlens_k),
        Problem(lengths=dense(1, 65), head_dim=8),
    ),
    "no key": (lambda p: 0 in p.seqlens_k, Problem(lengths=dense(1, 0), head_dim=8)),
    "bfloat16": (lambda p: p.dtype == "bfloat16", Problem(dtype="bfloat16", head_dim=8)),
    "head_dim": (lambda p: p.head_dim > 100, Problem(head_dim=104)),
    "odd head_dim": (lambda p: p.head_dim % 8, Problem(head_dim=1)),
    "group of three": (lambda p: p.group == 3, Problem(heads_q=3, head_dim=8)),
    "two key heads, two sequences": (
        lambda p: p.batch >= 2 and p.heads_kv >= 2 and max(p.seqlens_k) >= 65,
        Problem(lengths=dense(1, 65, 2), heads_q=2, heads_kv=2, head_dim=8),
    ),
    "qkv packed": (
        lambda p: p.layout == "qkv_packed" and p.seqlens_q[0] > 32,
        Problem(lengths=dense(33, 33), head_dim=8, layout="qkv_packed"),
    ),
    "window in a causal mask": (
        lambda p: p.causal and p.window[0] >= 0 and any(k > p.window[0] + 1 for k in p.seqlens_k),
        Problem(lengths=dense(1, 2), head_dim=8, causal="bottom_right", window=(0, -1)),
    ),
    "softcap in the backward": (
        lambda p: p.softcap and p.backward,
        Problem(head_dim=8, softcap=1.0, direction="forward_backward"),
    ),
    "dropout": (lambda p: p.dropout, Problem(head_dim=8, dropout=0.5)),
    "dropout, ALiBi and bfloat16": (
        lambda p: p.dropout and p.alibi and p.dtype == "bfloat16",
        Problem(dtype="bfloat16", head_dim=8, alibi="per_head", dropout=0.5),
    ),
    "deterministic": (
        lambda p: p.deterministic,
        Problem(head_dim=8, direction="forward_backward", deterministic=True),
    ),
    "varlen": (lambda p: p.is_varlen, Problem(lengths=Varlen(seqlens_q=(1,), seqlens_k=(1,)), head_dim=8)),
    "tied keys": (lambda p: p.values == "tied_keys", Problem(head_dim=8, values="tied_keys")),
}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", EXACT)
def test_a_failure_shrinks_to_exactly(name: str, seed: int) -> None:
    condition, expected = EXACT[name]
    assert smallest(condition, seed).to_json() == expected.to_json()


@pytest.mark.parametrize("seed", [0, 1])
def test_more_queries_than_keys_shrinks_to_two_and_one_or_one_and_none(seed: int) -> None:
    got = smallest(lambda p: any(q > k for q, k in zip(p.seqlens_q, p.seqlens_k, strict=True)), seed)
    assert got in (Problem(lengths=dense(2, 1), head_dim=8), Problem(lengths=dense(1, 0), head_dim=8))


@pytest.mark.parametrize("seed", [0, 1])
def test_a_product_of_lengths_shrinks_to_a_small_product(seed: int) -> None:
    got = smallest(lambda p: p.scores >= 10_000, seed)
    # Many pairs are locally smallest; none is far from the bound, and nothing but lengths and batch remains.
    assert got.scores < 10_400
    assert got.to_json() == Problem(lengths=got.lengths, head_dim=8).to_json()


@pytest.mark.parametrize("seed", [0, 1])
def test_an_empty_sequence_inside_a_batch_keeps_a_sequence_on_either_side(seed: int) -> None:
    got = smallest(lambda p: p.is_varlen and 0 in p.seqlens_q[1:-1], seed)
    assert got.batch <= 4
    assert max(*got.seqlens_q, *got.seqlens_k) == 1
    assert got.to_json() == Problem(lengths=got.lengths, head_dim=8).to_json()


@pytest.mark.parametrize("seed", [0, 1])
def test_a_failure_shrinks_through_repairs(seed: int) -> None:
    """A kernel that takes one feature at a time: what a repair drops must not stand in the way."""

    def one_feature(p: Problem) -> tuple[str, ...]:
        features = (p.window != (-1, -1), p.scale, p.softcap, p.alibi, p.dropout, p.layout != "plain", p.causal)
        return ("one feature at a time",) if sum(map(bool, features)) > 1 else ()

    quiet = settings(max_examples=5000, database=None, deadline=None)
    got = find(
        problems(one_feature, size=SIZE),
        lambda p: bool(p.softcap) and max(p.seqlens_k) > 40,
        settings=quiet,
        random=Random(seed),
    )
    assert got.to_json() == Problem(lengths=dense(1, 41), head_dim=8, softcap=1.0).to_json()
