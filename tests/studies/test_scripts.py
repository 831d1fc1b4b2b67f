"""The studies' scripts run, and their page shows what they left."""

import json
from pathlib import Path
from types import ModuleType

import biased_rounding
import carried_state
import outliers
import pytest
import sequence_length
from click.testing import CliRunner

STUDIES = (sequence_length, biased_rounding, outliers, carried_state)
FOLDER = Path(outliers.__file__).parent
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(params=STUDIES, ids=lambda study: study.NAME)
def study(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


def test_it_runs_and_leaves_numbers_and_a_picture(study: ModuleType, tmp_path: Path) -> None:
    found = CliRunner().invoke(study.main, ["--quick", "--out", str(tmp_path)], catch_exceptions=False)
    assert found.exit_code == 0
    rows = json.loads((tmp_path / f"{study.NAME}.json").read_text())
    assert study.table(rows) in found.output
    assert (tmp_path / f"{study.NAME}.png").read_bytes().startswith(PNG)
    kept = json.loads((FOLDER / f"{study.NAME}.json").read_text())
    assert {frozenset(row) for row in rows} == {frozenset(row) for row in kept}


def test_the_page_has_its_table_and_its_picture(study: ModuleType) -> None:
    page = (FOLDER / "README.md").read_text()
    assert study.table(json.loads((FOLDER / f"{study.NAME}.json").read_text())) in page
    assert f"]({study.NAME}.png)" in page
    assert f"python docs/studies/{Path(study.__file__).name}" in page
    assert (FOLDER / f"{study.NAME}.png").stat().st_size < 200_000
