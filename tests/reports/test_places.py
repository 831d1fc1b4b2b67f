from collections.abc import Callable
from typing import Any

import pytest

from fa2verify.reports.places import COLUMNS, ROWS, Map, maps

Make = Callable[..., Any]

DENSE = {"lengths": {"batch": 2, "seqlen_q": 200, "seqlen_k": 70}, "head_dim": 40}
PACKED = {"lengths": {"seqlens_q": [10, 0, 130], "seqlens_k": [5, 5, 5]}, "head_dim": 32}


@pytest.fixture
def where(make_record: Make, make_error: Make, one_run: Make) -> Callable[..., Map | None]:
    def find(problem: dict[str, Any], index: tuple[int, ...], output: str = "out", units: float = 0.5) -> Map | None:
        error = make_error(output, worst_index=index, bound_units=units)
        found = maps(one_run(make_record(problem=problem, errors=(error,))))
        return found[0] if found else None

    return find


@pytest.mark.parametrize(
    ("problem", "output", "index", "row", "column"),
    [
        (DENSE, "out", (0, 0, 0, 0), "tile 1", "0"),
        (DENSE, "out", (1, 63, 3, 31), "tile 1", "0"),
        (DENSE, "dq", (1, 64, 3, 32), "tile 2", "32"),
        (DENSE, "out", (1, 191, 3, 39), "tiles 3\u20134", "32"),
        (DENSE, "out", (1, 192, 3, 39), "ragged end", "32"),
        (DENSE, "dk", (1, 69, 3, 39), "ragged end", "32"),
        (PACKED, "out", (9, 0, 0), "ragged end", "0"),
        (PACKED, "out", (10, 0, 0), "tile 1", "0"),
        (PACKED, "out", (10 + 127, 0, 0), "tile 2", "0"),
        (PACKED, "out", (10 + 128, 0, 0), "ragged end", "0"),
        (PACKED, "dv", (14, 0, 0), "ragged end", "0"),
    ],
)
def test_the_cell_of_the_worst_element(
    where: Callable[..., Map | None],
    problem: dict[str, Any],
    output: str,
    index: tuple[int, ...],
    row: str,
    column: str,
) -> None:
    found = where(problem, index, output)
    assert found is not None
    assert [
        (ROWS[y], COLUMNS[x])
        for y, cells in enumerate(found.cells)
        for x, cell in enumerate(cells)
        if cell and cell.found
    ] == [(row, column)]


def test_what_was_judged_on_a_sample_has_no_place(where: Callable[..., Map | None]) -> None:
    assert where(DENSE | {"values": "randn"}, (1, 64, 3, 32)) is not None
    assert where(DENSE | {"values": "sampled"}, (1, 64, 3, 32)) is None


def test_chance_is_spread_over_the_tensor(where: Callable[..., Map | None]) -> None:
    found = where(DENSE, (0, 0, 0, 0))
    assert found is not None
    expected = {(y, x): cell.expected for y, cells in enumerate(found.cells) for x, cell in enumerate(cells) if cell}
    # Of 200 rows three tiles of 64 and 8 more, of 40 dimensions 32 and 8.
    assert expected == pytest.approx(
        {
            (y, x): rows / 200 * dims / 40
            for y, rows in ((0, 64), (1, 64), (2, 64), (6, 8))
            for x, dims in ((0, 32), (1, 8))
        }
    )
    assert sum(expected.values()) == pytest.approx(1)
    cell = found.cells[0][0]
    assert cell is not None
    assert cell.residual == pytest.approx((1 - 0.256) / 0.256**0.5)


def test_an_exact_tensor_has_no_worst_element(where: Callable[..., Map | None]) -> None:
    assert where(DENSE, (0, 0, 0, 0), units=0.0) is None


@pytest.mark.parametrize("index", [(), (0, 0), (2, 0, 0, 0), (0, 200, 0, 0), (0, 0, 0, 40), (-1, -1, 0, 0)])
def test_an_index_outside_the_problem_is_left_out(where: Callable[..., Map | None], index: tuple[int, ...]) -> None:
    assert where(DENSE, index) is None


def test_later_tiles_are_counted_together(where: Callable[..., Map | None]) -> None:
    found = where({"lengths": {"seqlen_q": 64 * 40}, "head_dim": 256}, (0, 64 * 39, 0, 255))
    assert found is not None
    cell = found.cells[ROWS.index("later")][-1]
    assert cell is not None
    assert (cell.found, cell.expected) == (1, pytest.approx(24 / 40 * 64 / 256))
