"""One process' part of a run: what is written, what is shrunk, and what a worker that comes later does not do again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.tensors import Tensors
from fa2verify.reports.record import Record
from fa2verify.reports.store import load
from fa2verify.verify.judgement.decoys import judge_decoys
from fa2verify.verify.run.campaign import AlreadyFound, Campaign, failure_text

PROBLEMS = st.builds(
    Problem,
    lengths=st.builds(Dense, seqlen_q=st.integers(1, 20), seqlen_k=st.integers(1, 20)),
    head_dim=st.just(8),
    seed=st.integers(0, 1000),
)
Right = Callable[[Problem, Tensors], Outputs]
Make = Callable[..., Kernel]


def records(directory: Path) -> list[Record]:
    return list(load([directory]).records)


def drawn(directory: Path) -> list[Record]:
    return [record for record in records(directory) if record.phase == "drawn"]


@pytest.fixture
def long_keys_fail(made: Make, right: Right) -> Kernel:
    def call(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        return replace(outputs, out=outputs.out + (problem.seqlens_k[0] > 6))

    return made(call)


def test_a_kernel_that_passes(campaign: Campaign, tmp_path: Path, made: Make, right: Right) -> None:
    assert campaign.verify(made(right), PROBLEMS, 25, "t") is None
    assert [record.verdict for record in records(tmp_path)] == ["passed"] * 25
    assert {record.test for record in records(tmp_path)} == {"t"}


def test_a_failure_is_shrunk_to_the_smallest(campaign: Campaign, tmp_path: Path, long_keys_fail: Kernel) -> None:
    found = campaign.verify(long_keys_fail, PROBLEMS, 25, "t")
    assert found is not None
    assert found.problem == {"lengths": {"seqlen_k": 7}, "head_dim": 8}
    assert (found.verdict, found.rule, found.phase) == ("failed", "R1 out", "shrunk")
    # What was drawn on the way down is no part of the run: the failing problem itself is the last one drawn.
    *before, failing = drawn(tmp_path)
    assert failing.verdict == "failed"
    assert {record.verdict for record in before} <= {"passed"}
    assert records(tmp_path)[-1] == found


def test_another_part_does_not_shrink_it_again(campaign: Campaign, tmp_path: Path, long_keys_fail: Kernel) -> None:
    first = campaign.verify(long_keys_fail, PROBLEMS, 25, "part 0")
    with pytest.raises(AlreadyFound, match="made: failed, R1 out") as caught:
        campaign.verify(long_keys_fail, PROBLEMS, 25, "part 1")
    assert caught.value.record == first
    assert [record.test for record in records(tmp_path) if record.phase == "shrunk"] == ["part 0"]
    assert [record.verdict for record in drawn(tmp_path) if record.test == "part 1"][-1] == "failed"


def test_a_kernel_that_changes_its_mind_is_not_forgiven(
    campaign: Campaign, tmp_path: Path, made: Make, right: Right
) -> None:
    """Wrong once and never again: the one failure is the finding."""
    tried: list[Problem] = []

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        outputs = right(problem, tensors)
        if tried[-1:] == [problem]:  # called again
            return outputs
        tried.append(problem)
        return replace(outputs, out=outputs.out + (len(tried) == 4))

    found = campaign.verify(made(call), PROBLEMS, 25, "t")
    assert found is not None
    assert (found.verdict, found.rule) == ("failed", "R1 out")
    assert found.problem == tried[3].to_dict()
    assert found.message.endswith("(not the same verdict when tried again)")
    assert records(tmp_path)[-1] == found


def test_a_kernel_that_fails_at_random_is_not_forgiven_either(campaign: Campaign, made: Make, right: Right) -> None:
    calls: list[Problem] = []

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        calls.append(problem)
        outputs = right(problem, tensors)
        return replace(outputs, out=outputs.out + (len(calls) % 3 == 0))

    assert campaign.verify(made(call), PROBLEMS, 25, "t") is not None


def test_shrinking_comes_to_an_end(
    campaign: Campaign, tmp_path: Path, made: Make, right: Right, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When its time is over, no further problem is tried, and the smallest so far is the finding."""
    monkeypatch.setattr("fa2verify.verify.run.campaign._SHRINKING", 0.0)
    failed: list[Problem] = []

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        assert not failed, "called after its time was over"
        outputs = right(problem, tensors)
        if problem.seqlens_k[0] > 6:
            failed.append(problem)
        return replace(outputs, out=outputs.out + bool(failed))

    found = campaign.verify(made(call), PROBLEMS, 25, "t")
    assert found is not None
    assert found.problem == failed[0].to_dict()
    assert found.message.endswith("(perhaps not the smallest: shrinking ended after 0 s)")
    assert (found.rule, found.phase) == ("R1 out", "shrunk")


