"""The calls that a relation makes, and what it takes their answers for."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.reference import reference
from fa2verify.kernels.tensors import Tensors, make_tensors
from fa2verify.reports.record import Record
from fa2verify.strategies.problems import problems
from fa2verify.strategies.size import Size
from fa2verify.verify.judgement.truth import Truth
from fa2verify.verify.relations.batch_invariance import alone
from fa2verify.verify.relations.catalogue import RELATIONS
from fa2verify.verify.relations.foreign_values import foreign_values
from fa2verify.verify.relations.relation import Call, bits_breach
from fa2verify.verify.relations.repetition import busy, repetition
from fa2verify.verify.trial.attempt import Bench, attempt

CPU = torch.device("cpu")
CALL = Problem(lengths=Dense(batch=2, seqlen_q=5, seqlen_k=9), heads_q=2, heads_kv=2, head_dim=8)
BACKWARD = replace(CALL, direction="forward_backward")
ORDERED = replace(BACKWARD, deterministic=True)
Make = Callable[..., Kernel]
Right = Callable[[Problem, Tensors], Outputs]


@pytest.fixture(autouse=True)
def _called_once_by_other_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls are counted here, and those that `fa2verify.verify.trial.further_calls` asks for are not the relations'."""
    monkeypatch.setattr("fa2verify.verify.trial.attempt.repeats", lambda *_: iter(()))


@pytest.fixture
def counted(made: Make, right: Right) -> Callable[..., tuple[Kernel, list[Problem]]]:
    """A kernel and the problems of its calls; `spoil(calls so far, outputs)` may change what it gives."""

    def counted(
        spoil: Callable[[int, Outputs], Any] = lambda _, outputs: outputs, **attributes: Any
    ) -> tuple[Kernel, list[Problem]]:
        calls: list[Problem] = []

        def call(problem: Problem, tensors: Tensors) -> Any:
            calls.append(problem)
            return spoil(len(calls), right(problem, tensors))

        return made(call, **attributes), calls

    return counted


Counted = Callable[..., tuple[Kernel, list[Problem]]]


def judged(kernel: Kernel, problem: Problem) -> Record:
    return attempt(kernel, problem, Bench(CPU, relations=RELATIONS))


def call_of(kernel: Kernel, problem: Problem) -> Call:
    tensors = make_tensors(problem)
    return Call.of(kernel, problem, tensors, kernel(problem, tensors), Truth.of(problem, tensors))


@pytest.mark.parametrize(
    ("problem", "claimed", "calls"),
    [
        # Itself; again, if gradients have one order; with NaN, if there are two heads or sequences; with one NaN, if a
        # key is seen; each one alone.
        (Problem(head_dim=8), True, 2),
        (Problem(head_dim=8, lengths=Dense(seqlen_k=0)), True, 1),
        (Problem(head_dim=8, deterministic=True), True, 2),
        (Problem(head_dim=8, direction="forward_backward", deterministic=True), False, 3),
        (Problem(head_dim=8, heads_q=2), False, 2),
        (Problem(head_dim=8, heads_q=2, heads_kv=2), False, 3),
        (CALL, False, 3),
        (CALL, True, 5),
        (ORDERED, True, 6),
        (replace(CALL, dropout=0.5), True, 2),
    ],
)
def test_calls(counted: Counted, problem: Problem, claimed: bool, calls: int) -> None:
    kernel, found = counted(batch_invariant=claimed)
    assert judged(kernel, problem).verdict == "passed"
    assert len(found) == calls


def test_without_relations_there_is_one_call(counted: Counted) -> None:
    kernel, found = counted(batch_invariant=True)
    assert attempt(kernel, ORDERED, Bench(CPU)).verdict == "passed"
    assert found == [ORDERED]


def test_a_call_that_failed_is_not_called_again(counted: Counted) -> None:
    kernel, found = counted(lambda calls, outputs: replace(outputs, out=2 * outputs.out))
    assert judged(kernel, ORDERED).rule == "R1 out"
    assert found == [ORDERED]


def test_what_a_later_call_raises_is_the_verdict(counted: Counted) -> None:
    def spoil(calls: int, outputs: Outputs) -> Outputs:
        if calls == 2:
            raise ValueError("once only")
        return outputs

    record = judged(counted(spoil)[0], CALL)
    assert (record.verdict, record.rule) == ("crashed", "raised ValueError")


