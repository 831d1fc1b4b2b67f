"""Every number of a measurement against cases worked out by hand."""

import math

import pytest
import torch

from fa2verify.verify.judgement.measure import R2_LIMIT, Comparison, largest, largest_error

INF, NAN = float("inf"), float("nan")


def compare(
    candidate: list[float],
    reference: list[float],
    *,
    dtype: str = "float16",
    bound: list[float] | float = 1.0,
    baseline: float | None = None,
) -> Comparison:
    right = torch.tensor(reference, dtype=torch.float64)
    return Comparison(
        output="out",
        dtype=dtype,
        candidate=torch.tensor(candidate, dtype=torch.float64).to(getattr(torch, dtype)),
        reference=right,
        baseline=baseline,
        bound=torch.tensor(bound, dtype=torch.float64).expand(right.shape),
    )


def test_every_number_of_a_small_case() -> None:
    """Errors 0, 1/4, -1/2 and 1/8 around 1, 2, -4 and 0, in bounds 1, 1, 1 and 1/16."""
    error = compare([1, 2.25, -4.5, 0.125], [1, 2, -4, 0], bound=[1, 1, 1, 0.0625], baseline=0.25).error()
    assert error.output == "out"
    assert error.elements == 4
    assert error.max_abs == 0.5
    assert error.baseline == 0.25
    assert error.ratio == 2
    assert error.bound_units == 2
    assert error.limit == R2_LIMIT
    assert error.worst_index == (3,)
    assert (error.observed, error.expected) == (0.125, 0)
    assert error.rmse == pytest.approx(math.sqrt((1 / 16 + 1 / 4 + 1 / 64) / 4), rel=1e-15)
    assert error.reference_rms == pytest.approx(math.sqrt(21 / 4), rel=1e-15)
    # (1/4 - 1/2 + 1/8) / (2^-11 * 7)
    assert error.bias == pytest.approx(-0.125 * 2048 / 7, rel=1e-15)


def test_bias_has_a_sign_and_the_dtypes_unit() -> None:
    assert compare([1.5], [1]).error().bias == 0.5 * 2**11
    assert compare([0.5], [1]).error().bias == -0.5 * 2**11
    assert compare([1.5], [1], dtype="bfloat16").error().bias == 0.5 * 2**8
    assert compare([1.5], [1], dtype="float32").error().bias == 0.5 * 2**24
    assert compare([1.5, 0.5], [1, 1]).error().bias == 0
    assert compare([1.5], [0]).error().bias == 0, "no magnitude to compare with"


@pytest.mark.parametrize(
    ("dtype", "last_place", "smallest"),
    [("float16", 2.0**-10, 2.0**-24), ("bfloat16", 2.0**-7, 2.0**-133), ("float32", 2.0**-23, 2.0**-149)],
)
def test_ulp_histogram(dtype: str, last_place: float, smallest: float) -> None:
    """Each bucket's upper end is inside it; the last place is the reference's, not the candidate's."""

    def bucket(candidate: float, reference: float) -> int:
        ulps = compare([candidate], [reference], dtype=dtype).error().ulps
        assert len(ulps) == 9
        assert sum(ulps) == 1
        return ulps.index(1)

    places = [0, 1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 33, 64, 65, 100]
    buckets = [0, 1, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8]
    for off, expected in zip(places, buckets, strict=True):
        assert bucket(1 + off * last_place, 1) == expected
        assert bucket(-1 - off * last_place, -1) == expected
    # Half a last place is what rounding to nearest gives.
    assert bucket(1, 1 + last_place / 2) == 0
    assert bucket(1, 1 + 0.51 * last_place) == 1
    # The last place doubles with the power of two.
    assert bucket(4 + 4 * last_place, 4) == 1
    assert bucket(1 / 4 + last_place, 1 / 4) == 3
    # Below the smallest normal number it does not shrink any more, and 0 has it too.
    assert bucket(smallest, 0) == 1
    assert bucket(3 * smallest, smallest) == 2
    assert bucket(0, smallest / 4) == 0


def test_ulps_count_every_finite_element() -> None:
    ulps = compare([1, 1, 1 + 2**-10, NAN, INF], [1, 1, 1, 1, INF]).error().ulps
    assert ulps == (2, 1, 0, 0, 0, 0, 0, 0, 0)


def test_elements_that_are_not_finite_are_left_out_of_every_number() -> None:
    """They are R0's; here they must neither hide an error nor become one."""
    one = compare([NAN, INF, 2, 1.5], [1, 1, -INF, 1])
    assert one.finite.tolist() == [False, False, False, True]
    error = one.error()
    assert error.elements == 4
    assert error.max_abs == error.bound_units == error.rmse == 0.5
    assert error.reference_rms == 1
    assert error.worst_index == (3,)
    assert error.bias == 0.5 * 2**11


def test_the_worst_index_is_an_index_into_the_tensor() -> None:
    reference = torch.zeros(2, 3, 4, 5, dtype=torch.float64)
    candidate = reference.half()
    candidate[1, 2, 3, 4] = 1.0
    candidate[1, 0, 2, 1] = -0.75
    bound = torch.ones_like(reference)
    bound[1, 0, 2, 1] = 0.25
    one = Comparison("dq", "float16", candidate, reference, None, bound)
    assert one.worst == (1, 0, 2, 1)
    assert one.bound_units == 3
    assert one.max_abs == 1
    assert one.error().observed == -0.75


def test_where_the_bound_is_zero_only_the_exact_value_passes() -> None:
    assert compare([0], [0], bound=0.0).bound_units == 0
    assert compare([2.0**-24], [0], bound=0.0).bound_units == INF


def test_an_empty_tensor() -> None:
    error = compare([], []).error()
    assert (error.elements, error.max_abs, error.bound_units, error.rmse, error.bias) == (0, 0, 0, 0, 0)
    assert error.worst_index == ()
    assert sum(error.ulps) == 0


def test_largest() -> None:
    assert largest(torch.tensor([[1.0, 3.0], [2.0, -5.0]])) == 3
    assert largest(torch.empty(0, 4)) == 0


def test_largest_error_of_a_baseline() -> None:
    right = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert largest_error(torch.tensor([1.0, 2.5, 3.0]).half(), right) == 0.5
    # A baseline that overflows or is NaN allows anything: R1 says nothing there, R2 does.
    assert largest_error(torch.tensor([1.0, INF, 3.0]).half(), right) == INF
    assert largest_error(torch.tensor([1.0, NAN, 3.0]).half(), right) == INF
    assert largest_error(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, -INF, 3.0], dtype=torch.float64)) == 1


def test_ratio_is_flash_attentions() -> None:
    assert compare([1.5], [1], baseline=0.25).error().ratio == 2
    assert compare([1.0], [1], baseline=0.0).error().ratio == 0
    assert compare([1.5], [1], baseline=0.0).error().ratio == INF
    assert compare([1.5], [1]).error().ratio is None
