"""Whatever a kernel does short of taking the process down is a verdict on that kernel, and harms nobody else."""

import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.tensors import Tensors
from fa2verify.reports.record import Record
from fa2verify.verify.judgement.decoys import DECOYS
from fa2verify.verify.trial.attempt import Bench, ContextLost, attempt

CALL = Problem(lengths=Dense(seqlen_q=5, seqlen_k=9), heads_q=2, head_dim=24, causal="bottom_right")
BACKWARD = replace(CALL, direction="forward_backward")
BENCH = Bench(torch.device("cpu"))
Make = Callable[..., Kernel]
Right = Callable[[Problem, Tensors], Outputs]


@pytest.fixture
def verdict(made: Make) -> Callable[..., Record]:
    def verdict(call: Callable[[Problem, Tensors], Any], problem: Problem = CALL, **attributes: Any) -> Record:
        return attempt(made(call, **attributes), problem, BENCH, "a test")

    return verdict


Verdict = Callable[..., Record]


def test_passed(verdict: Verdict, right: Right) -> None:
    record = verdict(right, BACKWARD)
    assert (record.verdict, record.rule, record.message) == ("passed", None, "")
    assert Problem.from_json(json.dumps(record.problem)) == BACKWARD
    assert record.features == ("float16", "dense", "MQA", "head_dim <= 128", "causal bottom-right", "backward")
    assert [error.output for error in record.errors] == ["out", "lse", "dq", "dk", "dv"]
    assert record.decoys == dict.fromkeys(DECOYS, "caught")
    assert record.seconds > 0
    assert (record.kernel, record.test, record.phase, record.reference) == ("made", "a test", "drawn", "fp64")


def test_failed(verdict: Verdict, right: Right) -> None:
    record = verdict(lambda p, t: replace(right(p, t), out=torch.zeros_like(t.q)))
    assert (record.verdict, record.rule) == ("failed", "R1 out")
    assert "max |out - reference| is " in record.message
    assert [error.output for error in record.errors] == ["out", "lse"]
    assert record.decoys == {}, "decoys judge the judge, on problems that passed"


def test_unsupported(made: Make, right: Right) -> None:
    calls: list[Problem] = []
    kernel = made(lambda p, t: calls.append(p))
    kernel.unsupported = lambda problem: ("It takes nothing.", "Not even this.")  # type: ignore[method-assign]
    record = attempt(kernel, CALL, BENCH)
    assert (record.verdict, record.rule, record.message) == ("unsupported", None, "")
    assert record.reasons == ("It takes nothing.", "Not even this.")
    assert calls == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("first line\nsecond line"), "ValueError: first line"),
        (RuntimeError(""), "RuntimeError: RuntimeError"),
        (AssertionError(), "AssertionError: AssertionError"),
        (MemoryError("host"), "MemoryError: host"),
        (RecursionError("deep"), "RecursionError: deep"),
        (StopIteration(), "StopIteration: StopIteration"),
        (SystemExit(3), "SystemExit: 3"),
        (pytest.skip.Exception("not here"), "Skipped: not here"),
        (pytest.exit.Exception("enough"), "Exit: enough"),
    ],
)
def test_raised(verdict: Verdict, error: BaseException, expected: str) -> None:
    """Also what is no Exception: a kernel that skips, or leaves, has not passed."""

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        raise error

    record = verdict(call)
    line = call.__code__.co_firstlineno + 1
    assert (record.verdict, record.rule) == ("crashed", f"raised {type(error).__name__}")
    assert record.message == f"{expected} (test_attempt.py:{line})"


def test_ctrl_c_is_the_users_and_no_verdict(verdict: Verdict) -> None:
    def call(problem: Problem, tensors: Tensors) -> Outputs:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        verdict(call)


def test_out_of_memory_is_a_verdict_and_no_skip(verdict: Verdict) -> None:
    def call(problem: Problem, tensors: Tensors) -> Outputs:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB.\nmore")

    record = verdict(call)
    assert (record.verdict, record.rule) == ("failed", "out of memory")
    assert record.message == "CUDA out of memory. Tried to allocate 80 GiB."


