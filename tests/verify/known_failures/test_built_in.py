"""The entries of the built-in ledger: true to their pages, and predicates that are neither too narrow nor too wide."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fa2verify.kernels.mask import visible
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.reference import reference
from fa2verify.kernels.registry import builtin
from fa2verify.kernels.tensors import make_tensors
from fa2verify.verify.known_failures.built_in import (
    LEDGER,
    decoding_tile_beyond_mask_block,
    few_keys,
    low_rows_and_half_a_tile_of_keys,
    many_gradient_sums,
    partial_tile_of_lse,
    window_past_every_key,
)
from fa2verify.verify.known_failures.ledger import KnownFailure, Place, confirmed
from fa2verify.verify.relations.catalogue import RELATIONS
from fa2verify.verify.run.plan import KnownCase, known_cases, left_out
from fa2verify.verify.trial.attempt import Bench, attempt
from fa2verify.verify.trial.isolation import Isolation

CHECKOUT = Path(__file__).parents[3]
CPU = torch.device("cpu")
HERE = [
    case
    for registered in builtin()
    if not left_out(registered, CPU, named=False)
    for case in known_cases(registered, LEDGER.at(Place("cpu")))
]


def test_every_entry_is_about_kernels_that_there_are() -> None:
    LEDGER.require_kernels({registered.kernel.name for registered in builtin()})


@pytest.mark.parametrize("entry", LEDGER.entries, ids=lambda entry: entry.name)
def test_an_entry_holds_for_what_was_seen_and_is_written_up(entry: KnownFailure) -> None:
    assert entry.packages, "without versions nobody knows where it was seen"
    assert entry.device is not None
    if entry.link.startswith("docs/"):
        assert (CHECKOUT / entry.link).is_file()
    index = (CHECKOUT / "docs" / "findings" / "README.md").read_text()
    assert entry.name in index, "the ledger's page names every entry"


@pytest.mark.parametrize("entry", LEDGER.entries, ids=lambda entry: entry.name)
def test_its_kernels_take_its_smallest_problem(entry: KnownFailure) -> None:
    for registered in builtin():
        if registered.kernel.name in entry.kernels:
            assert registered.kernel.unsupported(entry.smallest) == ()


@pytest.mark.parametrize("case", HERE, ids=lambda case: case.label)
def test_entries_for_this_torch_on_a_cpu_are_true(case: KnownCase) -> None:
    if case.entry.takes_process:
        record = Isolation((), "cpu", "fp64", 120.0).attempt(case.registered.kernel, case.entry.smallest)
    else:
        record = attempt(case.registered.kernel, case.entry.smallest, Bench(CPU, relations=RELATIONS))
    record = confirmed(case.entry, record)
    assert record.verdict == "known", record.message


LENGTH = st.integers(0, 7)


@given(
    st.lists(st.tuples(LENGTH, LENGTH), min_size=1, max_size=3),
    st.tuples(st.integers(-1, 9), st.integers(-1, 9)),
)
def test_the_windows_that_flash_attn_misplaces(pairs: list[tuple[int, int]], window: tuple[int, int]) -> None:
    """What its host code does, in three lines: it is the known failure where, and only where, the mask is another."""
    seqlens_q, seqlens_k = zip(*pairs, strict=True)
    problem = Problem(lengths=Varlen(seqlens_q=seqlens_q, seqlens_k=seqlens_k), window=window)
    longest = max(seqlens_k)
    left, right = (-1 if side >= longest else side for side in window)
    placed = (longest if left < 0 <= right else left, longest if right < 0 <= left else right)
    taken = Problem(lengths=problem.lengths, window=placed)
    right_masks = all(torch.equal(visible(problem, q, k, CPU), visible(taken, q, k, CPU)) for q, k in pairs)
    assert window_past_every_key(problem) == (not right_masks)


def test_how_often_torch_s_cpu_backward_rounds() -> None:
    """The predicate counts sums, of which the page's first example has 320."""

    def covered(**changes: Any) -> bool:
        return many_gradient_sums(Problem(direction="forward_backward", **changes))

    assert covered(heads_q=64, lengths=Dense(seqlen_q=160))
    assert covered(heads_q=2, heads_kv=1, lengths=Dense(seqlen_q=65))
    assert not covered(heads_q=2, heads_kv=2, lengths=Dense(seqlen_q=65))
    assert not covered(heads_q=2, heads_kv=1, lengths=Dense(seqlen_q=64))
    assert covered(lengths=Dense(seqlen_q=162)), "six blocks, seen to fail"
    assert covered(lengths=Dense(seqlen_q=257))
    assert not covered(lengths=Dense(seqlen_q=768)), "three blocks of 256"
    assert not many_gradient_sums(Problem(heads_q=64, lengths=Dense(seqlen_q=160)))


