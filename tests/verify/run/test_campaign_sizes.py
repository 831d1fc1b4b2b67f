"""Large problems in a run: each is tried once, whatever became of the others, and every verdict is written.

A known failure that only one of them shows is confirmed by it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import strategies as st

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.tensors import Tensors
from fa2verify.reports.record import Record
from fa2verify.reports.store import load
from fa2verify.verify.known_failures.ledger import KnownFailure, Ledger
from fa2verify.verify.run.campaign import Campaign
from fa2verify.verify.run.room import Crowded
from fa2verify.verify.trial.crash import crash

SMALL = Problem(values="sampled", lengths=Dense(seqlen_q=40, seqlen_k=5), head_dim=8)
DRAWN = Problem(lengths=Dense(seqlen_q=4), head_dim=8)
PROBLEMS = (SMALL, replace(SMALL, seed=1), replace(SMALL, seed=2))
Right = Callable[[Problem, Tensors], Outputs]
Make = Callable[..., Kernel]


@pytest.fixture
def second_fails(made: Make, right: Right) -> Kernel:
    def call(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        return replace(outputs, out=outputs.out + problem.seed % 2)

    return made(call)


def test_all_are_tried_after_a_failure(campaign: Campaign, tmp_path: Path, second_fails: Kernel) -> None:
    (failing,) = campaign.verify_large(second_fails, PROBLEMS, "t")
    assert failing.problem == PROBLEMS[1].to_dict()
    assert failing.rule == "R1 out"
    records = load([tmp_path]).records
    assert [record.verdict for record in records] == ["passed", "failed", "passed"]
    assert {record.test for record in records} == {"t"}


def test_what_a_worker_recorded_before_it_died_is_not_tried_again(
    campaign: Campaign, tmp_path: Path, second_fails: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = campaign.verify_large(second_fails, PROBLEMS[:2], "t")
    campaign.quarantine.add(second_fails.name)
    tried: list[Problem] = []

    def isolated(asked: object, kernel: Kernel, problem: Problem, test: str) -> object:
        tried.append(problem)
        return replace(before[0], problem=problem.to_dict(), verdict="crashed", rule="process died")

    monkeypatch.setattr("fa2verify.verify.trial.isolation.Isolation.attempt", isolated)
    after = campaign.verify_large(second_fails, PROBLEMS, "t")
    assert tried == [PROBLEMS[2]]
    assert [record.verdict for record in after] == ["failed", "crashed"]
    assert [record.verdict for record in load([tmp_path]).records] == ["passed", "failed", "crashed"]


def test_no_room_is_said_and_nothing_is_called(
    campaign: Campaign, tmp_path: Path, made: Make, right: Right, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def none(directory: Path, device: torch.device, needed: int) -> Iterator[tuple[str, ...]]:
        assert needed > 2**30
        yield ("It takes more than there is.",) if directory == tmp_path else ()

    monkeypatch.setattr("fa2verify.verify.run.campaign.room", none)
    kernel = made(lambda problem, tensors: pytest.fail("called"))
    assert campaign.verify_large(kernel, PROBLEMS[:1], "t") == []
    (record,) = load([tmp_path]).records
    assert (record.verdict, record.reasons) == ("unsupported", ("It takes more than there is.",))


def expecting(campaign: Campaign, smallest: Problem) -> Campaign:
    """The campaign, with an entry that says that out is off on every large problem, shown by `smallest`."""
    entry = KnownFailure(
        name="off",
        says="Out is off.",
        link="https://example.org/issues/1",
        kernels=("made",),
        covers=lambda problem: problem.values == "sampled",
        verdict="failed",
        rules=("R1 out",),
        smallest=smallest,
    )
    return replace(campaign, ledger=Ledger((entry,)))


def test_a_known_failure_is_confirmed(campaign: Campaign, tmp_path: Path, second_fails: Kernel) -> None:
    assert expecting(campaign, PROBLEMS[1]).verify_large(second_fails, PROBLEMS, "t") == []
    records = load([tmp_path]).records
    assert [(record.verdict, record.known) for record in records] == [
        ("passed", "off"),
        ("known", "off"),
        ("passed", "off"),
    ]


def test_a_known_failure_that_passes_fails_the_run(campaign: Campaign, second_fails: Kernel) -> None:
    (failing,) = expecting(campaign, PROBLEMS[2]).verify_large(second_fails, PROBLEMS, "t")
    assert (failing.verdict, failing.rule, failing.problem) == ("failed", "stale entry", PROBLEMS[2].to_dict())
    assert "it passes. Remove the entry" in failing.message


def test_a_known_failure_that_the_kernel_no_longer_takes_fails_the_run(campaign: Campaign, made: Make) -> None:
    kernel = made(lambda problem, tensors: pytest.fail("called"))
    kernel.unsupported = lambda problem: ("Not so many.",)  # type: ignore[method-assign]
    (failing,) = expecting(campaign, SMALL).verify_large(kernel, PROBLEMS[:1], "t")
    assert "the kernel does not take it: Not so many." in failing.message


def test_running_out_of_memory_says_nothing_of_an_entry(campaign: Campaign, tmp_path: Path, made: Make) -> None:
    def call(problem: Problem, tensors: Tensors) -> Outputs:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    assert expecting(campaign, SMALL).verify_large(made(call), PROBLEMS[:1], "t") == []
    (record,) = load([tmp_path]).records
    assert (record.verdict, record.known) == ("unsupported", "off")
    assert "CUDA out of memory." in record.reasons[0]


def test_no_room_says_nothing_of_an_entry(
    campaign: Campaign, tmp_path: Path, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fa2verify.verify.run.campaign.room", lambda *_: nullcontext(("It takes too much.",)))
    kernel = made(lambda problem, tensors: pytest.fail("called"))
    assert expecting(campaign, SMALL).verify_large(kernel, PROBLEMS[:1], "t") == []
    (record,) = load([tmp_path]).records
    assert (record.verdict, record.reasons, record.known) == ("unsupported", ("It takes too much.",), "off")


def test_a_large_problem_that_is_known_to_lose_the_context_is_tried_in_a_child_that_holds_the_room(
    campaign: Campaign, second_fails: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    tried: list[Problem] = []

    @contextmanager
    def one(directory: Path, device: torch.device, needed: int) -> Iterator[tuple[str, ...]]:
        held.append(True)
        yield ()
        held.pop()

    def isolated(asked: object, kernel: Kernel, problem: Problem, test: str) -> Record:
        assert held
        tried.append(problem)
        return crash(kernel.name, problem, "CUDA context lost", test=test)

    monkeypatch.setattr("fa2verify.verify.run.campaign.room", one)
    monkeypatch.setattr("fa2verify.verify.trial.isolation.Isolation.attempt", isolated)
    deadly = expecting(campaign, SMALL)
    (entry,) = deadly.ledger.entries
    deadly = replace(deadly, ledger=Ledger((replace(entry, verdict="crashed", rules=("CUDA context lost",)),)))
    assert deadly.verify_large(second_fails, PROBLEMS[:1], "t") == []
    assert tried == [SMALL]
    assert second_fails.name not in deadly.quarantine, "its other problems are tried here"


def full(device: torch.device) -> None:
    raise Crowded("others hold it")


def test_a_full_device_is_no_verdict_and_does_not_pass(
    campaign: Campaign, tmp_path: Path, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fa2verify.verify.run.campaign.wait_for_room", full)
    kernel = made(lambda problem, tensors: pytest.fail("called"))
    with pytest.raises(Crowded):
        campaign.verify(kernel, st.just(DRAWN), 1, "t")
    (entry,) = expecting(campaign, SMALL).ledger.entries
    with pytest.raises(Crowded):
        campaign.confirm(replace(entry, covers=lambda problem: True, smallest=DRAWN), kernel, "u")
    assert load([tmp_path]).records == ()


def test_a_failure_is_told_though_the_device_is_full_when_it_is_shrunk(
    campaign: Campaign, made: Make, right: Right, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(problem: Problem, tensors: Tensors) -> Outputs:
        monkeypatch.setattr("fa2verify.verify.run.campaign.wait_for_room", full)
        outputs = right(problem, tensors)
        return replace(outputs, out=outputs.out + 1)

    failing = campaign.verify(made(wrong), st.just(DRAWN), 1, "t")
    assert failing is not None
    assert failing.verdict == "failed"
    assert failing.message.endswith("(perhaps not the smallest: the GPU was full when smaller ones were tried)")


def test_a_large_problem_does_not_wait_for_the_room_that_it_holds(
    campaign: Campaign, right: Right, made: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fa2verify.verify.run.campaign.wait_for_room", full)
    assert campaign.verify_large(made(right), PROBLEMS[:1], "t") == []
