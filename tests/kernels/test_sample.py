"""A sample is a problem of its own, and what is right for it is right for its part of the whole."""

from dataclasses import replace

import pytest
import torch
from rowwise import assert_close, tolerances

from fa2verify.kernels import sample as module
from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.reference import reference
from fa2verify.kernels.sample import pieces_k, pieces_lse, pieces_q, sample, starts
from fa2verify.kernels.sampled_values import rows
from fa2verify.kernels.tensors import Tensors, make_tensors
from fa2verify.verify.judgement.sampled import of_sample
from fa2verify.verify.run.large_problems import LARGE_PROBLEMS

MANY = Problem(
    values="sampled", lengths=Dense(seqlen_q=200, seqlen_k=7), heads_q=2, head_dim=8, direction="forward_backward"
)
BATCH = replace(MANY, lengths=Dense(batch=40, seqlen_q=3, seqlen_k=5), heads_kv=2)
WINDOW = replace(
    MANY, lengths=Dense(seqlen_q=150, seqlen_k=150), heads_kv=2, layout="qkv_packed", window=(6, 0), alibi="per_head"
)
# Queries before the first key, and a mask that both limit.
UNEQUAL = replace(WINDOW, lengths=Dense(batch=2, seqlen_q=150, seqlen_k=90), layout="kv_packed", causal="bottom_right")
WHOLE = replace(MANY, lengths=Dense(batch=3, seqlen_q=20, seqlen_k=31), causal="top_left", softcap=2.0, layout="sliced")
BIAS = replace(MANY, alibi="per_head")
PACKED = replace(MANY, lengths=Varlen(seqlens_q=(1, 130, 0, 20, 40), seqlens_k=(5, 6, 7, 0, 9)), layout="kv_packed")
PACKED_WINDOW = replace(UNEQUAL, lengths=Varlen(seqlens_q=(1, 130, 0, 20), seqlens_k=(90, 160, 7, 0)))
KINDS = {
    "queries": MANY,
    "sequences": BATCH,
    "window": WINDOW,
    "window, unequal": UNEQUAL,
    "other masks": WHOLE,
    "ALiBi": BIAS,
    "packed": PACKED,
    "packed, window": PACKED_WINDOW,
}


