"""Blocks are the sequences of the problem, without a copy, and joined they are the problem's tensors again."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.sequences import blocks, join, join_rows
from fa2verify.kernels.tensors import make_tensors
from fa2verify.strategies.problems import Size, problems

SMALL = Size(max_seqlen=40, max_scores=4000, max_batch=4, max_heads=4, max_head_dim=40)
VARLEN = Problem(lengths=Varlen(seqlens_q=(3, 0, 2), seqlens_k=(1, 4, 2)), heads_q=4, heads_kv=2, head_dim=8)
DENSE = replace(VARLEN, lengths=Dense(batch=3, seqlen_q=5, seqlen_k=7))


@settings(max_examples=200, database=None, derandomize=True, deadline=None)
@given(problems(lambda _: (), size=SMALL))
def test_joined_blocks_are_the_tensors(problem: Problem) -> None:
    tensors = make_tensors(problem)
    parts = list(blocks(problem, tensors))
    for name in ("q", "k", "v", "dout"):
        # Past the last sequence there is NaN, and no block.
        expected = getattr(tensors, name).nan_to_num(nan=0.0)
        assert torch.equal(join(problem, [getattr(part, name) for part in parts]), expected)
    rows = join_rows(problem, [part.q[..., 0] for part in parts], past=2.0)
    assert torch.equal(rows, tensors.q[..., 0].transpose(-1, -2).nan_to_num(nan=2.0))


@pytest.mark.parametrize("problem", [VARLEN, DENSE])
def test_blocks_are_views(problem: Problem) -> None:
    """Gradients of a block are gradients of the tensors, and a large problem is not copied."""
    tensors = make_tensors(problem)
    for part in blocks(problem, tensors):
        for name in ("q", "k", "v", "dout"):
            view, whole = getattr(part, name), getattr(tensors, name)
            assert view.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


def test_varlen_is_a_block_a_sequence() -> None:
    tensors = make_tensors(VARLEN)
    parts = list(blocks(VARLEN, tensors))
    assert [part.first for part in parts] == [0, 1, 2]
    assert [tuple(part.q.shape) for part in parts] == [(1, 4, 3, 8), (1, 4, 0, 8), (1, 4, 2, 8)]
    assert [tuple(part.k.shape) for part in parts] == [(1, 2, 1, 8), (1, 2, 4, 8), (1, 2, 2, 8)]
    assert torch.equal(parts[2].v[0, 1, 0], tensors.v[5, 1])
    assert torch.equal(parts[2].dout[0, 3, 1], tensors.dout[4, 3])


def test_dense_is_one_block() -> None:
    tensors = make_tensors(DENSE)
    (part,) = blocks(DENSE, tensors)
    assert part.first == 0
    assert part.q.shape == (3, 4, 5, 8)
    assert part.k.shape == part.v.shape == (3, 2, 7, 8)
    assert torch.equal(part.k[2, 1, 6], tensors.k[2, 6, 1])


def test_slopes_are_those_of_the_sequence() -> None:
    assert all(part.slopes is None for part in blocks(VARLEN, make_tensors(VARLEN)))
    for problem, shapes in ((DENSE, [(1, 4)]), (VARLEN, [(1, 4)] * 3)):
        per_head = replace(problem, alibi="per_head")
        tensors = make_tensors(per_head)
        assert tensors.alibi_slopes is not None
        found = [part.slopes for part in blocks(per_head, tensors)]
        assert [tuple(slopes.shape) for slopes in found if slopes is not None] == shapes
        assert all(slopes is not None and torch.equal(slopes[0], tensors.alibi_slopes) for slopes in found)
    each = replace(VARLEN, alibi="per_batch_head")
    tensors = make_tensors(each)
    assert tensors.alibi_slopes is not None
    for index, part in enumerate(blocks(each, tensors)):
        assert part.slopes is not None
        assert torch.equal(part.slopes, tensors.alibi_slopes[index][None])
    (part,) = blocks(replace(each, lengths=DENSE.lengths), make_tensors(replace(each, lengths=DENSE.lengths)))
    assert part.slopes is not None
    assert part.slopes.shape == (3, 4)


def test_rows_of_varlen_lie_one_after_the_other() -> None:
    rows = [torch.arange(float(4 * length)).reshape(1, 4, length) for length in (3, 0, 2)]
    joined = join_rows(VARLEN, rows)
    assert joined.shape == (4, 5)
    assert joined[1].tolist() == [3, 4, 5, 2, 3]