def test_an_error_of_this_suite_that_does_not_repeat_is_shown(
    campaign: Campaign, made: Make, right: Right, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is no verdict on the kernel, and must not be lost either."""
    judged: list[object] = []

    def once(*given: Any) -> Any:
        judged.append(given)
        if len(judged) == 3:
            raise UserWarning("of torch, made an error by pytest's filter")
        return judge_decoys(*given)

    monkeypatch.setattr("fa2verify.verify.trial.attempt.judge_decoys", once)
    with pytest.raises(hypothesis.errors.Flaky) as caught:
        campaign.verify(made(right), PROBLEMS, 25, "t")
    assert any(isinstance(error, UserWarning) for error in caught.value.exceptions)


def test_the_same_seed_draws_the_same_problems(campaign: Campaign, tmp_path: Path, made: Make, right: Right) -> None:
    def problems_of(seed: int, test: str) -> list[Any]:
        known = len(drawn(tmp_path))
        again = replace(campaign, seed=seed, _recorded=set())
        again.verify(made(right), PROBLEMS, 25, test)
        return [record.problem for record in drawn(tmp_path)[known:]]

    first = problems_of(5, "t")
    assert problems_of(5, "t") == first
    assert problems_of(6, "t") != first
    assert problems_of(5, "u") != first, "parts of a test must not draw the same problems"


def test_a_problem_is_written_once(campaign: Campaign, tmp_path: Path, made: Make, right: Right) -> None:
    few = st.builds(Problem, head_dim=st.sampled_from([8, 16]))
    campaign.verify(made(right), few, 25, "t")
    campaign.verify(made(right), few, 25, "t")
    assert sorted(record.problem["head_dim"] for record in records(tmp_path)) == [8, 16]


def test_a_kernel_in_quarantine_is_tried_in_a_process_of_its_own(campaign: Campaign, tmp_path: Path) -> None:
    """And what an earlier worker wrote of the same test is not written again."""
    module = tmp_path / "foreign.py"
    module.write_text(
        "import ctypes, torch\n"
        "def kernel(q, k, v):\n"
        "    if k.shape[1] > 16:\n"
        "        ctypes.string_at(0)\n"
        "    scores = torch.einsum('bihd,bjhd->bhij', q, k).float() * q.shape[-1] ** -0.5\n"
        "    return torch.einsum('bhij,bjhd->bihd', scores.softmax(-1).to(q.dtype), v)\n"
    )
    from fa2verify.kernels.registry import select

    spec = f"{module}:kernel"
    kernel = select([spec])[0].kernel
    here = replace(campaign, specs=(spec,))
    short = PROBLEMS.filter(lambda problem: problem.seqlens_k[0] <= 16)
    assert here.verify(kernel, short, 5, "t") is None
    assert len(records(tmp_path)) == 5

    here.quarantine.add(kernel.name)
    later = replace(here, _recorded=set())
    assert later.verify(kernel, short, 5, "t") is None
    assert len(records(tmp_path)) == 5, "the same draws, known already"
    found = later.verify(kernel, PROBLEMS, 10, "u")
    assert found is not None
    assert found.problem == {"lengths": {"seqlen_k": 17}, "head_dim": 8}
    assert (found.verdict, found.rule) == ("crashed", "process died")
    assert found.message == "the process died of signal 11 (SIGSEGV) during the call"


def test_what_a_person_is_told(campaign: Campaign, long_keys_fail: Kernel) -> None:
    found = campaign.verify(long_keys_fail, PROBLEMS, 25, "t")
    assert found is not None
    first, second, third = failure_text(found, "mine.py:kernel").split("\n")
    assert first == "made: failed, R1 out"
    assert second == f"  {found.message}"
    assert third == """  again: fa2verify check mine.py:kernel '{"lengths":{"seqlen_k":7},"head_dim":8}'"""


def test_failing_examples_are_kept_by_test(campaign: Campaign, tmp_path: Path, long_keys_fail: Kernel) -> None:
    """So that the next run tries them first, whatever its seed."""
    campaign.verify(long_keys_fail, PROBLEMS, 25, "t")
    assert any((tmp_path / "examples").iterdir())
    campaign.findings.clear()
    next_run = replace(campaign, seed=99, _recorded=set())
    known = len(drawn(tmp_path))
    found = next_run.verify(long_keys_fail, PROBLEMS, 25, "t")
    assert found is not None
    assert [record.problem for record in drawn(tmp_path)[known:]] == [found.problem], "at the first try"


def test_torch_is_left_as_it_was(campaign: Campaign, made: Make, right: Right) -> None:
    campaign.verify(made(right), PROBLEMS, 3, "t")
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() == torch.float32
