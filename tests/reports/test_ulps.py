from collections.abc import Callable
from typing import Any

from fa2verify.reports.ulps import Ulps, ulps

Make = Callable[..., Any]


def test_histograms_add_up(make_record: Make, make_error: Make, one_run: Make) -> None:
    found = ulps(
        one_run(
            make_record(errors=(make_error("out", ulps=(5, 1)), make_error("dq", ulps=(1,)))),
            make_record(errors=(make_error("out", ulps=(1, 0, 0, 0, 0, 0, 3)),)),
            make_record(errors=(make_error("lse", ulps=()),)),
        )
    )
    assert found == (
        Ulps("ours", "out", (6, 1, 0, 0, 0, 0, 3), (0.6, 0.7, 0.7, 0.7, 0.7)),
        Ulps("ours", "dq", (1,), (1.0, 1.0, 1.0, 1.0, 1.0)),
    )
    assert found[0].elements == 10
    assert found[0].path.count("M") == 3  # a bar for each bucket that is not empty