# Problems on which an H200 with torch 2.11 wrote past lse, with each head_dim that it has a kernel for.
WROTE_PAST_LSE = (
    '{"lengths":{"seqlen_k":257},"head_dim":8}',
    '{"lengths":{"batch":6,"seqlen_q":598,"seqlen_k":1103},"head_dim":32}',
    '{"lengths":{"batch":5,"seqlen_q":706,"seqlen_k":1021},"causal":"bottom_right"}',
    '{"lengths":{"batch":3,"seqlen_q":53,"seqlen_k":595},"heads_q":13,"heads_kv":13,"head_dim":96}',
    '{"lengths":{"seqlen_k":622},"heads_q":8,"head_dim":80,"direction":"forward_backward"}',
    '{"lengths":{"seqlen_k":257},"head_dim":128}',
    '{"lengths":{"batch":6,"seqlen_q":241,"seqlen_k":97},"head_dim":150,"direction":"forward_backward"}',
    '{"lengths":{"seqlen_q":563,"seqlen_k":563},"heads_q":13,"heads_kv":13,"head_dim":174}',
    '{"lengths":{"batch":3,"seqlen_q":65,"seqlen_k":241},"heads_q":7,"heads_kv":7,"head_dim":192}',
    '{"lengths":{"seqlen_k":178},"heads_q":11,"heads_kv":11,"head_dim":255}',
    '{"lengths":{"batch":7,"seqlen_q":710,"seqlen_k":710},"head_dim":256,"causal":"top_left"}',
)
# And on which it keeps to it, but for the last two seen there: whole tiles, one block of keys, 212 blocks, packed.
KEPT_TO_LSE = (
    '{"dtype":"bfloat16","lengths":{"batch":8,"seqlen_q":113,"seqlen_k":1309},"head_dim":132}',
    '{"lengths":{"batch":8,"seqlen_q":511,"seqlen_k":1021},"head_dim":141,"causal":"bottom_right"}',
    '{"lengths":{"batch":8,"seqlen_q":150,"seqlen_k":1548},"heads_q":2,"heads_kv":2,"head_dim":120}',
    '{"lengths":{"batch":2,"seqlen_q":192,"seqlen_k":979},"heads_q":9,"heads_kv":3,"head_dim":80}',
    '{"lengths":{"batch":2,"seqlen_k":228},"heads_q":14,"head_dim":32}',
    '{"lengths":{"batch":3,"seqlen_q":33,"seqlen_k":53},"heads_q":11,"heads_kv":11,"head_dim":90}',
    '{"lengths":{"batch":2,"seqlen_q":77,"seqlen_k":513},"heads_q":53,"heads_kv":53,"head_dim":8}',
    '{"lengths":{"seqlens_q":[1],"seqlens_k":[257]},"head_dim":8}',
)


def test_where_torch_s_flash_writes_past_lse() -> None:
    assert [partial_tile_of_lse(Problem.from_json(text)) for text in WROTE_PAST_LSE] == [True] * len(WROTE_PAST_LSE)
    assert [partial_tile_of_lse(Problem.from_json(text)) for text in KEPT_TO_LSE] == [False] * len(KEPT_TO_LSE)
    one_query = Problem(lengths=Dense(batch=101, seqlen_k=257), heads_q=5, head_dim=8)
    assert partial_tile_of_lse(one_query), "five heads on one: 101 blocks, not 505"
    assert not partial_tile_of_lse(replace(one_query, heads_kv=5))


