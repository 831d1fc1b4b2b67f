"""A call that writes around a tensor and gives wrong outputs: both are named, and a known one hides no other."""

import ctypes
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.tensors import Tensors
from fa2verify.reports.record import Record
from fa2verify.verify.known_failures.ledger import in_light_of
from fa2verify.verify.known_failures.ledger_file import read
from fa2verify.verify.trial.attempt import Bench, attempt

CALL = Problem(lengths=Dense(seqlen_q=5, seqlen_k=5), heads_q=2, heads_kv=2, head_dim=24)
BACKWARD = replace(CALL, direction="forward_backward")
# A ledger in which the write is known, by the widest name that says no more than that.
KNOWN = """
[[known]]
name = "past-a-workspace"
says = "It writes behind its workspace."
link = "https://example.org/issues/1"
kernels = ["made"]
verdict = "failed"
rules = ["R0 memory"]
smallest = '{"head_dim":8}'
where = {head_dim = "> 1"}
"""

Make = Callable[..., Kernel]
Right = Callable[[Problem, Tensors], Outputs]
Verdict = Callable[..., Record]


def write_past_a_workspace(tensors: Tensors) -> None:
    workspace = tensors.q.new_empty(7)
    ctypes.memset(workspace.data_ptr() + 14, 0, 2)


@pytest.fixture
def verdict(made: Make, right: Right) -> Verdict:
    """On a kernel that writes past a workspace, and does to tensors and outputs what it is asked to."""

    def judged(spoil: Callable[[Tensors, Outputs], object] = lambda *_: None) -> Record:
        def call(problem: Problem, tensors: Tensors) -> Outputs:
            outputs = right(problem, tensors)
            write_past_a_workspace(tensors)
            spoil(tensors, outputs)
            return outputs

        return attempt(made(call), BACKWARD, Bench(torch.device("cpu")))

    return judged


@pytest.mark.parametrize(
    ("name", "index", "rule"),
    [("out", (0, 1, 0, 3), "R1 out"), ("lse", (0, 1, 4), "R2 lse"), ("dv", (0, 4, 1, 0), "R1 dv")],
)
def test_a_known_write_hides_no_wrong_output(
    verdict: Verdict, tmp_path: Path, name: str, index: tuple[int, ...], rule: str
) -> None:
    def spoil(tensors: Tensors, outputs: Outputs) -> None:
        getattr(outputs, name)[index] += 1

    file = tmp_path / "known.toml"
    file.write_text(KNOWN)
    entries = read(file)
    known = in_light_of(entries, BACKWARD, verdict())
    assert (known.verdict, known.rule, known.known) == ("known", "R0 memory around a workspace", "past-a-workspace")

    record = in_light_of(entries, BACKWARD, verdict(spoil))
    assert (record.verdict, record.rule) == ("failed", f"R0 memory around a workspace, and {rule}")
    assert record.message.startswith("the call wrote 1 element after a workspace, float16 (7,), ")
    assert f"; max |{name} - reference| is " in record.message or f"; {name}[0, 1, 4] is " in record.message


def test_outputs_of_changed_inputs_are_not_judged(verdict: Verdict) -> None:
    """There is no reference for them any more."""
    assert verdict(lambda tensors, _: tensors.q.zero_()).rule == "R0 inputs unchanged"


def test_what_is_no_output_is_named_too(made: Make) -> None:
    def call(problem: Problem, tensors: Tensors) -> Any:
        write_past_a_workspace(tensors)

    record = attempt(made(call), CALL, Bench(torch.device("cpu")))
    assert record.rule == "R0 memory around a workspace, and R0 outputs"
    assert record.message.endswith("; the call returned NoneType, not Outputs")
