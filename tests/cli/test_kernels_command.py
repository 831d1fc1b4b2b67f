"""`fa2verify` and `fa2verify kernels`, as a person sees them."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from fa2verify.cli.main import main


def test_help_names_every_subcommand_without_importing_torch() -> None:
    script = """
import sys
from fa2verify.cli.main import main
main(["--help"], standalone_mode=False)
print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    for name in ("check", "kernels", "report"):
        assert f"  {name} " in done.stdout
    assert done.stdout.endswith("False\n")


def test_an_unknown_subcommand() -> None:
    result = CliRunner().invoke(main, ["kernel"])
    assert result.exit_code == 2
    assert "No such command 'kernel'" in result.output


def test_every_kernel_within_80_columns() -> None:
    result = CliRunner().invoke(main, ["kernels", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert max(map(len, lines)) <= 80
    assert "torch-math: available on cpu" in lines
    assert "torch-flash: unavailable on cpu" in lines
    assert "  why not   It runs on CUDA devices alone, not on 'cpu'." in lines
    assert lines[-1].endswith("kernels can run on cpu.")


def test_what_one_kernel_supports_and_lacks() -> None:
    result = CliRunner().invoke(main, ["kernels", "--device", "cpu", "--kernel", "torch-flex-cpu"])
    assert result.output.splitlines()[:3] == [
        "torch-flex-cpu: available on cpu",
        "  lineage   pytorch/inductor flex template (c++)",
        "  origin    built in",
    ]
    # Two features, one reason, said once.
    assert "  lacks     backward, deterministic: flex_attention has no backward on a CPU:" in result.output


def test_a_function_by_its_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "listed.py").write_text("def attention(q, k, v):\n    return q\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    result = CliRunner().invoke(main, ["kernels", "--kernel", "listed.py:attention", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "  origin    --kernel=listed.py:attention" in result.output
    assert "  lacks     causal bottom-right: The function has no parameter causal." in result.output


def test_a_kernel_that_cannot_be_found_exits_with_2() -> None:
    result = CliRunner().invoke(main, ["kernels", "--kernel", "torch-mth"])
    assert result.exit_code == 2
    assert "did you mean 'torch-math'" in result.output


def test_cuda_is_asked_for_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = CliRunner().invoke(main, ["kernels", "--device", "cuda", "--kernel", "torch-math"])
    assert "torch-math: unavailable on cuda" in result.output
    assert "why not   torch sees no CUDA device." in result.output
