"""Each decoy is caught where it differs, is "too_close" where it cannot, and is never "missed"."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.reference import outputs
from fa2verify.kernels.tensors import make_tensors
from fa2verify.strategies.problems import Size, problems
from fa2verify.verify.judgement.decoys import DECOYS, judge_decoys
from fa2verify.verify.judgement.judge import Judgement, judge
from fa2verify.verify.judgement.truth import Truth

SMALL = Size(max_seqlen=40, max_scores=4000, max_batch=3, max_heads=4)
# Two orders of adding a few dozen numbers near 1 in fp64.
FP64 = 64 * 2.0**-53
TELLING = Problem(
    lengths=Dense(seqlen_q=5, seqlen_k=9), head_dim=24, causal="bottom_right", direction="forward_backward"
)


@pytest.fixture
def kernel(made: Callable[..., Kernel], right: Any) -> Kernel:
    return made(right)


def fates(problem: Problem, kernel: Kernel) -> dict[str, str]:
    return dict(judge_decoys(problem, kernel, Truth.of(problem, make_tensors(problem))))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("lengths", [TELLING.lengths, Varlen(seqlens_q=(5, 2), seqlens_k=(9, 4))])
def test_a_telling_problem_catches_every_decoy(kernel: Kernel, dtype: Any, lengths: Dense | Varlen) -> None:
    problem = replace(TELLING, dtype=dtype, lengths=lengths)
    assert fates(problem, kernel) == dict.fromkeys(DECOYS, "caught")


@pytest.mark.parametrize(
    ("problem", "absent"),
    [
        (replace(TELLING, direction="forward"), {"no D term"}),
        (replace(TELLING, causal=None), {"other alignment"}),
        (replace(TELLING, causal=None, window=(2, 2)), {"other alignment"}),
        (replace(TELLING, lengths=Dense(seqlen_q=9, seqlen_k=9)), {"other alignment"}),
        (replace(TELLING, lengths=Varlen(seqlens_q=(9, 3), seqlens_k=(9, 3))), {"other alignment"}),
        (replace(TELLING, lengths=Varlen(seqlens_q=(9, 3), seqlens_k=(9, 4))), set()),
        (replace(TELLING, causal="top_left"), set()),
        (replace(TELLING, causal=None, direction="forward"), {"other alignment", "no D term"}),
    ],
)
def test_only_what_the_problem_can_ask(kernel: Kernel, problem: Problem, absent: set[str]) -> None:
    assert set(DECOYS) - set(fates(problem, kernel)) == absent


@pytest.mark.parametrize(
    ("problem", "too_close"),
    [
        # One key: its v is the mean of V, and no scale can move it.
        (Problem(lengths=Dense(seqlen_q=3, seqlen_k=1)), {"mean of V", "neighbouring scale"}),
        # No key, or no query: nothing to be wrong about. lse is -inf, and zeros are not.
        (Problem(lengths=Dense(seqlen_q=0, seqlen_k=3)), set(DECOYS) - {"other alignment", "no D term"}),
        (
            Problem(lengths=Dense(seqlen_q=2, seqlen_k=0)),
            {"mean of V", "last key dropped", "neighbouring scale"},
        ),
    ],
)
def test_too_close_to_tell(kernel: Kernel, problem: Problem, too_close: set[str]) -> None:
    kernel.gives_lse = kernel.gives_lse and problem.seqlens_k[0] != 1
    found = fates(problem, kernel)
    assert {name for name, fate in found.items() if fate == "too_close"} == too_close
    assert "missed" not in found.values()


def test_what_each_decoy_computes() -> None:
    problem = replace(TELLING, head_dim=8)
    truth = Truth.of(problem, make_tensors(problem))

    def decoy(name: str) -> Any:
        parts = DECOYS[name](truth)
        assert parts is not None
        return outputs(problem, parts)

    def right(**changes: Any) -> Any:
        changed = replace(problem, **changes)
        return Truth.of(changed, make_tensors(problem)).reference

    zeros = decoy("all zeros")
    assert all((getattr(zeros, name) == 0).all() for name in ("out", "lse", "dq", "dk", "dv"))
    # Query i of five sees the first 5 + i of nine keys, under bottom-right alignment.
    v = make_tensors(problem).v.double()
    for i in range(5):
        assert torch.allclose(decoy("mean of V").out[:, i], v[:, : 5 + i].mean(1), rtol=FP64, atol=FP64)
    # Dropping the last visible key is the diagonal one to the left: causal and a window that ends at -1, here of
    # one key less.
    shorter = replace(problem, lengths=Dense(seqlen_q=5, seqlen_k=8))
    tensors = make_tensors(problem)
    without = Truth.of(shorter, replace(tensors, k=tensors.k[:, :8], v=tensors.v[:, :8])).reference
    assert torch.allclose(decoy("last key dropped").out, without.out, rtol=FP64, atol=FP64)
    assert torch.allclose(decoy("other alignment").out, right(causal="top_left").out, rtol=0, atol=0)
    assert torch.allclose(decoy("neighbouring scale").out, right(scale=16**-0.5).out, rtol=FP64, atol=FP64)
    no_d = decoy("no D term")
    assert torch.equal(no_d.out, truth.reference.out)
    assert truth.reference.dv is not None
    assert truth.reference.dq is not None
    assert torch.equal(no_d.dv, truth.reference.dv)
    assert not torch.allclose(no_d.dq, truth.reference.dq, rtol=FP64, atol=FP64)


@settings(max_examples=150, database=None, derandomize=True, deadline=None)
@given(problems(lambda _: (), size=SMALL))
def drawn(kernel: Kernel, count: dict[str, dict[str, int]], problem: Problem) -> None:
    for name, fate in fates(problem, kernel).items():
        count.setdefault(name, {}).setdefault(fate, 0)
        count[name][fate] += 1


def test_none_is_ever_missed_and_each_is_often_caught(kernel: Kernel) -> None:
    """Of 150 drawn problems each decoy is caught on at least ten: a run can tell."""
    count: dict[str, dict[str, int]] = {}
    drawn(kernel, count)
    assert set(count) == set(DECOYS)
    for name, of in count.items():
        assert "missed" not in of, name
        assert of["caught"] >= 10, f"{name}: {of}"


def test_a_judge_that_lets_one_through_is_seen(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "missed" is measured without the rules: here they hold for everything, as if they were broken."""

    def lenient(*arguments: Any) -> Judgement:
        return replace(judge(*arguments), rule=None)

    monkeypatch.setattr("fa2verify.verify.judgement.decoys.judge", lenient)
    assert fates(TELLING, kernel) == dict.fromkeys(DECOYS, "missed")


def test_large_problems_are_left_to_the_kernel(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    problem = replace(TELLING, heads_q=4)
    monkeypatch.setattr("fa2verify.verify.judgement.decoys.MAX_SCORES", problem.scores)
    assert fates(problem, kernel)
    monkeypatch.setattr("fa2verify.verify.judgement.decoys.MAX_SCORES", problem.scores - 1)
    assert fates(problem, kernel) == {}
