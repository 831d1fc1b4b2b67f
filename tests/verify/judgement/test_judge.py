"""Each rule fails for an answer that breaks it and nothing else, and its message says what, where and by how much."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fa2verify.kernels.function import FunctionKernel
from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.tensors import make_tensors
from fa2verify.verify.judgement.judge import Judgement, judge, judged_outputs
from fa2verify.verify.judgement.measure import R2_LIMIT
from fa2verify.verify.judgement.truth import Truth

CALL = Problem(
    lengths=Dense(batch=2, seqlen_q=9, seqlen_k=12),
    heads_q=4,
    heads_kv=2,
    head_dim=16,
    direction="forward_backward",
)
OUTPUTS = ("out", "lse", "dq", "dk", "dv")
Make = Callable[..., Kernel]
Right = Callable[..., Outputs]


class Bench:
    """A problem with the right answer to it, for tests that spoil the answer."""

    def __init__(self, problem: Problem, made: Make, right: Right) -> None:
        tensors = make_tensors(problem)
        self.problem, self.kernel = problem, made(right)
        self.truth = Truth.of(problem, tensors)
        self.right = right(problem, tensors)

    def judge(self, **changed: Any) -> Judgement:
        return judge(self.problem, self.kernel, replace(self.right, **changed), self.truth)

    def spoilt(self, output: str, index: tuple[int, ...], value: float) -> Judgement:
        tensor = getattr(self.right, output).clone()
        tensor[index] = value
        return self.judge(**{output: tensor})

    def bound(self, output: str) -> Tensor:
        return self.truth.bounds("fp32")[output]  # type: ignore[index]


@pytest.fixture
def bench(made: Make, right: Right) -> Callable[[Problem], Bench]:
    return lambda problem: Bench(problem, made, right)


Benches = Callable[[Problem], Bench]


@pytest.mark.parametrize(
    "problem",
    [
        CALL,
        replace(CALL, dtype="bfloat16"),
        replace(CALL, lengths=Varlen(seqlens_q=(3, 0, 5), seqlens_k=(4, 2, 0)), causal="bottom_right"),
        replace(CALL, lengths=Dense(seqlen_q=0, seqlen_k=3)),
        replace(CALL, dropout=0.25, softcap=2.0, alibi="per_head"),
    ],
)
def test_the_right_answer_passes(bench: Benches, problem: Problem) -> None:
    judgement = bench(problem).judge()
    assert judgement.passed, judgement.message
    assert judgement.message == ""
    assert [error.output for error in judgement.errors] == list(OUTPUTS)
    # Rounded once: within half a unit in the last place, for every dtype and output.
    for error in judgement.errors:
        assert sum(error.ulps[1:]) == 0
        assert error.limit == R2_LIMIT


def test_a_kernel_owes_what_it_declares(made: Make, right: Right) -> None:
    silent, speaking = made(right, gives_lse=False), made(right)
    forward = replace(CALL, direction="forward")
    assert judged_outputs(CALL, speaking) == OUTPUTS
    assert judged_outputs(CALL, silent) == ("out", "dq", "dk", "dv")
    assert judged_outputs(forward, speaking) == ("out", "lse")
    assert judged_outputs(forward, silent) == ("out",)


# R0

TAIL = replace(CALL, lengths=Varlen(seqlens_q=(3, 0, 4), seqlens_k=(5, 2, 2)), layout="tail")


@pytest.mark.parametrize("value", [1e-7, float("nan"), float("inf"), -3.0])
@pytest.mark.parametrize("output", OUTPUTS)
def test_rows_past_the_last_sequence_are_zero(bench: Benches, output: str, value: float) -> None:
    judged = bench(TAIL)
    index = (2, 10) if output == "lse" else ((9 if output in ("dk", "dv") else 7), 1, 3)
    assert judged.judge().passed
    judgement = judged.spoilt(output, index, value)
    assert judgement.rule == f"R0 {output} past the last sequence"
    stored = float(getattr(judged.right, output).new_tensor(value))
    assert f"{output}{list(index)} is {stored:.6g}, not {'-inf' if output == 'lse' else 0}" in judgement.message
    assert f"ends before row {9 if output in ('dk', 'dv') else 7}" in judgement.message


def test_a_function_says_that_it_clears_the_tail() -> None:
    def clears(q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor, cu_seqlens_k: Tensor) -> None: ...

    problem = replace(TAIL, direction="forward", heads_q=2)
    (reason,) = FunctionKernel(clears, "clears").unsupported(problem)
    assert "lacks clears_tail = True" in reason
    assert FunctionKernel(clears, "clears").unsupported(replace(problem, layout="plain")) == ()
    clears.clears_tail = True  # type: ignore[attr-defined]
    assert FunctionKernel(clears, "clears").unsupported(problem) == ()


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_missing_output(bench: Benches, output: str) -> None:
    judgement = bench(CALL).judge(**{output: None})
    assert (judgement.rule, judgement.message) == (f"R0 {output} missing", f"{output} is None, not a tensor")
    assert judgement.errors == ()


@pytest.mark.parametrize("output", OUTPUTS)
def test_something_that_is_no_tensor(bench: Benches, output: str) -> None:
    assert bench(CALL).judge(**{output: [1.0]}).rule == f"R0 {output} missing"


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_wrong_shape(bench: Benches, output: str) -> None:
    one = bench(CALL)
    right = getattr(one.right, output)
    judgement = one.judge(**{output: right.transpose(0, 1)})
    shape = tuple(right.shape)
    assert judgement.rule == f"R0 {output} shape"
    assert judgement.message == f"{output} has shape {(shape[1], shape[0], *shape[2:])}, not {shape}"
    assert one.judge(**{output: right[..., None]}).rule == f"R0 {output} shape"


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_wrong_dtype(bench: Benches, output: str) -> None:
    one = bench(CALL)
    judgement = one.judge(**{output: getattr(one.right, output).double()})
    assert judgement.rule == f"R0 {output} dtype"
    expected = "torch.float32" if output == "lse" else "torch.float16"
    assert judgement.message == f"{output} is torch.float64, not {expected}"


@pytest.mark.parametrize("output", OUTPUTS)
def test_a_wrong_device(bench: Benches, output: str) -> None:
    one = bench(CALL)
    judgement = one.judge(**{output: getattr(one.right, output).to("meta")})
    assert (judgement.rule, judgement.message) == (f"R0 {output} device", f"{output} is on meta, not on cpu")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_value_that_is_not_finite(bench: Benches, output: str, value: float) -> None:
    one = bench(CALL)
    index = (1, 2, 1, 3)[: getattr(one.right, output).dim()]
    if output in ("dk", "dv"):
        index = (1, 2, 1, 3)
    judgement = one.spoilt(output, index, value)
    expected = float(getattr(one.truth.reference, output)[index])
    assert judgement.rule == f"R0 {output} finite"
    assert judgement.message == f"{output}{list(index)} is {value}, not {expected:.6g} (1 such elements)"
    # The other elements are still measured.
    assert len(judgement.errors) == len(OUTPUTS)


def test_a_finite_lse_where_nothing_is_seen(bench: Benches) -> None:
    one = bench(replace(CALL, lengths=Dense(seqlen_q=5, seqlen_k=2), causal="bottom_right"))
    judgement = one.spoilt("lse", (0, 1, 2), 0.0)
    assert judgement.rule == "R0 lse finite"
    assert judgement.message == "lse[0, 1, 2] is 0.0, not -inf (1 such elements)"


def test_plus_infinity_for_an_empty_rows_lse_must_be_declared(bench: Benches) -> None:
    one = bench(replace(CALL, lengths=Dense(seqlen_q=5, seqlen_k=2), causal="bottom_right"))
    assert one.right.lse is not None
    flipped = one.right.lse.masked_fill(one.right.lse.isinf(), float("inf"))
    assert one.judge(lse=flipped).rule == "R0 lse finite"
    one.kernel.empty_lse = float("inf")
    assert one.judge(lse=flipped).passed
    # Declared or not, a row that sees a key has a finite lse.
    assert one.spoilt("lse", (0, 1, 4), float("inf")).rule == "R0 lse finite"


def test_infinity_beyond_the_dtypes_range_is_right_if_its_sign_is(bench: Benches) -> None:
    one = bench(CALL)
    index = (0, 1, 2, 3)
    one.truth.reference.dq[index] = -7e4  # type: ignore[index] # fp16 ends at 65,504
    assert one.spoilt("dq", index, float("-inf")).passed
    assert one.spoilt("dq", index, float("inf")).rule == "R0 dq finite"
    assert one.spoilt("dq", index, float("nan")).rule == "R0 dq finite"
    one.truth.reference.dq[index] = -6.4e4  # type: ignore[index]
    assert one.spoilt("dq", index, float("-inf")).rule == "R0 dq finite"


@pytest.mark.parametrize(
    ("output", "lengths", "causal", "index"),
    [
        ("out", Dense(seqlen_q=5, seqlen_k=2), "bottom_right", (0, 2, 1, 3)),
        ("dq", Dense(seqlen_q=5, seqlen_k=2), "bottom_right", (0, 2, 1, 3)),
        ("dk", Dense(seqlen_q=2, seqlen_k=5), "top_left", (0, 2, 1, 3)),
        ("dv", Dense(seqlen_q=2, seqlen_k=5), "top_left", (0, 2, 1, 3)),
        ("out", Varlen(seqlens_q=(2, 3), seqlens_k=(2, 0)), None, (2, 1, 3)),
        ("dv", Varlen(seqlens_q=(2, 0), seqlens_k=(2, 3)), None, (2, 1, 3)),
    ],
)
def test_a_row_that_sees_nothing_is_exactly_zero(
    bench: Benches, output: str, lengths: Dense | Varlen, causal: Any, index: tuple[int, ...]
) -> None:
    """The smallest subnormal is far below any bound, and wrong."""
    one = bench(replace(CALL, lengths=lengths, causal=causal))
    judgement = one.spoilt(output, index, 2.0**-24)
    assert judgement.rule == f"R0 {output} empty row"
    assert judgement.message == f"{output}{list(index)} is 5.96046e-08, not 0: nothing is visible there"
    assert one.spoilt(output, index, -0.0).passed


def test_a_row_that_sees_one_key_is_that_keys_v(bench: Benches) -> None:
    one = bench(replace(CALL, lengths=Dense(seqlen_q=3, seqlen_k=3), causal="bottom_right"))
    index = (0, 0, 1, 3)  # the first row sees the first key alone
    value = one.right.out[index]
    above = value + 2.0**-10 * value.abs()
    judgement = one.spoilt("out", index, float(above))
    assert judgement.rule == "R0 out one key"
    assert judgement.message == (
        f"out{list(index)} is {float(above):.6g}, not v = {float(value):.6g} of the only key that this row sees"
    )
    # A row that sees two keys may be rounded.
    index = (0, 1, 1, 3)
    assert one.spoilt("out", index, float(one.right.out[index] * (1 + 2.0**-10))).passed


# R1 and R2


def largest_bound(one: Bench, output: str) -> tuple[int, ...]:
    bound = one.bound(output)
    return tuple(int(i) for i in torch.unravel_index(bound.argmax(), bound.shape))


@pytest.mark.parametrize("output", ["out", "dq", "dk", "dv"])
def test_an_error_above_every_floor_and_twice_the_baselines(bench: Benches, output: str) -> None:
    """At the element with the largest F, 1.3 F breaks R1 and keeps R2."""
    one = bench(replace(CALL, lengths=Dense(seqlen_q=32, seqlen_k=32)))
    index = largest_bound(one, output)
    floor = float(one.bound(output)[index])
    # A baseline that is exact by luck: else twice its error may be more than the floor.
    baseline = one.truth.baseline_errors[output] = 0.1 * floor  # type: ignore[index]
    right = float(getattr(one.truth.reference, output)[index])
    judgement = one.spoilt(output, index, right + 1.3 * floor)
    assert judgement.rule == f"R1 {output}"
    observed = abs(float(torch.tensor(right + 1.3 * floor).half()) - right)
    assert judgement.message == (
        f"max |{output} - reference| is {observed:.4g}; PyTorch's is {baseline:.4g}, so at most {floor:.4g} is allowed "
        f"(twice PyTorch's, or max F = {floor:.4g})"
    )
    assert one.spoilt(output, index, right + 0.9 * floor).passed


def test_twice_the_baselines_error_is_allowed_where_that_is_more(bench: Benches) -> None:
    one = bench(CALL)
    index = largest_bound(one, "dq")
    floor = float(one.bound("dq")[index])
    right = float(one.truth.reference.dq[index])  # type: ignore[index]
    one.truth.baseline_errors["dq"] = 0.7 * floor
    assert one.spoilt("dq", index, right + 1.3 * floor).passed
    assert one.spoilt("dq", index, right + 1.45 * floor).rule == "R1 dq"


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("sign", [1, -1])
def test_a_wrong_small_element_behind_a_large_one(bench: Benches, output: str, sign: int) -> None:
    """The element of the smallest F is off by 3 F: less than the largest F, so that no maximum shows it."""
    one = bench(replace(CALL, lengths=Dense(seqlen_q=32, seqlen_k=32), values="outliers", causal="top_left"))
    bound = one.bound(output)
    # Not among the exact rows: the first sees one key.
    candidates = torch.where(getattr(one.right, output) != 0, bound, float("inf"))
    candidates[(slice(None), slice(0, 1)) if output != "lse" else (..., slice(0, 1))] = float("inf")
    index = tuple(int(i) for i in torch.unravel_index(candidates.argmin(), bound.shape))
    allowed = R2_LIMIT * float(bound[index])
    right = float(getattr(one.truth.reference, output)[index])
    judgement = one.spoilt(output, index, right + sign * 3 * float(bound[index]))
    assert judgement.rule == f"R2 {output}"
    assert judgement.message.startswith(f"{output}{list(index)} is ")
    assert f", not {right:.6g}: off by " in judgement.message
    assert judgement.message.endswith(f", at most {R2_LIMIT} F = {allowed:.4g} is allowed")
    error = next(error for error in judgement.errors if error.output == output)
    assert error.worst_index == index
    assert error.expected == right
    assert 2.5 < error.bound_units < 3.5


def test_a_dependent_kernel_is_measured_by_its_own_bound(bench: Benches) -> None:
    """Scores in the problem's dtype allow more, and only a kernel that declares them may use it."""
    one = bench(CALL)
    index = largest_bound(one, "out")
    off = float(one.truth.reference.out[index]) + 1.2 * R2_LIMIT * float(one.bound("out")[index])
    one.truth.baseline_errors["out"] = 1.0
    assert one.spoilt("out", index, off).rule == "R2 out"
    one.kernel.score_dtype = "dtype"
    assert one.spoilt("out", index, off).passed


def test_rules_are_asked_in_order(bench: Benches) -> None:
    """Everything wrong at once: what is most basic is named."""
    one = bench(CALL)
    zeros = {name: torch.zeros_like(getattr(one.right, name)) for name in OUTPUTS}
    assert one.judge(**zeros).rule == "R1 out"
    assert one.judge(**{**zeros, "dv": zeros["dv"] * float("nan")}).rule == "R0 dv finite"
    assert one.judge(**{**zeros, "dv": zeros["dv"][:1]}).rule == "R0 dv shape"
