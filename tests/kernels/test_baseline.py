"""The baseline is the reference's attention in the kernel's dtype: in fp64 only fp64's roundings are between them."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from rowwise import assert_close, tolerances

from fa2verify.kernels.baseline import baseline
from fa2verify.kernels.features import FEATURES, features
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.reference import reference
from fa2verify.kernels.tensors import Tensors, make_tensors
from fa2verify.strategies.problems import Size, problems

SMALL = Size(max_seqlen=48, max_scores=6000, max_batch=3, max_heads=4)


def in_fp64(tensors: Tensors) -> Tensors:
    slopes = tensors.alibi_slopes
    return replace(
        tensors,
        **{name: getattr(tensors, name).double() for name in ("q", "k", "v", "dout")},
        alibi_slopes=None if slopes is None else slopes.double(),
    )


def test_in_fp64_it_is_the_reference() -> None:
    met: set[str] = set()

    @settings(max_examples=200, database=None, derandomize=True, deadline=None)
    @given(problems(lambda _: (), size=SMALL))
    def compare(problem: Problem) -> None:
        met.update(features(problem))
        tensors = make_tensors(problem)
        found = baseline(problem, in_fp64(tensors))
        assert found.lse is None
        allowed = tolerances(problem, tensors)
        del allowed["lse"]
        expected = reference(problem, tensors)
        assert (found.dq is None) == (expected.dq is None)
        assert_close(found, expected, allowed)

    compare()
    assert met == set(FEATURES)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_it_computes_in_the_problems_dtype(dtype: str) -> None:
    """Scores and probabilities are rounded too: PyTorch's fused softmax would be a much tighter baseline."""
    problem = Problem(dtype=dtype, lengths=Dense(seqlen_q=1, seqlen_k=33), direction="forward_backward")  # type: ignore[arg-type]
    tensors = make_tensors(problem)
    found = baseline(problem, tensors)
    for output in (found.out, found.dq, found.dk, found.dv):
        assert output is not None
        assert output.dtype == tensors.q.dtype
    scores = (tensors.q.transpose(1, 2) @ (tensors.k * 0.125).transpose(1, 2).mT)[0, 0]
    assert torch.equal(found.out[0, 0], torch.softmax(scores, -1) @ tensors.v[0, :, 0])


def test_rows_that_see_nothing_are_zero_and_not_nan() -> None:
    for lengths in (
        Dense(seqlen_q=5, seqlen_k=2),
        Dense(seqlen_q=3, seqlen_k=0),
        Varlen(seqlens_q=(4, 2), seqlens_k=(1, 0)),
    ):
        problem = Problem(lengths=lengths, causal="bottom_right", head_dim=8, direction="forward_backward")
        tensors = make_tensors(problem)
        found, right = baseline(problem, tensors), reference(problem, tensors)
        for name in ("out", "dq", "dk", "dv"):
            output = getattr(found, name)
            assert output.isfinite().all()
            assert (output[getattr(right, name) == 0] == 0).all()


def test_inputs_are_left_alone() -> None:
    problem = Problem(
        lengths=Dense(seqlen_q=5, seqlen_k=6), dropout=0.2, alibi="per_head", direction="forward_backward"
    )
    tensors, again = make_tensors(problem), make_tensors(problem)
    baseline(problem, tensors)
    for name in ("q", "k", "v", "dout", "alibi_slopes"):
        assert torch.equal(getattr(tensors, name), getattr(again, name))
        assert not getattr(tensors, name).requires_grad
