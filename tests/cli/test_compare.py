from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from fa2verify.cli.compare import compare_runs
from fa2verify.reports.record import Record, Run, VerdictName
from fa2verify.reports.store import Writer

REAL = Path(__file__).parents[2] / "docs" / "results" / "h200-2026-11-20"


@pytest.fixture
def invoke() -> Callable[..., Result]:
    return lambda *arguments: CliRunner().invoke(compare_runs, [str(argument) for argument in arguments])


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, *verdicts: VerdictName) -> Path:
        environment = {"torch": name}
        header = Run(
            id=name, started="now", profile="quick", seed=1, device="cpu", environment=environment, features=()
        )
        with Writer(tmp_path / name / "records.jsonl") as writer:
            writer.write(header)
            for seed, verdict in enumerate(verdicts):
                rule = "R2 <out>" if verdict == "failed" else None
                writer.write(Record(kernel="ours", problem={"seed": seed}, features=(), verdict=verdict, rule=rule))
        return tmp_path / name

    return write


def test_worse_is_1_and_says_what(invoke: Callable[..., Result], run: Callable[..., Path], tmp_path: Path) -> None:
    a, b = run("old", "passed", "passed", "failed"), run("new", "passed", "failed", "passed")
    page = tmp_path / "made" / "page.html"
    result = invoke(a, b / "records.jsonl", "--html", page)
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "3 problems judged in both",
        "newly fails: 1",
        "  failed, R2 <out>: fa2verify check ours '{\"seed\":1}'",
        "newly passes: 1",
        "  passed: fa2verify check ours '{\"seed\":2}'",
        "0 failure rates of problems that only one has: 0 higher in B (p < 0.01)",
        "0 distributions of errors: 0 larger in B (p < 0.01, median more than 1.1x)",
        "differs: torch: old in A, new in B",
        "B is worse.",
    ]
    html = page.read_text(encoding="utf-8")
    assert "R2 &lt;out&gt;" in html
    assert "Newly fails: 1" in html
    assert "<script" not in html


def test_nothing_worse_is_0(invoke: Callable[..., Result], run: Callable[..., Path]) -> None:
    result = invoke(run("a", "failed", "passed"), run("b", "passed", "passed"))
    assert result.exit_code == 0
    assert result.stdout.endswith("Nothing is worse in B.\n")


def test_real_runs_and_races(invoke: Callable[..., Result], tmp_path: Path) -> None:
    for side in "ab":
        (tmp_path / side).mkdir()
        (tmp_path / side / "race.json").write_bytes((REAL / "race.json").read_bytes())
        (tmp_path / side / "records.jsonl").write_bytes((REAL / "our-kernels.jsonl").read_bytes())
    result = invoke(tmp_path / "a", tmp_path / "b", "--html", tmp_path / "page.html")
    assert result.exit_code == 0, result.output
    assert "36 cells timed in both, over torch-flash: 0 slower, 0 faster by more than 1.05x" in result.stdout
    assert invoke(REAL / "race.json", REAL / "race.json").exit_code == 0


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("nowhere", "a"), "nowhere: does not exist"),
        (("a", "empty"), "holds neither records.jsonl"),
        (("a", "bare"), "bare: holds no verdict"),
        (("a", "refused"), "no kernel judged problems in both runs"),
        (("broken.json", "broken.json"), "broken.json: not what"),
    ],
)
def test_what_cannot_be_compared_is_2(
    invoke: Callable[..., Result], run: Callable[..., Path], tmp_path: Path, names: tuple[str, str], message: str
) -> None:
    run("a", "passed"), run("bare"), run("refused", "unsupported")
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.json").write_text("{}")
    result = invoke(*(tmp_path / name for name in names))
    assert result.exit_code == 2
    assert message in result.stderr
