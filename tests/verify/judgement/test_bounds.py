"""F is a bound: finite and not negative for any problem, as wide as the dtype's roundings ask, and true.

True means that correct kernels stay below it. Here a few hundred drawn problems are put to the control group; the
campaign of 100,000 from which LAMBDA and R2_LIMIT come is run on its own, see docs/numerics.md. That F is not too wide
either is tests/verify/judgement/test_sharpness.py.
"""

from collections import Counter
from dataclasses import replace

import honest
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from fa2verify.kernels.kernel import ScoreDtype
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.reference import outputs, steps
from fa2verify.kernels.tensors import make_tensors
from fa2verify.strategies.problems import Size, problems
from fa2verify.verify.judgement.bounds import UNIT_ROUNDOFF, Rounding, bounds
from fa2verify.verify.judgement.judge import judge
from fa2verify.verify.judgement.measure import R2_LIMIT
from fa2verify.verify.judgement.truth import Truth

SIZE = Size(max_seqlen=130, max_scores=2**13, max_batch=4, max_heads=4, max_head_dim=160)
KINDS: tuple[ScoreDtype, ...] = ("fp32", "dtype")
CALL = Problem(lengths=Dense(batch=2, seqlen_q=33, seqlen_k=40), heads_q=4, heads_kv=2, direction="forward_backward")


def found(problem: Problem, kind: ScoreDtype = "fp32", precision: str = "fp64") -> dict[str, Tensor]:
    parts = list(steps(problem, make_tensors(problem), precision))  # type: ignore[arg-type]
    return {str(name): bound for name, bound in bounds(problem, parts, kind).items()}


@settings(max_examples=200, database=None, derandomize=True, deadline=None)
@given(problems(lambda _: (), size=SIZE))
def test_it_is_finite_and_not_negative(problem: Problem) -> None:
    parts = list(steps(problem, make_tensors(problem)))
    right = outputs(problem, parts)
    for kind in KINDS:
        every = bounds(problem, parts, kind)
        assert list(every) == (["out", "lse", "dq", "dk", "dv"] if problem.backward else ["out", "lse"])
        for name, bound in every.items():
            assert bound.shape == getattr(right, name).shape
            assert bound.dtype == torch.float64
            assert bound.isfinite().all(), f"{name}, {kind}"
            assert (bound >= 0).all(), f"{name}, {kind}"


@settings(max_examples=100, database=None, derandomize=True, deadline=None)
@given(problems(lambda _: (), size=SIZE))
def test_a_result_rounded_once_is_inside(problem: Problem) -> None:
    """No kernel can do better than half a last place, u |x|, so F must not be smaller, nor than half a subnormal."""
    parts = list(steps(problem, make_tensors(problem)))
    right = outputs(problem, parts)
    for name, bound in bounds(problem, parts, "fp32").items():
        exact = getattr(right, name)
        finite = exact.isfinite()
        stored = exact.float() if name == "lse" else exact.to(getattr(torch, problem.dtype))
        beyond = stored.double().isinf() & finite  # overflow is R0's
        error = (stored.double() - exact).abs()[finite & ~beyond]
        assert (error <= bound[finite & ~beyond]).all(), name


def test_plain_kernels_are_allowed_more_than_flash_kernels() -> None:
    flash, plain = found(CALL), found(CALL, "dtype")
    for name in flash:
        assert (plain[name] >= flash[name]).all(), name
        assert float(plain[name].median()) > 1.5 * float(flash[name].median()), name


def test_it_scales_with_the_unit_roundoff() -> None:
    """The same tensors taken for bf16 and for fp16: where the dtype's roundings rule, F is eight times as large."""
    part = next(iter(steps(CALL, make_tensors(CALL))))
    ratio = UNIT_ROUNDOFF["bfloat16"] / UNIT_ROUNDOFF["float16"]
    assert ratio == 8
    fine, coarse = Rounding(part, "fp32"), Rounding(replace(part, problem=replace(CALL, dtype="bfloat16")), "fp32")
    for name in ("out", "dq", "dk", "dv"):
        of = getattr(coarse, name) / getattr(fine, name)
        assert float(of.max()) <= ratio * (1 + 1e-12), name
        # What both share, fp32's arithmetic, is at most a third of fp16's F: 8 - 7 / 3 > 5.6.
        assert float(of.median()) > 0.7 * ratio, name
    assert torch.equal(coarse.lse, fine.lse), "lse is fp32 whatever the dtype"


