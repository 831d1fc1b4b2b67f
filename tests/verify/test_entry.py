"""A plugin is loaded where its suite is asked for, and nowhere else."""

from pathlib import Path

import pytest

import fa2verify.verify
from fa2verify.verify.entry import names_suite

SUITE = Path(fa2verify.verify.__file__).parent


@pytest.mark.parametrize(
    "argument",
    [
        "fa2verify.verify",
        "fa2verify.verify.test_forward",
        "fa2verify.verify.test_forward::test_dense",
        str(SUITE),
        str(SUITE / "test_forward.py"),
        f"{SUITE / 'test_forward.py'}::test_dense[sdpa-0]",
        str(SUITE.parent / "verify" / ".." / SUITE.name),
    ],
)
def test_the_suite_is_named(argument: str, tmp_path: Path) -> None:
    assert names_suite("verify", argument, tmp_path)


@pytest.mark.parametrize(
    "argument",
    [
        "tests",
        "fa2verify",
        "fa2verify.kernels",
        "fa2verify.verifyother",
        "--kernel=fa2verify.verify",
        "-k",
        "x" * 5000,
        "a\0b",
        "",
        "::test_dense",
    ],
)
def test_it_is_not(argument: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert not names_suite("verify", argument, tmp_path)


def test_a_folder_of_a_strangers_that_is_called_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pytest verify` is a natural thing to type in many repositories."""
    (tmp_path / "verify").mkdir()
    (tmp_path / "verify" / "test_mine.py").touch()
    monkeypatch.chdir(tmp_path)
    assert not names_suite("verify", "verify", tmp_path)
    assert not names_suite("verify", "verify/test_mine.py", tmp_path)


def test_a_checkout_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the fa2verify that is installed is another one."""
    (tmp_path / "verify").mkdir()
    for name in ("entry.py", "plugin.py"):
        (tmp_path / "verify" / name).write_text((SUITE / name).read_text())
    monkeypatch.chdir(tmp_path)
    assert names_suite("verify", "verify", tmp_path)
    assert names_suite("verify", "verify/test_forward.py::test_dense", tmp_path)
    assert not names_suite("verify", "tests", tmp_path)


def test_benchmarks_are_a_suite_of_their_own(tmp_path: Path) -> None:
    folder = SUITE.parent / "benchmarks"
    for argument in ("fa2verify.benchmarks", "fa2verify.benchmarks.bench_host", str(folder / "bench_host.py")):
        assert names_suite("benchmarks", argument, tmp_path)
        assert not names_suite("verify", argument, tmp_path)
    assert not names_suite("benchmarks", str(SUITE), tmp_path)
    assert not names_suite("benchmarks", "elsewhere/benchmarks", tmp_path)
