"""What a report is made of, by what a path holds."""

from pathlib import Path

import pytest

from fa2verify.reports.benchmark_record import BenchmarkRun, to_json
from fa2verify.reports.record import Record, Run
from fa2verify.reports.sources import NothingToReport, load
from fa2verify.reports.store import Writer


@pytest.fixture
def records(tmp_path: Path) -> Path:
    run = Run(id="r", started="", profile="quick", seed=1, device="cpu", environment={}, features=())
    with Writer(tmp_path / "judged" / "records.jsonl") as writer:
        writer.write(run)
        writer.write(Record(kernel="ours", problem={}, features=(), verdict="passed"))
    return tmp_path / "judged"


@pytest.fixture
def benchmarks(tmp_path: Path) -> Path:
    (tmp_path / "measured").mkdir()
    run = BenchmarkRun(id="b", started="", device="cpu", environment={})
    (tmp_path / "measured" / "benchmarks.jsonl").write_text(to_json(run) + "\n{")
    return tmp_path / "measured"


def test_a_folder_of_either_and_a_file_of_either(records: Path, benchmarks: Path) -> None:
    for judged in (records, records / "records.jsonl"):
        for measured in (benchmarks, benchmarks / "benchmarks.jsonl"):
            found = load([judged, measured])
            assert len(found.loaded.records) == 1
            assert [run.id for machine in found.machines for run in machine.runs] == ["b"]
            assert len(found.loaded.losses) == 1
            assert found.loaded.losses[0].startswith("benchmarks.jsonl, line 2: cut off")


def test_a_folder_of_both(records: Path, benchmarks: Path) -> None:
    (benchmarks / "benchmarks.jsonl").rename(records / "benchmarks.jsonl")
    found = load([records])
    assert len(found.loaded.records) == len(found.machines) == 1


@pytest.mark.parametrize("text", ["", "# Notes\n", '{"kind":"timing"}\n'])
def test_a_file_without_a_record_is_named(tmp_path: Path, records: Path, text: str) -> None:
    path = tmp_path / "notes.md"
    path.write_text(text)
    with pytest.raises(NothingToReport, match=r"notes\.md: no line of it is a record; give a file or a folder"):
        load([records, path])


def test_a_folder_without_either_is_named(tmp_path: Path, records: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingToReport, match=r"empty: holds neither .* nor benchmarks\.jsonl; give a folder"):
        load([records, tmp_path / "empty"])


def test_a_run_that_was_killed_at_once_is_reported(records: Path) -> None:
    path = records / "records.jsonl"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    assert load([path]).loaded.runs
