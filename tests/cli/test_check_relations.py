"""`fa2verify check` says of one problem what a run says of it, relations between calls included."""

from pathlib import Path

from click.testing import CliRunner

from fa2verify.cli.main import main

KERNEL = """
import torch

kept = {}

def right(q, k, v):
    scores = torch.einsum("bihd,bjhd->bhij", q, k).float() * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1).to(q.dtype), v)

def keeps_its_output(q, k, v):
    return kept.setdefault(q.shape, torch.empty_like(q)).copy_(right(q, k, v))
"""
PROBLEM = '{"heads_q":2,"heads_kv":2,"head_dim":8}'


def test_a_relation_that_does_not_hold(tmp_path: Path) -> None:
    (tmp_path / "foreign.py").write_text(KERNEL)

    def check(function: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, ["check", f"{tmp_path / 'foreign.py'}:{function}", PROBLEM, "--device=cpu"])
        return result.exit_code, result.output

    status, shown = check("right")
    assert (status, shown.splitlines()[0].rsplit(":", 1)[1]) == (0, " passed")
    status, shown = check("keeps_its_output")
    assert (status, shown.splitlines()[0].rsplit(":", 1)[1]) == (1, " failed, R4 kept results out")
    assert "of the first call, after others, is nan, not " in shown
