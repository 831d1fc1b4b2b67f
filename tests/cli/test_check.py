"""`fa2verify check` and `fa2verify kernels` on known failures."""

import pytest
from click.testing import CliRunner, Result

from fa2verify.cli import check as checking
from fa2verify.cli.main import main
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.verify.known_failures.ledger import KnownFailure, Ledger

SMALLEST = Problem(lengths=Dense(seqlen_q=2, seqlen_k=17), head_dim=8)
SHORT = Problem(lengths=Dense(seqlen_q=2, seqlen_k=3), head_dim=8)
KERNELS = """
import ctypes
import torch

def right(q, k, v):
    scores = torch.einsum("bihd,bjhd->bhij", q, k).float() * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1).to(q.dtype), v)

def segfaults(q, k, v):
    if k.shape[1] > 16:
        ctypes.string_at(0)
    return right(q, k, v)

def wrong(q, k, v):
    return right(q, k, v) + (k.shape[1] > 16)
"""


@pytest.fixture
def spec(tmp_path, monkeypatch):
    """Makes the spec of a kernel, which the ledger has as failing for every number of keys above 2."""
    (tmp_path / "foreign.py").write_text(KERNELS)

    def make(name: str, verdict, *rules: str) -> str:
        spec = f"{tmp_path / 'foreign.py'}:{name}"
        entry = KnownFailure(
            name="many-keys",
            says="More than sixteen keys.",
            link="https://example.org/1",
            kernels=(spec,),
            covers=lambda problem: problem.seqlens_k[0] > 2,
            verdict=verdict,
            rules=rules,
            smallest=SMALLEST,
        )
        monkeypatch.setattr(checking, "LEDGER", Ledger((entry,)))
        return spec

    return make


def checked(spec: str, problem: Problem) -> Result:
    return CliRunner().invoke(main, ["check", spec, problem.to_json(), "--device=cpu"])


def test_a_problem_that_fails_as_the_ledger_says(spec) -> None:
    result = checked(spec("wrong", "failed", "R1"), SMALLEST)
    assert result.exit_code == 1, result.output
    assert "wrong: failed, R1 out" in result.output
    assert "  this is the known failure many-keys: More than sixteen keys. https://example.org/1" in result.output


def test_a_problem_that_fails_otherwise_or_passes(spec) -> None:
    result = checked(spec("wrong", "failed", "R0"), SMALLEST)
    assert result.exit_code == 1, result.output
    assert "  this is another failure than failed, R0, of the known failure many-keys: " in result.output
    result = checked(spec("wrong", "failed", "R1"), SHORT)
    assert result.exit_code == 0, result.output
    assert "  it passed, although the problem is among those of the known failure many-keys: " in result.output
    result = checked(spec("right", "failed", "R1"), Problem(lengths=Dense(seqlen_k=1), head_dim=8))
    assert "known failure" not in result.output


def test_a_problem_that_ends_the_process(spec) -> None:
    """The command survives it, and says what it was."""
    result = checked(spec("segfaults", "crashed", "process died"), SMALLEST)
    assert result.exit_code == 1, result.output
    assert "the process died of signal 11 (SIGSEGV) during the call" in result.output
    assert "  this is the known failure many-keys: " in result.output


def test_a_kernel_that_cannot_say_what_it_takes(tmp_path) -> None:
    module = tmp_path / "silent.py"
    module.write_text(
        "from fa2verify.kernels.kernel import Kernel\n"
        "class Silent(Kernel):\n"
        "    name, lineage = 'silent', 'test'\n"
        "    def unavailable(self, device):\n        return ()\n"
        "    def unsupported(self, problem):\n        raise KeyError('odd')\n"
        "    def __call__(self, problem, tensors):\n        raise NotImplementedError\n"
    )
    result = checked(f"{module}:Silent", SHORT)
    assert result.exit_code == 1, result.output
    assert "silent: crashed, unsupported() gave no answer\n  unsupported() raised KeyError: 'odd'" in result.output
    listed = CliRunner().invoke(main, ["kernels", "--device=cpu", f"--kernel={module}:Silent"])
    assert listed.exit_code == 0, listed.output
    assert "Its unsupported() raised KeyError: 'odd'." in " ".join(listed.output.split())


def test_a_kernel_s_known_failures_are_listed_wherever_they_hold() -> None:
    listed = CliRunner().invoke(main, ["kernels", "--device=cpu", "--kernel=torch-varlen", "--kernel=torch-math"])
    said = " ".join(listed.output.split())
    assert "known Without a single query the forward launches a grid of no blocks, which CUDA refuses." in said
    assert "compute capability 9.0, so not here)" in said
    assert "docs/findings/sdpa-without-a-key.md (with torch ==2.13.*, cpu" in said
