"""A ledger in TOML: what its predicates mean, and what it is told when it is wrong."""

from pathlib import Path
from typing import Any

import pytest

from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.verify.known_failures.ledger import LedgerError
from fa2verify.verify.known_failures.ledger_file import read

PLAIN = {
    "name": '"long-keys"',
    "says": '"Keys past the first block are left out."',
    "link": '"https://example.org/issues/7"',
    "kernels": '["made"]',
    "verdict": '"failed"',
    "rules": '["R1"]',
    "smallest": """'{"lengths":{"seqlen_k":129},"head_dim":8}'""",
    "where": '{seqlen_k = "> 128"}',
}


def written(tmp_path: Path, **changes: str | None) -> Path:
    file = tmp_path / "known.toml"
    lines = [f"{name} = {value}" for name, value in {**PLAIN, **changes}.items() if value is not None]
    file.write_text("\n".join(["[[known]]", *lines]))
    return file


def test_an_entry(tmp_path: Path) -> None:
    limits = {"packages": '{torch = ">=2.11"}', "device": '"cuda"', "capabilities": '["9.0", "12.0"]'}
    (entry,) = read(written(tmp_path, **limits))
    assert (entry.name, entry.kernels, entry.verdict, entry.rules) == ("long-keys", ("made",), "failed", ("R1",))
    assert entry.smallest == Problem(lengths=Dense(seqlen_k=129), head_dim=8)
    assert entry.where == "torch >=2.11, cuda, compute capability 9.0 or 12.0"
    (entry,) = read(written(tmp_path))
    assert entry.where == "everywhere"


def test_the_example_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "findings" / "README.md").read_text()
    file = tmp_path / "known.toml"
    file.write_text(page.partition("```toml\n")[2].partition("```")[0])
    (entry,) = read(file)
    assert entry.covers(Problem(lengths=Dense(seqlen_k=129)))
    assert not entry.covers(Problem(lengths=Dense(seqlen_k=129), direction="forward_backward"))


@pytest.mark.parametrize(
    ("where", "covered", "not_covered"),
    [
        ("head_dim = 64", {}, {"head_dim": 8}),
        ("head_dim = [8, 64]", {}, {"head_dim": 16}),
        ('head_dim = ">= 64"', {}, {"head_dim": 63}),
        ('head_dim = "<65"', {}, {"head_dim": 65}),
        ('head_dim = "!= 8"', {}, {"head_dim": 8}),
        ('head_dim = "<= 64"', {}, {"head_dim": 65}),
        ('scale = "< 0.2"', {}, {"scale": 0.3}),
        ('causal = "none"', {}, {"causal": "top_left"}),
        ('causal = ["top_left", "bottom_right"]', {"causal": "top_left"}, {}),
        ("group = 4", {"heads_q": 8, "heads_kv": 2}, {"heads_q": 4, "heads_kv": 2}),
        ("window_right = -1\nwindow_left = 0", {"window": (0, -1)}, {"window": (0, 0)}),
        ("varlen = true", {"lengths": Varlen(seqlens_q=(1,), seqlens_k=(1,))}, {}),
        ("backward = false", {}, {"direction": "forward_backward"}),
        ("seqlen_q = 0", {"lengths": Varlen(seqlens_q=(3, 0), seqlens_k=(1, 1))}, {}),
        ("batch = 2\nseqlen_q = 3", {"lengths": Dense(batch=2, seqlen_q=3)}, {"lengths": Dense(seqlen_q=3)}),
    ],
)
def test_predicates(tmp_path: Path, where: str, covered: dict[str, Any], not_covered: dict[str, Any]) -> None:
    smallest = Problem(**covered)
    inline = "{" + where.replace("\n", ", ") + "}"
    (entry,) = read(written(tmp_path, where=inline, smallest=f"'{smallest.to_json()}'"))
    assert entry.covers(smallest)
    assert not entry.covers(Problem(**not_covered))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"where": None}, "known.0.where: Field required"),
        ({"where": "{}"}, "where is empty; an entry that covers every problem hides every failure"),
        ({"where": "{seqlen = 3}"}, "where.seqlen is no field; known are alibi, backward, "),
        ({"where": '{seqlen_k = "> many"}'}, "where.seqlen_k is '> many'; after > stands a number"),
        ({"where": '{dtype = "> 16"}'}, "where.dtype is '> 16'; the field is text, which is equal or not"),
        ({"rule": '"R1"'}, "known.0.rule: Extra inputs are not permitted"),
        ({"verdict": '"passed"'}, "known.0.verdict: Input should be 'failed', 'crashed' or 'timed_out'"),
        ({"capabilities": '["sm_90"]', "device": '"cuda"'}, """capabilities has 'sm_90'; one is said as in "9.0\""""),
        ({"smallest": "'{\"head_dim\":0}'"}, "smallest is no problem: head_dim: "),
        ({"smallest": "'{}'"}, "smallest is {}, which the entry does not cover"),
        ({"name": "3 4"}, "Expected newline or end of document after a statement"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    file = written(tmp_path, **changes)
    with pytest.raises(LedgerError) as caught:
        read(file)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{file}: ")


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"nowhere\.toml: cannot be read: No such file or directory$"):
        read(tmp_path / "nowhere.toml")