def test_out_of_memory_on_a_large_problem_is_no_failure_and_no_silence(made: Make) -> None:
    def call(problem: Problem, tensors: Tensors) -> Outputs:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 233024.78 GiB.\nmore")

    record = attempt(made(call), replace(CALL, values="sampled"), BENCH)
    assert (record.verdict, record.rule, record.message) == ("unsupported", None, "")
    assert record.reasons == (
        "The call ran out of memory on this large problem: CUDA out of memory. Tried to allocate 233024.78 GiB.",
    )


def test_any_other_fault_on_a_large_problem_is_what_it_was(made: Make) -> None:
    def call(problem: Problem, tensors: Tensors) -> Outputs:
        raise RuntimeError("CUDA out of memory")

    record = attempt(made(call), replace(CALL, values="sampled"), BENCH)
    assert (record.verdict, record.rule) == ("crashed", "raised RuntimeError")


def test_a_real_allocation_that_is_too_large(verdict: Verdict) -> None:
    record = verdict(lambda p, t: torch.empty(2**60, dtype=torch.uint8))
    assert (record.verdict, record.rule) == ("crashed", "raised RuntimeError")
    assert "memory" in record.message


@pytest.mark.parametrize(
    ("answer", "named"), [(None, "NoneType"), (3, "int"), ((1, 2), "tuple"), (torch.zeros(2), "Tensor")]
)
def test_something_else_than_outputs(verdict: Verdict, answer: object, named: str) -> None:
    record = verdict(lambda p, t: answer)
    assert (record.verdict, record.rule) == ("failed", "R0 outputs")
    assert record.message == f"the call returned {named}, not Outputs"


def test_none_for_an_output(verdict: Verdict) -> None:
    record = verdict(lambda p, t: Outputs(None))  # type: ignore[arg-type]
    assert (record.verdict, record.rule, record.message) == ("failed", "R0 out missing", "out is None, not a tensor")


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda out: out[:, :-1], "R0 out shape"),
        (lambda out: out.squeeze(0), "R0 out shape"),
        (lambda out: out.float(), "R0 out dtype"),
        (lambda out: out.to("meta"), "R0 out device"),
        (lambda out: out * float("nan"), "R0 out finite"),
    ],
)
def test_a_wrong_form(verdict: Verdict, right: Right, spoil: Callable[[Any], Any], rule: str) -> None:
    record = verdict(lambda p, t: replace(right(p, t), out=spoil(right(p, t).out)))
    assert (record.verdict, record.rule) == ("failed", rule)


@pytest.mark.parametrize("kind", ["sparse", "complex", "quantized", "subclass"])
def test_a_strange_tensor(verdict: Verdict, right: Right, kind: str) -> None:
    """Whatever it is, it is judged or refused, and raises nothing here."""
    make: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "sparse": lambda out: out.to_sparse(),
        "complex": lambda out: out.to(torch.complex64),
        "quantized": lambda out: torch.quantize_per_tensor(out.float(), 0.1, 0, torch.qint8),
        "subclass": lambda out: torch.nn.Parameter(out, requires_grad=True),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on making them
        record = verdict(lambda p, t: replace(right(p, t), out=make[kind](right(p, t).out)))
    expected = "passed" if kind == "subclass" else "failed"
    assert record.verdict == expected
    assert kind == "subclass" or record.rule in ("R0 out layout", "R0 out dtype")


@pytest.mark.parametrize("name", ["q", "k", "v", "dout", "cu_seqlens_q", "cu_seqlens_k", "alibi_slopes"])
def test_changed_inputs(verdict: Verdict, right: Right, name: str) -> None:
    varlen = Problem.from_json('{"lengths": {"seqlens_q": [2, 3], "seqlens_k": [4, 3]}, "alibi": "per_head"}')

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        getattr(tensors, name).reshape(-1)[0] += 1
        return outputs

    record = verdict(call, varlen)
    assert (record.verdict, record.rule) == ("failed", "R0 inputs unchanged")
    assert record.message == f"the call changed its inputs: {name}"