def test_every_call_is_guarded(made: Make, right: Right) -> None:
    inside: list[bool] = []
    guarded = False

    @contextmanager
    def guard(note: Record) -> Iterator[None]:
        nonlocal guarded
        guarded = True
        yield
        guarded = False

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        inside.append(guarded)
        return right(problem, tensors)

    attempt(made(call, batch_invariant=True), ORDERED, Bench(CPU, guard=guard, relations=RELATIONS))
    assert inside == [True] * 6


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda outputs: None, "out of call 2 is a NoneType, not a tensor"),
        (lambda outputs: replace(outputs, dq=None), "dq of call 2 is a NoneType, not a tensor"),
        (
            lambda outputs: replace(outputs, dk=outputs.dk[:1]),
            "dk of call 2 is torch.float16 (1, 9, 2, 8), not torch.float16 (2, 9, 2, 8)",
        ),
        (
            lambda outputs: replace(outputs, dv=outputs.dv.float()),
            "dv of call 2 is torch.float32 (2, 9, 2, 8), not torch.float16 (2, 9, 2, 8)",
        ),
    ],
)
def test_another_form_is_another_answer(counted: Counted, spoil: Callable[[Outputs], Any], expected: str) -> None:
    kernel, _ = counted(lambda calls, outputs: spoil(outputs) if calls == 2 else outputs)
    record = judged(kernel, ORDERED)
    assert (record.verdict, record.message) == ("failed", expected)


def test_bits_are_compared() -> None:
    first = torch.tensor([0.0, float("nan"), 1.0], dtype=torch.float16)
    assert bits_breach("R4", "out", first, first.clone(), "it") is None
    assert bits_breach("R4", "out", first, torch.tensor([-0.0, float("nan"), 1.0]).half(), "it") == (
        "R4 out",
        "out[0] of it is -0, not 0 (1 of 3 elements differ; the same bits are promised)",
    )
    assert bits_breach("R4", "dq", first[::2], first.flip(0)[::2], "it") == (
        "R4 dq",
        "dq[0] of it is 1, not 0 (2 of 2 elements differ; the same bits are promised)",
    )


def test_gradients_may_differ_where_no_order_is_asked_for(counted: Counted) -> None:
    def spoil(calls: int, outputs: Outputs) -> Outputs:
        if calls == 1 or outputs.dq is None:
            return outputs
        return replace(outputs, dq=torch.nextafter(outputs.dq, torch.zeros_like(outputs.dq)))

    assert judged(counted(spoil, batch_invariant=True)[0], BACKWARD).verdict == "passed"
    assert judged(counted(spoil, batch_invariant=True)[0], ORDERED).rule == "R4 repetition dq"


