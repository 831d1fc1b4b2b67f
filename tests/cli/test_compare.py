from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from made_up import trained

from fa2verify.cli.compare import compare_runs
from fa2verify.reports.benchmark_record import BenchmarkRun, BenchmarkWriter, Memory, Timing
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


@pytest.fixture
def bench(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, slower: float = 1.0, device: Any = "cuda", outcome: Any = "measured") -> Path:
        path = tmp_path / name / "benchmarks.jsonl"
        times = [
            Timing(
                grid="flash",
                cell="flash-d64",
                kernel=kernel,
                direction="forward",
                problem={},
                outcome="measured",
                ms=tuple(ms * (1 + round_ / 100) for round_ in range(12)),
            )
            for kernel, ms in (("base", 1.0), ("ours <b>", 2.0 * slower))
        ]
        memory = Memory(
            cell="s64",
            kernel="ours",
            direction="both",
            problem={},
            seqlen=64,
            outcome=outcome,
            message="" if outcome == "measured" else "too much",
            bytes=int(slower * 2**30),
        )
        training = trained(cell="small", context=100, batch=10, step_ms=(slower * 100,))
        with BenchmarkWriter(path) as writer:
            run = BenchmarkRun(
                id=name, started="now", device=device, environment={"gpu": name}, options={"against": "base"}
            )
            writer.write(run, *times, memory, training)
        return path.parent

    return write


def test_slower_kernels_are_1_and_named(
    invoke: Callable[..., Result], bench: Callable[..., Path], tmp_path: Path
) -> None:
    a, b = bench("old"), bench("new", slower=1.2)
    page = tmp_path / "page.html"
    result = invoke(a, b / "benchmarks.jsonl", "--html", page)
    assert result.exit_code == 1, result.output
    assert result.output.splitlines() == [
        "4 measurements tried in both",
        "1 cell timed in both, over base: 1 slower, 0 faster by more than 1.05x",
        "  slower: ours <b> forward, flash-d64: 2.000 to 2.400, 1.20x",
        "1 peak of memory: 1 grew by more than rounding",
        "  more memory: memory of ours both, s64: 1,073,741,824 to 1,288,490,188 bytes",
        "1 training: 1 slower by more than 1.1x",
        "  slower: training with ours, eager, float16, small: 10,000 to 8,333 tokens/s",
        "differs: gpu: old in A, new in B",
        "B is worse.",
    ]
    html = page.read_text(encoding="utf-8")
    assert "ours &lt;b&gt; forward, flash-d64" in html
    assert html.count('<td class="bad">') == 3
    assert "1,288,490,188" in html
    assert invoke(b, a).exit_code == 0
    assert "over ours <b>: 0 slower, 1 faster" in invoke(a, b, "--against", "ours <b>").output


def test_what_cannot_be_measured_any_more_is_1(
    invoke: Callable[..., Result], bench: Callable[..., Path], tmp_path: Path
) -> None:
    a, b = bench("a", device="cpu"), bench("b", device="cpu", outcome="out_of_memory")
    result = invoke(a, b, "--html", tmp_path / "page.html")
    assert result.exit_code == 1
    assert "  of a CPU, whose times say only that the benchmarks work\nnewly fails: 1\n" in result.output
    assert "  out_of_memory: memory of ours both, s64: too much\n" in result.output
    assert "memory of ours both, s64</bdi>" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert invoke(b, a).exit_code == 0
    narrowed = invoke(a, bench("c", device="cpu", outcome="unsupported"))
    assert narrowed.exit_code == 0
    assert "no longer taken: 1\n  unsupported: memory of ours both" in narrowed.output


def test_folders_are_compared_in_all_that_both_hold(
    invoke: Callable[..., Result], bench: Callable[..., Path], run: Callable[..., Path], tmp_path: Path
) -> None:
    for side in "ab":
        bench(side)
    a, b = run("a", "passed"), run("b", "passed")
    both = invoke(a, b)
    assert both.exit_code == 0, both.output
    assert "1 problem judged in both" in both.stdout
    assert "1 cell timed in both" in both.stdout
    (b / "records.jsonl").unlink()
    times = invoke(a, b)
    assert times.exit_code == 0
    assert "not compared: verdicts, which A alone has" in times.stderr
    assert "judged in both" not in times.stdout
    judged = invoke(run("other", "passed"), a)
    assert judged.exit_code == 0
    assert "not compared: benchmarks, which B alone has" in judged.stderr
    assert "timed in both" not in judged.stdout


def test_a_real_run_and_itself(invoke: Callable[..., Result]) -> None:
    result = invoke(REAL / "every-kernel.jsonl", REAL / "every-kernel.jsonl")
    assert result.exit_code == 0, result.output
    # Of 8 kernels: 4 tensors, 2 measures; and lse of our two, FlexAttention and varlen_attn.
    assert "68 distributions of errors: 0 larger in B" in result.stdout


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("nowhere", "a"), "nowhere: does not exist"),
        (("a", "empty"), "holds neither records.jsonl"),
        (("a", "bare"), "bare: holds no verdict"),
        (("a", "refused"), "no kernel judged problems in both runs"),
        (("timed", "a"), "timed: holds neither records.jsonl"),
        (("timed", "broken"), "a line is not what benchmarks write: Invalid JSON"),
        (("timed", "elsewhere"), "A was measured on cuda, B on cpu"),
    ],
)
def test_what_cannot_be_compared_is_2(
    invoke: Callable[..., Result],
    run: Callable[..., Path],
    bench: Callable[..., Path],
    tmp_path: Path,
    names: tuple[str, str],
    message: str,
) -> None:
    run("a", "passed"), run("bare"), run("refused", "unsupported")
    (tmp_path / "empty").mkdir()
    bench("timed"), bench("elsewhere", device="cpu")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "benchmarks.jsonl").write_text("{\n")
    result = invoke(*(tmp_path / name for name in names))
    assert result.exit_code == 2
    assert message in result.stderr