@pytest.mark.parametrize("layout", ["sliced", "offset"])
def test_changed_gaps(verdict: Verdict, right: Right, layout: Any) -> None:
    """What lies between a slice's rows is somebody else's memory."""

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        memory = tensors.k.as_strided((tensors.k.untyped_storage().nbytes() // 2,), (1,), 0)
        gap = int(memory.isnan().nonzero()[0])
        memory[gap] = 0.0
        return outputs

    record = verdict(call, replace(CALL, layout=layout))
    assert (record.verdict, record.rule) == ("failed", "R0 inputs unchanged")
    assert record.message == "the call changed its inputs: k"


def test_packed_inputs_are_one_memory(verdict: Verdict, right: Right) -> None:
    square = replace(CALL, heads_q=1, lengths=Dense(seqlen_q=5, seqlen_k=5), layout="qkv_packed")

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        tensors.v.zero_()
        return outputs

    assert verdict(call, square).rule == "R0 inputs unchanged"


def test_the_sign_of_a_zero_is_a_change(verdict: Verdict, right: Right) -> None:
    """Bytes are compared, so that -0.0 for 0.0, and one NaN for another, are seen."""

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        tensors.q[tensors.q == 0] = 0.0
        return outputs

    problem = replace(CALL, values="negative_zero")
    assert verdict(right, problem).verdict == "passed"
    assert verdict(call, problem).rule == "R0 inputs unchanged"


def test_a_warning_is_no_verdict(verdict: Verdict, right: Right) -> None:
    """Not even where warnings are errors, as in this test run."""

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        warnings.warn("this kernel is experimental", UserWarning, stacklevel=1)
        return right(problem, tensors)

    assert verdict(call).verdict == "passed"


def test_output_that_shares_an_inputs_memory_is_no_change(verdict: Verdict) -> None:
    """One key: out is v. A kernel that gives v itself, though foolish, is right."""
    one = Problem(lengths=Dense(seqlen_q=1, seqlen_k=1), head_dim=8)
    assert verdict(lambda p, t: Outputs(t.v), one, gives_lse=False).verdict == "passed"


def test_the_guard_is_entered_around_the_call_alone(made: Make, right: Right) -> None:
    """With the verdict that holds if the process does not come back; an unsupported problem needs none."""
    seen: list[Any] = []

    @contextmanager
    def guard(note: Record) -> Iterator[None]:
        seen.append(note)
        yield
        seen.append("left")

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        seen.append("called")
        return right(problem, tensors)

    attempt(made(call), CALL, Bench(torch.device("cpu"), guard=guard), "a test")
    note, *rest = seen
    again, *second = rest[2:]
    assert rest[:2] == second == ["called", "left"]
    assert (again.rule, again.message) == (
        "process died, second call",
        "the process died, called again with the same values in other memory, layout 'plain'",
    )
    assert (note.verdict, note.rule, note.message) == (
        "crashed",
        "process died",
        "the process died during the call",
    )
    assert (note.kernel, note.test, note.problem) == ("made", "a test", CALL.to_dict())


def test_a_lost_cuda_context_is_told_apart(verdict: Verdict, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error after which the device does not even synchronise: the process must leave."""
    calls = sys.modules["fa2verify.verify.trial.call"]

    def lost(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(calls, "_synchronize", lost)
    with pytest.raises(ContextLost, match="illegal memory access"):
        verdict(lambda p, t: Outputs(t.q))


def test_fp32_reference_is_recorded(made: Make, right: Right) -> None:
    record = attempt(made(right), CALL, Bench(torch.device("cpu"), "fp32"))
    assert (record.verdict, record.reference) == ("passed", "fp32")
