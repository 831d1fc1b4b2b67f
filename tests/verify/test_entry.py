"""The plugin is loaded where the suite is asked for, and nowhere else."""

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
    assert names_suite(argument, tmp_path)


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
    assert not names_suite(argument, tmp_path)


def test_a_folder_of_a_strangers_that_is_called_verify(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`pytest verify` is a natural thing to type in many repositories."""
    (tmp_path / "verify").mkdir()
    (tmp_path / "verify" / "test_mine.py").touch()
    monkeypatch.chdir(tmp_path)
    assert not names_suite("verify", tmp_path)
    assert not names_suite("verify/test_mine.py", tmp_path)


def test_a_checkout_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the fa2verify that is installed is another one."""
    (tmp_path / "verify").mkdir()
    for name in ("entry.py", "plugin.py"):
        (tmp_path / "verify" / name).write_text((SUITE / name).read_text())
    monkeypatch.chdir(tmp_path)
    assert names_suite("verify", tmp_path)
    assert names_suite("verify/test_forward.py::test_dense", tmp_path)
    assert not names_suite("tests", tmp_path)
