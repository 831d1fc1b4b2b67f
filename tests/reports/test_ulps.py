from collections.abc import Callable
from typing import Any

from fa2verify.reports.ulps import Ulps, ulps

Make = Callable[..., Any]


def test_histograms_add_up(make_record: Make, make_error: Make, one_run: Make) -> None:
    found = ulps(
        one_run(
            make_record(errors=(make_error("out", ulps=(5, 1), bias=0.1), make_error("dq", ulps=(1,), bias=0.0))),
            make_record(errors=(make_error("out", ulps=(1, 0, 0, 0, 0, 0, 3), bias=-0.5),)),
            make_record(errors=(make_error("lse", ulps=()),)),
        )
    )
    assert found == (
        Ulps("ours", "out", 10, (0.6, 0.7, 0.7, 0.7, 0.7), -0.5),
        Ulps("ours", "dq", 1, (1.0, 1.0, 1.0, 1.0, 1.0), 0.0),
    )


def test_a_bias_that_is_no_number_is_not_hidden(make_record: Make, make_error: Make, one_run: Make) -> None:
    for biases in ((float("nan"), 1.0), (1.0, float("nan"))):
        (found,) = ulps(one_run(make_record(errors=tuple(make_error(bias=bias) for bias in biases))))
        assert found.bias != found.bias, biases
