"""Tables and charts of benchmark records: the figures that people will quote."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from fa2verify.benchmarks.grid import GRIDS
from fa2verify.benchmarks.results import main
from fa2verify.benchmarks.tables import tables
from fa2verify.reports.benchmark_record import (
    Ceiling,
    FirstCall,
    HostCost,
    LossAgreement,
    Memory,
    Timing,
    Training,
    to_json,
)

CELLS = list(GRIDS["flash"]())


def timing(kernel: str, ms: float, outcome: Any = "measured", cell: int = 0) -> Timing:
    found = CELLS[cell]
    return Timing(
        grid="flash",
        cell=found.name,
        kernel=kernel,
        direction="forward",
        problem=found.problem.to_dict(),
        outcome=outcome,
        ms=(ms,) if outcome == "measured" else (),
        operations=4e11,
    )


def memory(kernel: str, taken: int, outcome: Any = "measured") -> Memory:
    return Memory(cell="m", kernel=kernel, direction="both", problem={}, seqlen=2048, outcome=outcome, bytes=taken)


def trained(attention: str, **given: Any) -> Training:
    return Training(
        cell="gpt2-small-c256-12gb",
        model="small",
        context=256,
        attention=attention,
        mode="compiled",
        memory=12_000_000_000,
        dtype="float16",
        outcome="measured",
        batch=64,
        step_ms=(999.0, 100.0),
        counted=1,
        **given,
    )


LINES = (
    timing("torch-flash", 2.0),
    timing("mine", 1.0),
    timing("standard", 0.0, "out_of_memory"),
    Ceiling(cell=CELLS[0].name, name="matmul", ms=(1.0,), amount=8e11),
    memory("mine", 3_000_000),
    memory("standard", 45_000_000),
    HostCost(subject="mine", mode="eager", direction="forward", outcome="measured", us=(9.0, 30.0, 10.0), calls=1),
    HostCost(subject="mine", mode="compiled", direction="forward", outcome="failed"),
    FirstCall(kernel="mine", cache="cold", direction="both", outcome="measured", first_ms=812.4),
    trained("mine", graphs=1),
    trained("breaker", graphs=13, graph_breaks={"a call": 12}),
    LossAgreement(cell="l", attention="mine", mode="eager", steps=20, distance=1e-4, noise=(2e-4, 5e-5)),
)


@pytest.mark.parametrize(
    "row",
    [
        "| flash-d64-full-s512 | forward | 800 | 200 (1.00) | 400 (2.00) | OOM |",
        "| 2048 | both | 3.0 (15.0x less) | 45.0 |",
        "| mine | 10.0 | failed | - |",
        "| mine | 812 | - |",
        "| gpt2-small-c256-12gb | compiled | 163,840 (64) | 163,840 (64, 13 graphs) |",
        "| l | mine | 1.00e-04 | 2.00e-04 | yes |",
    ],
)
def test_a_row_says_what_was_measured(row: str) -> None:
    assert row in tables(LINES, "torch-flash").splitlines()


def test_only_what_was_measured_has_a_table() -> None:
    assert tables([timing("mine", 1.0)], "torch-flash").count("## ") == 1


def test_kernels_are_shown_in_the_order_asked_for() -> None:
    shown = tables(LINES, "torch-flash", ["mine", "torch-flash"]).splitlines()
    assert "| cell | direction | matmul | mine | torch-flash |" in shown


def test_charts_and_tables_are_written(tmp_path: Path) -> None:
    lines = [timing(kernel, 1.0 + cell, cell=cell) for kernel in ("mine", "torch-flash") for cell in range(len(CELLS))]
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "benchmarks.jsonl").write_text("".join(to_json(line) + "\n" for line in (*lines, *LINES[4:])))
    done = CliRunner().invoke(main, [str(folder), f"--output={tmp_path / 'out'}"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    drawn = (tmp_path / "out/speed-forward.svg").read_text()
    for head_dim in (64, 128, 256):
        for mask in ("full", "causal"):
            assert f"<!-- head_dim {head_dim}, {mask} -->" in drawn
    assert "<!-- mine -->" in drawn
    assert "<!-- peak memory, forward and backward -->" in (tmp_path / "out/memory.svg").read_text()
    assert "| flash-d256-causal-s16384 | forward |" in (tmp_path / "out/tables.md").read_text()


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(tmp_path), f"--output={tmp_path}"])
    assert done.exit_code == 2
    assert "there is no such file; a benchmark run leaves benchmarks.jsonl" in done.output


def test_it_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import fa2verify.benchmarks.results"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
