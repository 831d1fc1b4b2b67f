from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fa2verify.cli.report import report
from fa2verify.reports.benchmark_record import BenchmarkRun, HostCost, to_json
from fa2verify.reports.record import KernelEntry, Record, Run
from fa2verify.reports.store import Writer


@pytest.fixture
def invoke() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(report, [str(argument) for argument in arguments])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A run in which one of two problems failed, cut off while it wrote the next."""
    run = Run(
        id="run", started="2026-01-02", profile="quick", seed=1, device="cpu", environment={}, features=("causal",)
    )
    with Writer(tmp_path / "run" / "records-gw0.jsonl") as writer:
        writer.write(run)
        writer.write(KernelEntry(name="ours", lineage="ours", origin="built in"))
        writer.write(Record(kernel="ours", problem={}, features=("causal",), verdict="passed"))
        writer.write(Record(kernel="ours", problem={"head_dim": 8}, features=(), verdict="crashed"))
    with writer.path.open("ab") as file:
        file.write(b'{"kind":')
    return tmp_path / "run"


def test_one_run_is_rendered_beside_its_records(invoke: Callable[..., Result], directory: Path) -> None:
    result = invoke(directory)
    assert result.exit_code == 0
    assert "ours       1 passed       0 failed       1 crashed" in result.stdout
    assert result.stdout.endswith(
        f"1 kernel, 2 problems: 1 did not pass, in 1 kernel (ours). Report: {directory / 'index.html'}\n"
    )
    assert result.stderr.startswith("not read: records-gw0.jsonl, line 5: cut off")
    assert "fa2verify check ours" in (directory / "index.html").read_text(encoding="utf-8")


def test_a_file_of_records_is_rendered_beside_it(invoke: Callable[..., Result], directory: Path) -> None:
    assert invoke(directory / "records-gw0.jsonl").exit_code == 0
    assert (directory / "index.html").exists()


def test_several_runs_need_a_place_to_go(invoke: Callable[..., Result], directory: Path, tmp_path: Path) -> None:
    refused = invoke(directory, directory)
    assert refused.exit_code == 2
    assert "several DIRs need --output=FILE" in refused.stderr
    output = tmp_path / "made" / "all.html"
    assert invoke(directory, directory, "--output", output).exit_code == 0
    assert output.exists()


def test_a_folder_without_records_is_an_error(invoke: Callable[..., Result], tmp_path: Path) -> None:
    result = invoke(tmp_path)
    assert result.exit_code == 1
    assert "holds neither records.jsonl nor records-*.jsonl" in result.stderr
    assert not (tmp_path / "index.html").exists()


def test_a_file_without_a_record_is_an_error(invoke: Callable[..., Result], tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# Not a record\n")
    result = invoke(path)
    assert result.exit_code == 1
    assert f"{path}: no line of it is a record" in result.stderr
    assert not (tmp_path / "index.html").exists()


def test_benchmarks_alone_and_beside_verdicts(invoke: Callable[..., Result], directory: Path, tmp_path: Path) -> None:
    run = BenchmarkRun(id="b", started="2026-01-02", device="cuda", environment={"gpu": "H200"})
    cost = HostCost(subject="ours", mode="eager", direction="forward", outcome="measured", us=(9.0,))
    path = tmp_path / "bench" / "benchmarks.jsonl"
    path.parent.mkdir()
    path.write_text(f"{to_json(run)}\n{to_json(cost)}\n")
    result = invoke(path.parent)
    assert result.exit_code == 0
    assert result.output == f"Benchmarks on H200, 1 measurement.\nReport: {path.parent / 'index.html'}\n"
    assert "Host cost" in (path.parent / "index.html").read_text(encoding="utf-8")
    path.rename(directory / path.name)
    result = invoke(directory)
    assert "Benchmarks on H200, 1 measurement.\n1 kernel, 2 problems: 1 did not pass" in result.output
    page = (directory / "index.html").read_text(encoding="utf-8")
    assert "Host cost" in page
    assert "fa2verify check ours" in page


def test_a_missing_folder_is_an_error(invoke: Callable[..., Result], tmp_path: Path) -> None:
    result = invoke(tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "nowhere: does not exist" in result.stderr


def test_no_folder_is_an_error(invoke: Callable[..., Result]) -> None:
    assert invoke().exit_code == 2
