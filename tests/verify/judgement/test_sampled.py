"""What is judged on a sample: a kernel whose index wraps fails wherever it wraps, and one that is right passes."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from fa2verify.kernels import sample as limits
from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.tensors import Tensors
from fa2verify.reports.record import Record
from fa2verify.verify.judgement import sampled as module
from fa2verify.verify.trial.attempt import Bench, attempt

# Where an index wraps here, in elements: 2^31 in small.
WRAP = 2**12
HEADS, DIM = 2, 16
ROW = HEADS * DIM
WRAPPED = WRAP // ROW

LONG = Problem(
    values="sampled",
    lengths=Dense(seqlen_q=300, seqlen_k=5),
    heads_q=HEADS,
    heads_kv=HEADS,
    head_dim=DIM,
    direction="forward_backward",
)
PROBLEMS = {
    "queries": LONG,
    "sequences": replace(LONG, lengths=Dense(batch=60, seqlen_q=4, seqlen_k=6)),
    "packed": replace(LONG, lengths=Varlen(seqlens_q=(1, 3, *[4] * 40, 2), seqlens_k=(3, 5, *[6] * 40, 2))),
    "window": replace(LONG, lengths=Dense(seqlen_q=290, seqlen_k=290), window=(5, 0), causal="bottom_right"),
    "whole sequences": replace(LONG, lengths=Dense(batch=20, seqlen_q=20, seqlen_k=20), causal="top_left"),
}
Make = Callable[..., Kernel]
Right = Callable[[Problem, Tensors], Outputs]


@pytest.fixture(autouse=True)
def _small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ELEMENTS", (WRAP,))
    monkeypatch.setattr(limits, "COUNTS", (2**5,))


@pytest.fixture
def verdict(made: Make) -> Callable[..., Record]:
    def verdict(call: Callable[[Problem, Tensors], Any], problem: Problem = LONG, **attributes: Any) -> Record:
        return attempt(made(call, **attributes), problem, Bench(torch.device("cpu")), "a test")

    return verdict


Verdict = Callable[..., Record]


def tokens(tensor: Tensor) -> Tensor:
    """(tokens, heads, head_dim), of equal or packed sequences."""
    return tensor.reshape(-1, *tensor.shape[-2:])


def read_wrapped(tensor: Tensor) -> Tensor:
    """Each row as an index finds it that begins again at WRAP."""
    rows = torch.arange(len(tokens(tensor))) % WRAPPED
    return tokens(tensor)[rows].reshape(tensor.shape)


def written_wrapped(tensor: Tensor, fresh: float = float("nan")) -> Tensor:
    """Each row is written where such an index finds it; what is never written is what `fresh` memory holds."""
    found = torch.full_like(tokens(tensor), fresh)
    for row, values in enumerate(tokens(tensor)):
        found[row % WRAPPED] = values
    return found.reshape(tensor.shape)


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("direction", ["forward", "forward_backward"])
def test_a_kernel_that_is_right(verdict: Verdict, right: Right, problem: Problem, direction: str) -> None:
    problem = replace(problem, direction=direction)
    record = verdict(right, problem)
    assert (record.verdict, record.rule, record.message) == ("passed", None, "")
    owed = ["out", "lse", "dq", "dk", "dv"] if problem.backward else ["out", "lse"]
    assert [error.output for error in record.errors] == owed
    assert set(record.decoys.values()) == {"caught"}
    assert {"all zeros", "last key dropped", "another row"} <= set(record.decoys)
    assert Problem.from_dict(record.problem) == problem


def wrapping(*names: str) -> Any:
    """Each problem with each of those tensors that has a row past WRAP; few keys have none."""
    return pytest.mark.parametrize(
        ("problem", "name"),
        [
            pytest.param(problem, name, id=f"{kind}-{name}")
            for kind, problem in PROBLEMS.items()
            for name in names
            if sum(problem.seqlens_k if name in ("k", "v", "dk", "dv") else problem.seqlens_q) > WRAPPED
        ],
    )


@wrapping("q", "k", "v", "dout")
def test_an_input_that_is_read_where_a_wrapped_index_finds_it(
    verdict: Verdict, right: Right, problem: Problem, name: str
) -> None:
    record = verdict(lambda p, t: right(p, replace(t, **{name: read_wrapped(getattr(t, name))})), problem)
    assert record.verdict == "failed"


@wrapping("out", "dq", "dk", "dv")
@pytest.mark.parametrize("fresh", [float("nan"), 0.0], ids=["NaN", "zeros"])
def test_an_output_that_is_written_where_a_wrapped_index_finds_it(
    verdict: Verdict, right: Right, problem: Problem, name: str, fresh: float
) -> None:
    """Whether what is then never written is NaN, or 0 as a kernel clears it."""

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        return replace(outputs, **{name: written_wrapped(getattr(outputs, name), fresh)})

    record = verdict(call, problem)
    assert record.verdict == "failed"
    assert record.rule is not None
    assert name in record.rule


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_an_lse_that_is_wrong_past_the_limit(verdict: Verdict, right: Right, problem: Problem) -> None:
    def call(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        assert outputs.lse is not None
        rows = outputs.lse if problem.is_varlen else outputs.lse.transpose(0, 1).flatten(1)
        rows = rows[:, torch.arange(rows.shape[1]) % WRAPPED]
        lse = rows if problem.is_varlen else rows.unflatten(1, (problem.batch, -1)).transpose(0, 1)
        return replace(outputs, lse=lse)

    record = verdict(call, problem)
    assert (record.verdict, record.rule) == ("failed", "R2 lse")


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
def test_the_message_and_the_measurements_name_rows_of_the_whole(
    verdict: Verdict, right: Right, problem: Problem
) -> None:
    """The last row, which is elsewhere in the sample."""
    last = sum(problem.seqlens_q) - 1
    place = (last, 1, 3) if problem.is_varlen else (problem.batch - 1, problem.seqlens_q[-1] - 1, 1, 3)

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        out = outputs.out.clone()
        out[place] = float("nan")
        return replace(outputs, out=out)

    record = verdict(call, problem)
    assert record.rule == "R0 out finite"
    assert record.message.startswith(f"out{list(place)} is nan, not ")
    assert re.search(r"\(judged on a sample of \d+ queries\)$", record.message)

    def slightly(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        assert outputs.lse is not None
        row = (1, last) if problem.is_varlen else (problem.batch - 1, 1, problem.seqlens_q[-1] - 1)
        lse = outputs.lse.clone()
        lse[row] += 0.1
        return replace(outputs, lse=lse)

    record = verdict(slightly, problem)
    assert record.rule == "R2 lse"
    (worst,) = [error.worst_index for error in record.errors if error.output == "lse"]
    assert worst == ((1, last) if problem.is_varlen else (problem.batch - 1, 1, problem.seqlens_q[-1] - 1))


# A row that no limit is near, and that the seed does not choose.
ELSEWHERE = 201


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("out", float("nan"), "R0 out finite"),
        ("out", float("inf"), "R0 out finite"),
        ("lse", float("nan"), "R0 lse finite"),
        ("dq", float("nan"), "R0 dq beyond the sample"),
        ("dq", 1e-3, "R0 dq beyond the sample"),
        ("dk", 1e-3, "R0 dk beyond the sample"),
        ("dv", 1e-3, "R0 dv beyond the sample"),
    ],
)
@pytest.mark.parametrize("at_once", [2**28, 100], ids=["whole", "in parts"])
def test_what_is_exact_beyond_the_sample(
    verdict: Verdict,
    right: Right,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: float,
    rule: str,
    at_once: int,
) -> None:
    monkeypatch.setattr(module, "_AT_ONCE", at_once)
    problem = PROBLEMS["window"]
    place = (0, 1, ELSEWHERE) if name == "lse" else (0, ELSEWHERE, 1, 3)

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        tensor = getattr(outputs, name)
        tensor[place] = value
        return outputs

    record = verdict(call, problem)
    assert (record.verdict, record.rule) == ("failed", rule)
    assert record.message.startswith(f"{name}{list(place)} is ")


def test_lse_of_rows_without_a_key_is_no_fault(verdict: Verdict, right: Right) -> None:
    problem = replace(PROBLEMS["window"], lengths=Dense(seqlen_q=290, seqlen_k=90))
    assert verdict(right, problem).verdict == "passed"


@pytest.mark.parametrize(
    ("outputs", "rule", "message"),
    [
        (lambda o: o.out, "R0 outputs", "the call returned Tensor, not Outputs"),
        (lambda o: replace(o, out=o.out[:, :-1]), "R0 out shape", "out has shape (1, 299, 2, 16), not (1, 300, 2, 16)"),
        (lambda o: replace(o, out=o.out.repeat(1, 2, 1, 1)), "R0 out shape", "out has shape (1, 600, 2, 16), not"),
        (lambda o: replace(o, out=o.out.float()), "R0 out dtype", "out is torch.float32"),
        (lambda o: replace(o, out=3), "R0 out missing", "out is 3, not a tensor"),
        (lambda o: replace(o, dk=None), "R0 dk missing", "dk is None"),
        (lambda o: replace(o, dv=o.dq), "R0 dv shape", "dv has shape (1, 300, 2, 16), not (1, 5, 2, 16)"),
        (lambda o: replace(o, lse=o.lse.mT), "R0 lse shape", "lse has shape (1, 300, 2), not (1, 2, 300)"),
    ],
)
def test_the_form_is_that_of_the_whole(verdict: Verdict, right: Right, outputs: Any, rule: str, message: str) -> None:
    record = verdict(lambda p, t: outputs(right(p, t)))
    assert (record.verdict, record.rule) == ("failed", rule)
    assert record.message.startswith(message)


def test_an_output_that_is_not_owed_is_not_looked_at(verdict: Verdict, right: Right) -> None:
    odd = torch.zeros(3)
    record = verdict(lambda p, t: replace(right(p, t), lse=odd), gives_lse=False)
    assert record.verdict == "passed"
    forward = replace(LONG, direction="forward")
    assert verdict(lambda p, t: replace(right(p, t), dq=odd), forward).verdict == "passed"


def test_outputs_may_lie_anywhere(verdict: Verdict, right: Right) -> None:
    """Also a gradient that is one row of memory, seen many times."""

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        assert outputs.dq is not None
        return replace(
            outputs,
            out=outputs.out.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
            dq=torch.full((), 1.0, dtype=outputs.dq.dtype).expand(outputs.dq.shape),
        )

    record = verdict(call)
    assert (record.verdict, record.rule) == ("failed", "R1 dq")


def test_it_is_called_once(verdict: Verdict, right: Right) -> None:
    """A large call is not repeated: smaller problems show what a second one can."""
    calls: list[Problem] = []

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        calls.append(problem)
        return right(problem, tensors)

    assert verdict(call).verdict == "passed"
    assert calls == [LONG]


def test_inputs_are_unchanged(verdict: Verdict, right: Right) -> None:
    def call(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        tensors.k[0, ELSEWHERE, 0, 0] += 1
        return outputs

    assert verdict(call, PROBLEMS["window"]).rule == "R0 inputs unchanged"