@pytest.mark.parametrize("kind", KINDS)
def test_it_grows_with_the_values(kind: ScoreDtype) -> None:
    """V and dO twice as large: out and dV twice as far off, dQ and dK up to four times, the weights as before."""
    tensors = make_tensors(CALL)
    twice = replace(tensors, v=2 * tensors.v, dout=2 * tensors.dout)
    small, large = (bounds(CALL, list(steps(CALL, each)), kind) for each in (tensors, twice))
    for name, factor in (("out", 2), ("dv", 2), ("dq", 4), ("dk", 4)):
        of = large[name] / small[name]  # type: ignore[index]
        assert float(of.max()) <= factor * (1 + 1e-12), name
        # eta, what a subnormal loses, does not grow.
        assert float(of.median()) > 0.95 * factor, name


def test_fp32_gives_the_same_bounds() -> None:
    for name, bound in found(CALL, precision="fp32").items():
        # A thousandth of F turns no verdict: correct kernels stay a tenth of it below R2's limit (docs/numerics.md).
        assert torch.allclose(bound.double(), found(CALL)[name], rtol=1e-3, atol=0), name


def test_values_that_tie_roundings_together_get_the_worst_case() -> None:
    """For the same tensors, F is larger if the family says that its roundings are not independent."""
    free_problem = replace(CALL, lengths=Dense(seqlen_q=256, seqlen_k=256))
    tensors = make_tensors(free_problem)
    tied_problem = replace(free_problem, values="tied_keys")
    free, bound = (bounds(problem, list(steps(problem, tensors)), "fp32") for problem in (free_problem, tied_problem))
    for name in ("out", "dq", "dk", "dv"):
        assert (bound[name] >= free[name]).all(), name
        assert float(bound[name].median()) > 1.2 * float(free[name].median()), name


def test_a_single_key_ties_roundings_together() -> None:
    """Found by a campaign: every query has the same row of O, rounded alike, and D's errors add up in dK."""
    problem = Problem(
        lengths=Varlen(seqlens_q=(50,), seqlens_k=(1,)),
        heads_q=8,
        head_dim=8,
        dropout=0.1,
        values="shifted_mean",
        direction="forward_backward",
    )
    drawn(Counter(), {}, problem)


def test_nothing_to_be_off_by() -> None:
    """A row that sees no key is bounded by what is lost in storage alone, and lse by fp32's."""
    problem = Problem(
        lengths=Varlen(seqlens_q=(3, 0, 4), seqlens_k=(0, 2, 2)), causal="bottom_right", direction="forward_backward"
    )
    every = found(problem)
    assert float(every["out"][:5].max()) <= 2.0**-25 * (1 + 2 * 5)
    assert float(every["lse"].max()) < 1e-4


def drawn(count: Counter[str], worst: dict[str, float], problem: Problem) -> None:
    tensors = make_tensors(problem)
    truth = Truth.of(problem, tensors)
    for kernel in honest.HONEST:
        if kernel.unsupported(problem):
            continue
        judgement = judge(problem, kernel, kernel(problem, tensors), truth)
        count[kernel.name] += 1
        assert judgement.passed, f"{kernel.name}: {judgement.rule}: {judgement.message}"
        largest = max((one.bound_units for one in judgement.comparisons), default=0.0)
        assert largest <= R2_LIMIT
        worst[kernel.name] = max(worst.get(kernel.name, 0.0), largest)


@pytest.mark.parametrize("varlen", [False, True])
def test_correct_kernels_stay_inside(varlen: bool) -> None:
    """150 drawn problems, dense and varlen each, on ten correct kernels."""
    count: Counter[str] = Counter()
    worst: dict[str, float] = {}
    settings(max_examples=150, database=None, derandomize=True, deadline=None)(
        given(problem=problems(lambda _: (), varlen=varlen, size=SIZE))(lambda problem: drawn(count, worst, problem))
    )()
    assert set(count) == {kernel.name for kernel in honest.HONEST}
    assert min(count.values()) >= 75
    # A bound that nothing comes near to is none: every kernel uses at least a fifth of what it is allowed.
    assert min(worst.values()) > R2_LIMIT / 5, worst