@pytest.mark.parametrize(
    ("head_dims", "tile"),
    [((1, 32), 16), ((33, 64), 8), ((65, 96), 16), ((97, 128), 4), ((129, 192), 8), ((193, 256), 4)],
)
def test_the_tile_of_lse(head_dims: tuple[int, int], tile: int) -> None:
    for head_dim in head_dims:
        whole = Problem(lengths=Dense(seqlen_q=tile, seqlen_k=300), head_dim=head_dim)
        assert not partial_tile_of_lse(whole)
        assert partial_tile_of_lse(replace(whole, lengths=Dense(seqlen_q=tile // 2, seqlen_k=300)))


def parts(blocks_q: int, blocks_k: int) -> int:
    """How many parts flash-attn makes of the keys on an H200: the fewest of nearly the best use of two waves' slots."""
    slots = 2 * 132
    if blocks_q >= 0.8 * slots:
        return 1
    use = {1: blocks_q / slots}
    for number in range(2, min(128, blocks_k) + 1):
        if math.ceil(blocks_k / number) < math.ceil(blocks_k / (number - 1)):
            use[number] = blocks_q * number / slots / math.ceil(blocks_q * number / slots)
    return min(number for number, share in use.items() if share >= 0.85 * max(use.values()))


@given(st.integers(1, 300), st.integers(1, 40))
def test_when_flash_attn_splits(blocks_q: int, blocks_k: int) -> None:
    """With one odd row of lse the problem is covered wherever it is split, and hardly anywhere else."""
    problem = Problem(lengths=Dense(batch=blocks_q, seqlen_q=1, seqlen_k=256 * blocks_k), head_dim=8)
    if blocks_q % 16 == 0:
        assert not partial_tile_of_lse(problem)
    elif parts(blocks_q, blocks_k) > 1:
        assert partial_tile_of_lse(problem)
    else:
        assert not partial_tile_of_lse(problem) or blocks_q > 132


def test_where_flex_decoding_has_no_configuration() -> None:
    """As on an H200 with torch 2.11, whose batch of two was dynamic."""

    def covered(queries: int, heads: int, **changes: Any) -> bool:
        plain = {"lengths": Dense(seqlen_q=queries, seqlen_k=queries), "heads_q": heads, "causal": "bottom_right"}
        return decoding_tile_beyond_mask_block(Problem(**{**plain, **changes}))

    assert covered(64, 8)
    assert covered(17, 8)
    assert covered(3, 64, head_dim=16)
    assert covered(64, 8, causal=None, window=(3, -1))
    assert not covered(16, 8)
    assert not covered(64, 8, causal=None)
    assert not covered(64, 8, lengths=Dense(batch=2, seqlen_q=64, seqlen_k=64))
    assert not covered(128, 8)
    assert not covered(127, 1)
    assert not covered(63, 15, heads_kv=5), "a group of three"


# Problems of which an H200 with torch 2.11 and cuDNN 9.19 gave so many elements of dq as NaN.
NAN_IN_DQ = {
    '{"lengths":{"seqlen_q":63,"seqlen_k":64},"head_dim":96,"window":[0,-1],"scale":1.0,'
    '"direction":"forward_backward"}': 96,
    '{"lengths":{"batch":2,"seqlen_q":64,"seqlen_k":64},"heads_q":14,"heads_kv":14,"head_dim":128,'
    '"causal":"bottom_right","window":[640,-1],"scale":0.5,"seed":65535,"direction":"forward_backward"}': 896,
}


@pytest.mark.parametrize("text", NAN_IN_DQ)
def test_cudnn_s_dq_is_nan_where_a_key_past_the_end_overflows(text: str) -> None:
    """The page's rule gives exactly the rows that were seen: exp(-lse) |delta|, of a key that scores 0, is infinite."""
    problem = Problem.from_json(text)
    assert low_rows_and_half_a_tile_of_keys(problem)
    tensors = make_tensors(problem)
    right = reference(problem, tensors)
    assert right.lse is not None
    delta = (right.out * tensors.dout.double()).sum(-1).transpose(1, 2)
    rows = (-right.lse).exp() * delta.abs() > torch.finfo(torch.float16).max
    assert int(rows.sum()) * problem.head_dim == NAN_IN_DQ[text]


def test_where_cudnn_s_keys_end_in_a_tile_and_scores_may_be_low() -> None:
    """As on an H200: no causal problem, no other number of keys, bfloat16 only far below what float16 takes."""

    def covered(seqlen_k: int = 64, **changes: Any) -> bool:
        plain = {"lengths": Dense(seqlen_q=64, seqlen_k=seqlen_k), "scale": 1.0, "direction": "forward_backward"}
        return low_rows_and_half_a_tile_of_keys(Problem(**{**plain, **changes}))

    assert all(covered(length) for length in (64, 192, 320, 448, 576, 1088))
    assert not any(covered(length) for length in (16, 32, 63, 65, 96, 127, 128, 160, 256, 384))
    assert covered(192, causal="bottom_right")
    assert not covered(causal="bottom_right")
    assert not covered(192, causal="top_left")
    assert not covered(direction="forward")
    assert not covered(lengths=Varlen(seqlens_q=(64,), seqlens_k=(64,)))
    assert not covered(scale=None), "scores of a standard deviation of 1"
    assert not covered(values="small")
    assert covered(scale=None, values="opposed")
    assert not covered(dtype="bfloat16")
    assert not covered(dtype="bfloat16", scale=None, values="opposed", head_dim=32)
    assert covered(dtype="bfloat16", scale=None, values="opposed", head_dim=128)


@pytest.mark.parametrize(("seqlens_k", "few"), [((15,), True), ((16,), False), ((0, 16), False), ((64, 1), True)])
def test_fewer_keys_than_a_vector_has_elements(seqlens_k: tuple[int, ...], few: bool) -> None:
    lengths = Varlen(seqlens_q=(1,) * len(seqlens_k), seqlens_k=seqlens_k)
    assert few_keys(Problem(lengths=lengths)) == few