def test_repeated_calls_on_a_device_at_work(counted: Counted, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: many calls, judged like the first one where no bits are promised."""
    module = sys.modules["fa2verify.verify.relations.repetition"]
    monkeypatch.setitem(module.REPEATS, "cpu", 6)
    loads: list[int] = []

    @contextmanager
    def noted(device: torch.device, turn: int) -> Iterator[None]:
        loads.append(turn)
        yield

    monkeypatch.setattr(module, "busy", noted)

    def spoil(calls: int, outputs: Outputs) -> Outputs:
        return replace(outputs, out=outputs.out * 1.5) if calls == 5 else outputs

    assert repetition(call_of(counted()[0], ORDERED)) is None
    assert loads == [1, 2, 3, 4, 5, 6]
    breach = repetition(call_of(counted(spoil)[0], ORDERED))
    assert breach is not None
    assert breach[0] == "R4 repetition out"
    assert breach[1].startswith("out[0, 0, 0, 0] of call 5 is ")
    monkeypatch.setattr(module, "_repeated", lambda call: True)
    assert repetition(call_of(counted()[0], BACKWARD)) is None
    breach = repetition(call_of(counted(spoil)[0], BACKWARD))
    assert breach is not None
    assert breach[0] == "R4 repetition, R1 out"
    assert breach[1].startswith("call 5: max |out - reference| is ")


def test_a_cpu_is_left_idle() -> None:
    with busy(CPU, 2):
        pass


class FakeStream:
    """Notes what a stream of a GPU would be told."""

    log: list[str]

    def __init__(self, *_: Any) -> None:
        self.log.append("stream")

    def synchronize(self) -> None:
        self.log.append("synchronize")


def test_a_gpu_is_idle_partly_and_fully_at_work_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []

    @contextmanager
    def entered(stream: FakeStream) -> Iterator[None]:
        log.append("work")
        yield

    monkeypatch.setattr(FakeStream, "log", log, raising=False)
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "current_stream", FakeStream)
    monkeypatch.setattr(torch.cuda, "stream", entered)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.zeros(1, 1))
    module = sys.modules[repetition.__module__]
    monkeypatch.setattr(module, "_other_streams", cache(module._other_streams.__wrapped__))
    streams = []
    made = 0
    for turn in range(4):
        log.clear()
        with busy(torch.device("cuda"), turn):
            log.append("call")
        before, after = log[: log.index("call")], log[log.index("call") + 1 :]
        # The work is given before the call, after what it multiplies is there, and waited for afterwards.
        assert before[:2] == ["stream", "synchronize"]
        made += before.count("stream") - 1
        assert after == ["synchronize"] * before.count("work")
        streams.append(before.count("work"))
    assert streams == [0, 1, 4, 0]
    assert made == 4, "the same ones every time"


@settings(max_examples=60, database=None, derandomize=True, deadline=None)
@given(problem=problems(lambda p: ("no",) if p.dropout else (), size=Size(24, 500, 4, 4, 16)))
def test_a_sequence_alone_is_that_sequence(problem: Problem) -> None:
    """The reference is batch-invariant: what it gives for a sequence alone is its part of what it gives for all."""
    tensors = make_tensors(problem)
    whole = reference(problem, tensors)
    start_q = start_k = 0
    for index, (length_q, length_k) in enumerate(zip(problem.seqlens_q, problem.seqlens_k, strict=True)):
        one, own = alone(problem, tensors, index)
        assert one == replace(problem, lengths=one.lengths, layout="plain" if problem.tail else problem.layout)
        assert (one.batch, one.seqlens_q, one.seqlens_k) == (1, (length_q,), (length_k,))
        assert (own.max_seqlen_q, own.max_seqlen_k) == (length_q, length_k)
        assert own.q.untyped_storage().data_ptr() == tensors.q.untyped_storage().data_ptr()
        if problem.is_varlen:
            offsets = own.cu_seqlens_q, own.cu_seqlens_k
            assert [each.tolist() for each in offsets if each is not None] == [[0, length_q], [0, length_k]]
        found = reference(one, own)
        for name, start, length in (
            ("out", start_q, length_q),
            ("dq", start_q, length_q),
            ("dk", start_k, length_k),
            ("dv", start_k, length_k),
        ):
            part = getattr(whole, name)
            if part is None:
                continue
            part = part[start : start + length] if problem.is_varlen else part[index : index + 1]
            # fp64: another order of at most 24 terms moves a sum by 24 * 2^-53 = 3e-15 of its absolute values; the rest
            # is room for cancellation. A row of another sequence is off by tenths.
            torch.testing.assert_close(getattr(found, name), part, rtol=1e-12, atol=1e-12)
        start_q, start_k = start_q + length_q, start_k + length_k


@pytest.mark.parametrize(
    ("problem", "foul"),
    [
        (replace(BACKWARD, lengths=Dense(batch=3, seqlen_q=2, seqlen_k=3)), [[0, 1], [1, 0], [0, 1]]),
        (replace(BACKWARD, lengths=Varlen(seqlens_q=(2, 0, 1), seqlens_k=(3, 1, 0))), [[0, 1], [1, 0], [0, 1]]),
        (replace(BACKWARD, lengths=Dense(seqlen_q=2, seqlen_k=3), heads_q=6), [[0, 1]]),
    ],
    ids=["dense", "varlen", "grouped"],
)
@pytest.mark.parametrize("layout", ["plain", "sliced", "kv_packed"])
def test_neighbours_hold_nan(made: Make, right: Right, problem: Problem, foul: list[list[int]], layout: Any) -> None:
    """Every second sequence and key head, with the query heads that read it; the others hold what they held."""
    problem = replace(problem, layout=layout)
    seen: list[Tensors] = []

    def call(of: Problem, tensors: Tensors) -> Outputs:
        seen.append(tensors)
        return right(of, tensors)

    assert foreign_values(call_of(made(call), problem)) is None
    clean, fouled = seen
    for name, lengths in (("q", problem.seqlens_q), ("k", problem.seqlens_k), ("v", problem.seqlens_k)):
        start = 0
        for index, length in enumerate(lengths):
            for head in range(getattr(clean, name).shape[-2]):
                key_head = head // problem.group if name == "q" else head
                rows = (slice(start, start + length), head) if problem.is_varlen else (index, slice(None), head)
                was, found = getattr(clean, name)[rows], getattr(fouled, name)[rows]
                assert bool(found.isnan().all()) if foul[index][key_head] else torch.equal(found, was)
            start += length


@pytest.mark.parametrize("name", ["out", "lse", "dq", "dk", "dv"])
def test_every_output_is_looked_at(counted: Counted, name: str) -> None:
    """NaN in the first row of what is kept, in a call that had it elsewhere."""

    def spoil(calls: int, outputs: Outputs) -> Outputs:
        if calls == 2:
            getattr(outputs, name)[0, 0, 0] = float("nan")
        return outputs

    assert judged(counted(spoil)[0], BACKWARD).rule == f"R4 foreign values {name}"
    assert judged(counted()[0], BACKWARD).verdict == "passed"
