import math
from collections.abc import Callable
from typing import Any

import pytest

from fa2verify.reports.tensors import tensors

Make = Callable[..., Any]


def test_numbers_by_hand(make_record: Make, make_error: Make, one_run: Make) -> None:
    found = tensors(
        one_run(
            make_record(errors=(make_error(bound_units=0.5, bias=1.0), make_error("dq", bias=0.0))),
            make_record(errors=(make_error(bound_units=3.0, limit=2.0, bias=-3.0),)),
            make_record(errors=(make_error(bound_units=0.25, bias=5.0),)),
        )
    )
    out, dq = found
    assert (out.kernel, out.output, out.shares, out.failed) == ("ours", "out", (0.25, 0.5, 1.5), (1.5,))
    assert (out.median_share, out.median_bias, out.furthest_bias) == (0.5, 1.0, 5.0)
    assert out.lean == pytest.approx(1 / math.sqrt(3))  # two up, one down
    assert (dq.median_bias, dq.lean) == (0.0, None)


def test_what_is_no_number_is_not_hidden(make_record: Make, make_error: Make, one_run: Make) -> None:
    for biases in ((math.nan, 1.0), (1.0, math.nan)):
        errors = tuple(make_error(bias=bias, bound_units=math.nan) for bias in biases)
        (found,) = tensors(one_run(make_record("failed", errors=errors)))
        assert found.furthest_bias is not None
        assert math.isnan(found.furthest_bias)
        assert (found.median_bias, found.shares, found.median_share) == (1.0, (math.inf, math.inf), math.inf)
