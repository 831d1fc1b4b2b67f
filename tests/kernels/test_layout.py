"""Layouts have the strides they claim, and NaN in every gap."""

from dataclasses import replace
from itertools import pairwise
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from fa2verify.kernels.layout import empty_like_layout
from fa2verify.kernels.problem import Dense, Layout, Problem, Varlen
from fa2verify.kernels.tensors import TORCH_DTYPE, make_tensors
from fa2verify.strategies.problems import Size, problems

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
DENSE = Problem(lengths=Dense(batch=2, seqlen_q=5, seqlen_k=7), heads_q=4, heads_kv=2, head_dim=24)
VARLEN = replace(DENSE, lengths=Varlen(seqlens_q=(3, 0, 2), seqlens_k=(1, 4, 2)))
SQUARE = replace(DENSE, lengths=Dense(batch=2, seqlen_q=5, seqlen_k=5), heads_kv=4)
SMALL = Size(max_seqlen=40, max_scores=4000, max_batch=3, max_heads=4, max_head_dim=40)


def laid_out(problem: Problem, layout: Layout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    tensors = make_tensors(replace(problem, layout=layout))
    return tensors.q, tensors.k, tensors.v, tensors.dout


def strides(problem: Problem, layout: Layout) -> list[tuple[int, ...]]:
    return [tensor.stride() for tensor in laid_out(problem, layout)]


def storage(tensor: Tensor) -> Tensor:
    """Everything that lies in the tensor's memory, gaps too."""
    size = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.as_strided((size,), (1,), 0)


def test_plain_is_contiguous() -> None:
    assert all(tensor.is_contiguous() for tensor in laid_out(DENSE, "plain"))
    assert all(tensor.is_contiguous() for tensor in laid_out(VARLEN, "plain"))
    assert strides(DENSE, "plain") == [(480, 96, 24, 1), (336, 48, 24, 1), (336, 48, 24, 1), (480, 96, 24, 1)]


def test_qkv_packed_is_one_tensor() -> None:
    q, k, v, dout = laid_out(SQUARE, "qkv_packed")
    assert [tensor.stride() for tensor in (q, k, v)] == [(1440, 288, 24, 1)] * 3
    assert dout.stride() == (480, 96, 24, 1)
    assert len({tensor.untyped_storage().data_ptr() for tensor in (q, k, v)}) == 1
    assert [tensor.storage_offset() for tensor in (q, k, v)] == [0, 96, 192]


def test_kv_packed_is_one_tensor_beside_q() -> None:
    q, k, v, dout = laid_out(DENSE, "kv_packed")
    assert q.is_contiguous()
    assert dout.is_contiguous()
    assert k.stride() == v.stride() == (672, 96, 24, 1)
    assert k.untyped_storage().data_ptr() == v.untyped_storage().data_ptr()
    assert [tensor.storage_offset() for tensor in (k, v)] == [0, 48]


def test_packed_varlen_tensors_have_their_rows_apart() -> None:
    assert strides(replace(VARLEN, heads_kv=4, lengths=Varlen(seqlens_q=(3, 2), seqlens_k=(3, 2))), "qkv_packed") == [
        *[(288, 24, 1)] * 3,
        (96, 24, 1),
    ]
    assert strides(VARLEN, "kv_packed") == [(96, 24, 1), (96, 24, 1), (96, 24, 1), (96, 24, 1)]


def test_transposed_has_heads_before_rows() -> None:
    assert strides(DENSE, "transposed") == [(480, 24, 120, 1), (336, 24, 168, 1), (336, 24, 168, 1), (480, 24, 120, 1)]
    assert strides(VARLEN, "transposed") == [(24, 120, 1), (24, 168, 1), (24, 168, 1), (24, 120, 1)]


def test_sliced_has_a_row_stride_of_its_own_for_every_tensor() -> None:
    assert [stride[-2] for stride in strides(DENSE, "sliced")] == [32, 40, 48, 56]
    assert [stride[-2] for stride in strides(VARLEN, "sliced")] == [32, 40, 48, 56]
    assert len(set(strides(SQUARE, "sliced"))) == 4


def test_offset_begins_inside_its_memory() -> None:
    for problem in (DENSE, VARLEN):
        tensors = laid_out(problem, "offset")
        assert [tensor.storage_offset() for tensor in tensors] == [8, 16, 24, 32]
        assert all(tensor.is_contiguous() for tensor in tensors)
        # 16 bytes are what a kernel may ask of a pointer; an offset must not take that away.
        assert all(tensor.data_ptr() % 16 == 0 for tensor in tensors)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("problem", [DENSE, VARLEN, SQUARE])
def test_gaps_are_nan_and_nothing_else_is(problem: Problem, layout: Layout) -> None:
    if layout == "qkv_packed" and problem.seqlens_q != problem.seqlens_k:
        problem = SQUARE
    if layout == "tail":
        problem = VARLEN
    tensors = laid_out(problem, layout)
    if layout == "tail":
        assert all(tensor[-5:].isnan().all() for tensor in tensors)
        tensors = tuple(tensor[:-5] for tensor in tensors)  # type: ignore[assignment]
    for tensor in tensors:
        assert not tensor.isnan().any()
    memories: dict[int, list[Tensor]] = {}
    for tensor in tensors:
        memories.setdefault(tensor.untyped_storage().data_ptr(), []).append(tensor)
    gaps = 0
    for sharing in memories.values():
        memory = storage(sharing[0])
        used = sum(tensor.numel() for tensor in sharing)
        assert int(memory.isnan().sum()) == memory.numel() - used
        gaps += memory.numel() - used
    assert (gaps > 0) == (layout in ("sliced", "offset", "tail"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_changes_no_value(layout: Layout) -> None:
    packed = replace(SQUARE, lengths=Varlen(seqlens_q=(3, 0, 2), seqlens_k=(3, 0, 2)))
    for problem in (packed,) if layout == "tail" else (SQUARE, packed):
        for tensor, plain in zip(laid_out(problem, layout), laid_out(problem, "plain"), strict=True):
            assert torch.equal(tensor[: len(plain)], plain)


@settings(max_examples=150, database=None, derandomize=True, deadline=None)
@given(problems(lambda _: (), size=SMALL))
def test_any_problem_is_laid_out_without_overlap(problem: Problem) -> None:
    device = torch.device("cpu")
    tensors = empty_like_layout(problem, device)
    lead_q, lead_k = (
        ((sum(lengths) + problem.tail,) if problem.is_varlen else (problem.batch, lengths[0]))
        for lengths in (problem.seqlens_q, problem.seqlens_k)
    )
    expected = [
        (lead_q, problem.heads_q),
        (lead_k, problem.heads_kv),
        (lead_k, problem.heads_kv),
        (lead_q, problem.heads_q),
    ]
    for number, (tensor, (lead, heads)) in enumerate(zip(tensors, expected, strict=True)):
        assert tensor.shape == (*lead, heads, problem.head_dim)
        assert tensor.dtype == TORCH_DTYPE[problem.dtype]
        assert tensor.stride(-1) == 1 or tensor.numel() == 0 or problem.head_dim == 1
        assert tensor.isnan().all()
        # Sorted by stride, each dimension steps over all of the one inside it: no element lies twice.
        steps = sorted((step, size) for step, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1)
        if tensor.numel():
            assert all(outer >= inner * size for (inner, size), (outer, _) in pairwise(steps))
        # Written to one, the others stay.
        tensor.fill_(number)
    for number, tensor in enumerate(tensors):
        assert (tensor == number).all()
