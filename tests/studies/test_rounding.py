"""The studies' flash attention rounds where it says: the honest kernel's bits, and each variant's own roundings."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from honest import flash_64
from rounding import Flash, Rounds, gradients

from fa2verify.kernels.baseline import baseline
from fa2verify.kernels.problem import Dense, DType, Problem, Varlen
from fa2verify.kernels.reference import reference
from fa2verify.kernels.tensors import make_tensors
from fa2verify.kernels.values import Family
from fa2verify.verify.judgement.measure import R2_LIMIT
from fa2verify.verify.judgement.truth import Truth

SMALL = Problem(lengths=Dense(seqlen_q=40, seqlen_k=150), heads_q=2, heads_kv=2, direction="forward_backward")
HALF = 2.0**-8  # half a place of bf16, relative, at most
ROUNDS: tuple[Rounds, ...] = ("probabilities", "state", "everything")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("values", ["randn", "outliers"])
def test_rounding_probabilities_alone_is_the_honest_kernel(dtype: DType, values: Family) -> None:
    problem = replace(SMALL, dtype=dtype, values=values)
    tensors = make_tensors(problem)
    found, expected = Flash()(problem, tensors).named(), flash_64(problem, tensors).named()
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, expected[name]), name


def differences(rounds: Rounds, width: int) -> float:
    problem = Problem(dtype="bfloat16", lengths=Dense(seqlen_q=64, seqlen_k=512))
    tensors = make_tensors(problem)
    out = Flash(rounds, width)(problem, tensors).out.double()
    return float((out - reference(problem, tensors).out).square().mean().sqrt())


def test_each_way_rounds_more_than_the_one_before() -> None:
    errors = [differences(rounds, 16) for rounds in ROUNDS]
    assert all(more > less for less, more in pairwise(errors)), errors


def test_only_a_rounded_state_minds_how_many_blocks_there_are() -> None:
    """Sixteen times as many blocks are as many more roundings of O: independent, up to four times the error.

    P's own roundings are as many either way, so that in fp32 the error is the same but for their luck: of
    4,096 elements with some 512 roundings each, far less than a tenth.
    """
    for rounds in ROUNDS:
        few, many = differences(rounds, 256), differences(rounds, 16)
        if rounds == "probabilities":
            assert few == pytest.approx(many, rel=0.1)
        else:
            assert few < many <= 4 * few


def test_rounding_everything_on_one_block_is_within_the_bound_for_plain_operations() -> None:
    """F for kernels whose scores are rounded is made for these roundings, as long as no state is carried."""
    problem = Problem(dtype="bfloat16", lengths=Dense(seqlen_q=64, seqlen_k=64), values="large")
    tensors = make_tensors(problem)
    truth = Truth.of(problem, tensors)
    off = (Flash("everything")(problem, tensors).out.double() - truth.reference.out).abs()
    assert bool((off <= R2_LIMIT * truth.bounds("dtype")["out"]).all())
    assert not bool((off <= R2_LIMIT * truth.bounds("fp32")["out"]).all())


def test_a_repeated_maximum_is_shifted_away_from_one_whichever_sign_it_has() -> None:
    s = torch.tensor([[4.0, 1.0, 4.0], [-4.0, -4.0, -5.0], [4.0, 3.0, 3.0]])
    assert torch.equal(Flash(shift=True).subtracted(s), torch.tensor([8.0, 0.0, 4.0]))
    assert torch.equal(Flash().subtracted(s), torch.tensor([4.0, -4.0, 4.0]))


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_shifted_probabilities_are_below_one_where_the_maximum_repeats(sign: float) -> None:
    """Equal scores of +-4: without the shift they all weigh 1; with it exp(-4), whichever sign the scores have."""
    q, k, v = torch.full((1, 16), sign), torch.ones(8, 16), torch.ones(8, 16)
    weighed = []
    for shift in (False, True):
        out, lse = Flash("everything", shift=shift).forward(q, k, v, 0.25, torch.bfloat16)
        assert torch.equal(out, torch.ones(1, 16))
        weighed.append(lse)
    # Shifted, lse is of eight exp(-4), each rounded to bf16 by half a place at most, and its sum again.
    assert float(weighed[0]) == pytest.approx(4 * sign + torch.tensor(8.0).log().item(), abs=1e-6)
    assert 0 < abs(float(weighed[1] - weighed[0])) <= 2 * HALF * (1 + HALF)


@pytest.mark.parametrize(
    "wrong",
    [
        replace(SMALL, causal="bottom_right"),
        replace(SMALL, heads_kv=1),
        replace(SMALL, lengths=Dense(seqlen_k=0)),
        replace(SMALL, lengths=Varlen(seqlens_q=(3,), seqlens_k=(3,))),
    ],
)
def test_other_attention_is_refused(wrong: Problem) -> None:
    with pytest.raises(ValueError, match="the studies' flash attention takes dense problems with keys,"):
        Flash()(wrong, make_tensors(wrong))


def test_what_dq_of_tied_keys_costs_is_the_rounding_of_out() -> None:
    """dQ is 0 there; with D from O as it was before it is stored, flash attention beats plain operations again."""
    problem = Problem(
        dtype="bfloat16", lengths=Dense(seqlen_q=128, seqlen_k=128), values="tied_keys", direction="forward_backward"
    )
    tensors = make_tensors(problem)
    exact, plain = reference(problem, tensors), baseline(problem, tensors)
    assert plain.dq is not None
    q, k, v, dout, unrounded = (
        x.transpose(1, 2).float() for x in (tensors.q, tensors.k, tensors.v, tensors.dout, exact.out)
    )
    stored, lse = Flash().forward(q, k, v, problem.softmax_scale, torch.bfloat16)
    from_stored, from_unrounded = (
        gradients(q, k, v, dout, out, lse, problem.softmax_scale, torch.bfloat16)[0].square().sum()
        for out in (stored, unrounded)
    )
    assert from_unrounded < plain.dq.float().square().sum() < from_stored
