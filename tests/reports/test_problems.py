import json
import math
from collections.abc import Callable
from typing import Any

from fa2verify.reports.problems import MOST, data, listed

Make = Callable[..., Any]


def test_the_worst_come_first(make_record: Make, make_error: Make, one_run: Make) -> None:
    fine = make_record(errors=(make_error(bound_units=0.2), make_error("dq", 3.0, 2.0, bound_units=0.1)))
    close = make_record(problem={"head_dim": 8}, errors=(make_error(bound_units=0.9),))
    lost = make_record("crashed", problem={"head_dim": 16})
    refused = make_record("unsupported")
    found = listed(one_run(fine, refused, close, lost))
    assert [(one.record, one.share, one.ratio) for one in found] == [
        (lost, None, None),
        (close, 0.9, 0.5),
        (fine, 0.2, 1.5),
    ]


def test_rows_by_hand(make_kernel: Make, make_record: Make, make_error: Make, one_run: Make) -> None:
    kernels = (make_kernel("a"), make_kernel("b", origin="--kernel=mod:fun"))
    loaded = one_run(
        make_record(
            problem={"dtype": "bfloat16"}, features=("y", "x"), decoys={"q": "too_close", "p": "caught"}, kernel="a"
        ),
        make_record("failed", "b", features=("x",), errors=(make_error(max_abs=math.nan, bound_units=math.nan),)),
        kernels=kernels,
    )
    found = data(loaded, listed(loaded), ["a", "b"], ["x", "y"], ["p", "q"])
    assert found == {
        "kernels": ["a", "b"],
        "reruns": ["fa2verify check a", "fa2verify check mod:fun"],
        "rows": [
            [1, "failed", 1, 0, [0], "--", "∞", "∞", '{"head_dim":32}'],
            [0, "passed", 2, 0, [1, 0], "ct", "\u2013", "\u2013", '{"dtype":"bfloat16"}'],
        ],
    }
    json.dumps(found, allow_nan=False)


def test_a_seed_beyond_what_a_script_counts_exactly_survives(make_record: Make, one_run: Make) -> None:
    loaded = one_run(make_record(problem={"seed": 2**63 - 1}))
    found = json.loads(json.dumps(data(loaded, listed(loaded), ["ours"], ["float16"], [])))
    assert found["rows"][0][-1] == '{"seed":9223372036854775807}'


def test_a_page_has_an_end(make_record: Make, one_run: Make) -> None:
    loaded = one_run(*(make_record(problem={"seed": seed}) for seed in range(MOST + 5)), make_record("failed"))
    rows = data(loaded, listed(loaded), ["ours"], ["float16"], [])["rows"]
    assert (len(rows), rows[0][1]) == (MOST, "failed")
    long = one_run(make_record(problem={"note": "x" * 5000}))
    assert data(long, listed(long), ["ours"], ["float16"], [])["rows"][0][-1] == ""
