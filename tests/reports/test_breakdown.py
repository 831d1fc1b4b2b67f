from collections.abc import Callable
from typing import Any, get_args

import pytest

from fa2verify.kernels.problem import Values
from fa2verify.reports.breakdown import Breakdown, Cell, breakdowns

Make = Callable[..., Any]


@pytest.fixture
def found(make_record: Make, make_error: Make, one_run: Make) -> dict[str, Breakdown]:
    def record(seqlen: int, values: str, *errors: Any, kernel: str = "ours", dtype: str = "float16") -> Any:
        problem = {"dtype": dtype, "lengths": {"seqlen_k": seqlen}, "values": values, "head_dim": 64}
        return make_record(kernel=kernel, problem=problem, errors=errors)

    u = 2.0**-11
    loaded = one_run(
        record(16, "randn", make_error(bound_units=0.5, rmse=u), make_error("dq", bound_units=0.75, rmse=u)),
        record(17, "large", make_error(bound_units=0.25, rmse=2 * u)),
        record(64, "large", make_error(bound_units=1.5, rmse=3 * u, reference_rms=0.5)),
        record(2000, "randn", make_error(bound_units=0.1, rmse=2.0**-8), kernel="theirs", dtype="bfloat16"),
        make_record(problem={"head_dim": "many"}, errors=(make_error(bound_units=9.0),)),
    )
    return {one.axis: one for one in breakdowns(loaded, {"theirs": 0, "ours": 1})}


def test_cells_by_hand(found: dict[str, Breakdown]) -> None:
    by_length = found["longest sequence"]
    assert by_length.columns == ("\u2264 16", "17\u201364", "> 1024")
    rows = {(row.kernel, row.direction): row.cells for row in by_length.rows}
    assert rows == {
        ("theirs", "out"): (None, None, Cell(1, 0.1, 1.0)),
        ("ours", "out"): (Cell(1, 0.5, 1.0), Cell(2, 1.5, 4.0), None),
        ("ours", "gradients"): (Cell(1, 0.75, 1.0), None, None),
    }
    assert next(iter(rows)) == ("theirs", "out")  # in the order asked for


def test_every_family_has_a_column(found: dict[str, Breakdown]) -> None:
    assert found["family of values"].columns == ("randn", "large")
    assert found["head_dim"].columns == ("33\u201364",)


def test_there_is_room_for_every_family_that_a_problem_may_have(
    make_record: Make, make_error: Make, one_run: Make
) -> None:
    every = get_args(Values)
    records = [make_record(problem={"values": values}, errors=(make_error(),)) for values in every]
    (families,) = [one for one in breakdowns(one_run(*records), {"ours": 0}) if one.axis == "family of values"]
    assert families.columns == every


def test_a_reference_of_zeros_has_no_relative_error(make_record: Make, make_error: Make, one_run: Make) -> None:
    loaded = one_run(make_record(errors=(make_error(reference_rms=0.0),)))
    assert breakdowns(loaded, {"ours": 0})[0].rows[0].cells == (Cell(1, 0.25, None),)
