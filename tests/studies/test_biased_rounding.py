"""The condition of arXiv 2510.04212 is what the family paired_keys meets, and its mechanism is what it shows."""

from dataclasses import replace

import torch
from rounding import Flash
from study import error

from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.reference import Steps, reference, steps
from fa2verify.kernels.tensors import Tensors, make_tensors

PROBLEM = Problem(
    dtype="bfloat16", lengths=Dense(seqlen_q=64, seqlen_k=64), heads_q=8, heads_kv=8, values="paired_keys"
)


def posed() -> tuple[Tensors, Steps]:
    tensors = make_tensors(PROBLEM)
    (part,) = steps(PROBLEM, tensors)
    return tensors, part


def test_two_keys_are_one_and_outweigh_the_others() -> None:
    """The others' sum is below bf16's half place, 2^-9 of the two, and above fp32's, 2^-24, in nearly all rows."""
    tensors, part = posed()
    assert torch.equal(tensors.k[:, 0], tensors.k[:, 1])
    others = part.p[..., 2:].sum(-1) / part.p[..., :2].sum(-1)
    between = (others > 2.0**-24) & (others < 2.0**-9)
    assert float(between.double().mean()) > 0.95


def test_v_has_one_sign() -> None:
    assert bool((posed()[0].v < 0).all())


def bias(attention: Flash, tensors: Tensors) -> float:
    return error("out", "bfloat16", attention(PROBLEM, tensors), reference(PROBLEM, tensors)).bias


def test_sums_that_lie_half_way_all_go_the_way_of_v() -> None:
    """Half of the sums of two bf16 numbers of one exponent lie half-way: u times the power of two below, at least u / 2
    of the sum. So the mean is up to u / 2, and 0 if they cancelled, within u / sqrt(3) over the root of 512 pairs (one
    in each column of each head): 0.1 u is four of these.
    """
    tensors, _ = posed()
    assert -0.5 < bias(Flash("everything"), tensors) < -0.1
    mirrored = replace(tensors, v=-tensors.v)
    assert bias(Flash("everything"), mirrored) == -bias(Flash("everything"), tensors)


def test_the_shift_takes_most_of_it_away_and_fp32_has_none_of_it() -> None:
    tensors, _ = posed()
    whole = abs(bias(Flash("everything"), tensors))
    assert abs(bias(Flash("everything", shift=True), tensors)) < whole / 2
    assert abs(bias(Flash(), tensors)) < whole / 2
