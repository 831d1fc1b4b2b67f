"""Tables and charts of benchmarks as files of their own."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from fa2verify.benchmarks.grid import GRIDS
from fa2verify.benchmarks.markdown import markdown
from fa2verify.benchmarks.results import main
from fa2verify.reports.benchmark_parts import parts
from fa2verify.reports.benchmark_record import BenchmarkRun, Ceiling, Measurement, Memory, Timing, to_json
from fa2verify.reports.chart_file import svg

CELLS = list(GRIDS["flash"]())
RUN = BenchmarkRun(
    id="a", started="2026-01-01", device="cuda", environment={"gpu": "H200"}, options={"against": "torch-flash"}
)
SVG = "{http://www.w3.org/2000/svg}"


def timing(kernel: str, ms: float, cell: int = 0) -> Timing:
    found = CELLS[cell]
    return Timing(
        grid="flash",
        cell=found.name,
        kernel=kernel,
        direction="forward",
        problem=found.problem.to_dict(),
        outcome="measured",
        ms=(ms,) * 6,  # of fewer no median is sure
        operations=4e11,
    )


GRID = tuple(timing(kernel, 1.0 + cell, cell) for kernel in ("mine", "torch-flash") for cell in range(len(CELLS)))
MEMORY = Memory(cell="m", kernel="mine", direction="both", problem={}, seqlen=2048, outcome="measured", bytes=3 * 10**6)


def written(folder: Path, *lines: Measurement, run: BenchmarkRun = RUN) -> Path:
    folder.mkdir()
    (folder / "benchmarks.jsonl").write_text("".join(to_json(line) + "\n" for line in (run, *lines)))
    return folder


def test_charts_and_tables_are_written(tmp_path: Path) -> None:
    given = [written(tmp_path / "speed", *GRID), written(tmp_path / "memory", MEMORY, run=replace(RUN, id="b"))]
    done = CliRunner().invoke(main, [*map(str, given), f"--output={tmp_path / 'out'}"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert done.output == f"{len(GRID) + 1} measurements: tables.md speed-flash.svg peak-memory.svg\n"
    drawn = ElementTree.parse(tmp_path / "out/speed-flash.svg").getroot()
    said = [text.text for text in drawn.iter(f"{SVG}text")]
    for head_dim in (64, 128, 256):
        for mask in ("full", "causal"):
            assert f"forward, head_dim {head_dim}, {mask}" in said
    assert {"mine", "torch-flash", "TFLOP/s", "speed, torch-flash = 1", "16384"} <= set(said)
    table = (tmp_path / "out/tables.md").read_text().split("### forward, head_dim 64, full\n\n")[1]
    assert table.startswith("| kernel | 512 | 1024 | 2048 | 4096 | 8192 | 16384 |\n| --- | --- |")
    assert "\n| mine | 400 (1.00x; 1.00 ms) | 200 (1.00x; 2.00 ms) |" in table


def test_nothing_of_a_picture_lies_outside_it(tmp_path: Path) -> None:
    (part,) = parts(GRID, "torch-flash")
    root = ElementTree.fromstring(svg(part))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    inner = list(root.iter(f"{SVG}svg"))[1:]
    assert len(inner) == 12  # speed and ratio of six panels
    for one in inner:
        x, y, wide, high = (float(one.attrib[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x <= x + wide <= width
        assert 0 <= y <= y + high <= height
    corners = [(one.attrib["x"], one.attrib["y"]) for one in inner]
    assert len(set(corners)) == len(corners)


def test_only_the_kernels_asked_for_and_over_the_one_asked_for(tmp_path: Path) -> None:
    given = written(tmp_path / "run", timing("a", 4.0), timing("b", 2.0), timing("c", 1.0))
    arguments = [str(given), f"--output={tmp_path}", "--kernel=c", "--kernel=a", "--against=b"]
    assert CliRunner().invoke(main, arguments).exit_code == 0
    rows = re.findall(r"^\| (\w+) \| (.*) \|$", (tmp_path / "tables.md").read_text(), re.MULTILINE)
    assert rows == [("kernel", "512"), ("c", "400 (2.00x; 1.00 ms)"), ("a", "100 (0.50x; 4.00 ms)")]


def test_strangers_names_stay_names() -> None:
    name = "a|b\n<script>&"
    (part,) = parts((timing(name, 1.0), Ceiling(cell=CELLS[0].name, name="copy", ms=(1.0,), amount=1.0)), "x")
    (row,) = [line for line in markdown([part]).splitlines() if "400" in line]
    assert row == "| a\\|b &lt;script>& | 400 (1.00 ms) |"
    titles = [title.text for title in ElementTree.fromstring(svg(part)).iter(f"{SVG}title")]
    assert titles == [name]


def test_a_part_without_charts_has_no_picture() -> None:
    (part,) = parts((replace(MEMORY, outcome="out_of_memory"),), "x")
    assert svg(part) == ""


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"gpu": "A100"}, "runs in 2 environments (H200, torch unknown; A100, torch unknown): give those of one"),
        (None, "no line is that of a benchmark run"),
    ],
)
def test_what_cannot_be_shown_together(tmp_path: Path, environment: dict[str, str] | None, said: str) -> None:
    paths = [written(tmp_path / "a", MEMORY)]
    if environment is None:
        (paths[0] / "benchmarks.jsonl").write_text("{}\n")
    else:
        paths.append(written(tmp_path / "b", MEMORY, run=replace(RUN, id="b", environment=environment)))
    done = CliRunner().invoke(main, [*map(str, paths), f"--output={tmp_path / 'out'}"])
    assert done.exit_code == 2
    assert said in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()


def test_a_folder_without_records_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, [str(tmp_path), f"--output={tmp_path}"])
    assert done.exit_code == 2
    assert "there is no such file; a benchmark run leaves benchmarks.jsonl" in done.output


def test_it_needs_no_torch() -> None:
    code = "import sys; import fa2verify.benchmarks.results; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