@pytest.fixture(autouse=True)
def _small_limits(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "large" not in request.fixturenames:
        monkeypatch.setattr(module, "ELEMENTS", (2**9, 2**11))
        monkeypatch.setattr(module, "COUNTS", (2**5,))


@pytest.mark.parametrize("problem", KINDS.values(), ids=KINDS)
def test_the_sample_of_the_right_answer_is_the_right_answer_of_the_sample(problem: Problem) -> None:
    tensors = make_tensors(problem)
    segments = sample(problem)
    whole = reference(problem, tensors)
    assert whole.lse is not None
    assert whole.dq is not None
    assert whole.dk is not None
    assert whole.dv is not None
    part = of_sample(problem, segments)
    of_part = Tensors(
        q=torch.cat(pieces_q(problem, tensors.q, segments)),
        k=torch.cat(pieces_k(problem, tensors.k, segments)),
        v=torch.cat(pieces_k(problem, tensors.v, segments)),
        dout=torch.cat(pieces_q(problem, tensors.dout, segments)),
        cu_seqlens_q=torch.tensor(starts(part.seqlens_q), dtype=torch.int32),
        cu_seqlens_k=torch.tensor(starts(part.seqlens_k), dtype=torch.int32),
        max_seqlen_q=max(part.seqlens_q),
        max_seqlen_k=max(part.seqlens_k),
        alibi_slopes=tensors.alibi_slopes,
    )
    found = Outputs(
        torch.cat(pieces_q(problem, whole.out, segments)),
        torch.cat(pieces_lse(problem, whole.lse, segments), dim=-1),
        torch.cat(pieces_q(problem, whole.dq, segments)),
        torch.cat(pieces_k(problem, whole.dk, segments)),
        torch.cat(pieces_k(problem, whole.dv, segments)),
    )
    assert_close(found, reference(part, of_part), tolerances(replace(problem, layout="plain"), tensors))
    for piece in (*pieces_q(problem, whole.dq, segments), *pieces_k(problem, whole.dk, segments)):
        piece.zero_()
    assert not whole.dq.any(), "the gradient of out is 0 beyond the sample"
    assert not whole.dk.any()


@pytest.mark.parametrize("problem", KINDS.values(), ids=KINDS)
def test_it_is_a_part_in_which_no_key_is_twice(problem: Problem) -> None:
    segments = sample(problem)
    keys = [(segment.sequence, key) for segment in segments for key in segment.keys]
    queries = [(segment.sequence, row) for segment in segments for run in segment.queries for row in run]
    assert len(set(keys)) == len(keys)
    assert len(set(queries)) == len(queries)
    assert queries == sorted(queries)
    assert 0 < len(queries) < sum(problem.seqlens_q) or problem in (WHOLE, BIAS)


def test_it_has_the_ends_and_both_sides_of_every_limit() -> None:
    (segment,) = sample(MANY)
    taken = {row for run in segment.queries for row in run}
    # 2^9 and 2^11 elements in rows of 2 * 8.
    assert taken >= {0, 199, 31, 32, 33, 127, 128, 129}
    sequences = {segment.sequence for segment in sample(BATCH)}
    # 2^9 elements are 32 rows, the end of sequence 10 of q and 6 of k; 2^5 of batch * heads are 16 sequences.
    assert sequences >= {0, 39, 10, 6, 15, 16, 31, 32}
    # In rows of 3 * 2 * 8, of which each token of a packed tensor has as many, 2^9 elements are 10, 2^11 are 42.
    packed = replace(MANY, lengths=Dense(seqlen_q=200, seqlen_k=200), heads_kv=2, layout="qkv_packed")
    (segment,) = sample(packed)
    assert {row for run in segment.queries for row in run} >= {9, 10, 11, 41, 42, 43, 31, 32, 127, 128}


def test_the_same_sample_every_time_and_another_for_another_seed() -> None:
    assert sample(MANY) == sample(MANY)
    assert len({sample(replace(MANY, seed=seed)) for seed in range(8)}) > 1


def test_sampled_values_repeat_and_the_gradient_of_out_is_that_of_the_sample() -> None:
    long = replace(MANY, lengths=Dense(seqlen_q=260, seqlen_k=3), heads_q=128, heads_kv=1, head_dim=256)
    period = rows(128 * 256)
    assert period == 127
    tensors = make_tensors(long)
    assert torch.equal(tensors.q[0, period : 2 * period], tensors.q[0, :period])
    assert not torch.equal(tensors.q[0, 1:period], tensors.q[0, : period - 1])
    segments = sample(long)
    kept = torch.cat(pieces_q(long, tensors.dout, segments))
    assert int((kept != 0).sum()) == int((tensors.dout != 0).sum())
    assert kept.any(-1).all()


@pytest.mark.parametrize("large", LARGE_PROBLEMS.values(), ids=LARGE_PROBLEMS)
def test_a_wrapped_index_finds_other_values_in_every_large_problem(large: Problem) -> None:
    """Else a kernel whose index wraps could be right by luck."""
    for heads, lengths in ((large.heads_q, large.seqlens_q), (large.heads_kv, large.seqlens_k)):
        row, tokens = heads * large.head_dim, sum(lengths)
        for elements in module.ELEMENTS:
            shift, within = divmod(elements, row)
            assert within or shift >= tokens or shift % rows(row), "values repeat just as the index wraps"


@pytest.mark.parametrize("large", LARGE_PROBLEMS.values(), ids=LARGE_PROBLEMS)
def test_the_sample_of_a_large_problem_is_small_and_reaches_its_end(large: Problem) -> None:
    segments = sample(large)
    part = of_sample(large, segments)
    assert part.scores <= 2**21
    assert sum(part.seqlens_k) * large.heads_kv * large.head_dim <= 2**26
    last = segments[-1]
    assert (last.sequence, last.queries[-1].stop) == (large.batch - 1, large.seqlens_q[-1])
    assert last.keys.stop == large.seqlens_k[-1]
