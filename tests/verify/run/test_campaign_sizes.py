"""Large problems in a run: each is tried once, whatever became of the others, and every verdict is written."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.tensors import Tensors
from fa2verify.reports.store import load
from fa2verify.verify.run.campaign import Campaign

SMALL = Problem(values="sampled", lengths=Dense(seqlen_q=40, seqlen_k=5), head_dim=8)
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
