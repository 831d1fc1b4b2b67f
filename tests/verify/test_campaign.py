"""One process' part of a run: what is written, what is shrunk, and what a worker that comes later does not do again."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import strategies as st

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.tensors import Tensors
from fa2verify.reports.record import Record
from fa2verify.reports.store import load
from fa2verify.verify.campaign import AlreadyFound, Campaign, failure_text
from fa2verify.verify.isolation import Isolation
from fa2verify.verify.ledger import STALE, KnownFailure, Ledger

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
    calls: list[Problem] = []

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        calls.append(problem)
        outputs = right(problem, tensors)
        return replace(outputs, out=outputs.out + (len(calls) == 5))

    found = campaign.verify(made(call), PROBLEMS, 25, "t")
    assert found is not None
    assert (found.verdict, found.rule) == ("failed", "R1 out")
    assert found.problem == calls[4].to_dict()
    assert found.message.endswith("(not the same verdict when tried again)")
    assert records(tmp_path)[-1] == found


def test_a_kernel_that_fails_at_random_is_not_forgiven_either(campaign: Campaign, made: Make, right: Right) -> None:
    calls: list[Problem] = []

    def call(problem: Problem, tensors: Tensors) -> Outputs:
        calls.append(problem)
        outputs = right(problem, tensors)
        return replace(outputs, out=outputs.out + (len(calls) % 3 == 0))

    assert campaign.verify(made(call), PROBLEMS, 25, "t") is not None


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


@pytest.mark.parametrize("alone", [False, True])
def test_relations_are_asked_for_here_and_in_a_process_of_its_own(
    campaign: Campaign, tmp_path: Path, alone: bool
) -> None:
    """A kernel that is right at every call, and gives each the same memory."""
    module = tmp_path / "foreign.py"
    module.write_text(
        "import torch\n"
        "kept = torch.empty(0)\n"
        "def kernel(q, k, v):\n"
        "    global kept\n"
        "    scores = torch.einsum('bihd,bjhd->bhij', q, k).float() * q.shape[-1] ** -0.5\n"
        "    out = torch.einsum('bhij,bjhd->bihd', scores.softmax(-1).to(q.dtype), v)\n"
        "    if kept.shape != q.shape:\n"
        "        kept = torch.empty_like(q)\n"
        "    return kept.copy_(out.detach())\n"
        "kernel.differentiable = False\n"
    )
    from fa2verify.kernels.registry import select

    spec = f"{module}:kernel"
    kernel = select([spec])[0].kernel
    here = replace(campaign, specs=(spec,))
    if alone:
        here.quarantine.add(kernel.name)
    two_heads = PROBLEMS.map(lambda problem: replace(problem, heads_q=2, heads_kv=2))
    assert here.verify(kernel, two_heads, 2, "t") is None
    found = here.verify(kernel, two_heads, 2, "u", related=True)
    assert found is not None
    assert (found.verdict, found.rule) == ("failed", "R4 kept results out")


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


@pytest.fixture
def long_keys_known() -> KnownFailure:
    return KnownFailure(
        name="long-keys",
        says="Keys past the sixth are wrong.",
        link="https://example.org/1",
        kernels=("made",),
        covers=lambda problem: problem.seqlens_k[0] > 4,
        verdict="failed",
        rules=("R1 out",),
        smallest=Problem(lengths=Dense(seqlen_k=7), head_dim=8),
    )


def test_a_known_failure_is_counted_and_nothing_more(
    campaign: Campaign, tmp_path: Path, long_keys_fail: Kernel, long_keys_known: KnownFailure
) -> None:
    """Neither a failure nor shrunk; and of what the entry covers besides, it is told that it passed."""
    knowing = replace(campaign, ledger=Ledger((long_keys_known,)))
    assert knowing.verify(long_keys_fail, PROBLEMS, 50, "t") is None
    assert {(record.verdict, record.known) for record in records(tmp_path)} == {
        ("passed", None),
        ("passed", "long-keys"),
        ("known", "long-keys"),
    }
    assert len(records(tmp_path)) == 50
    for record in records(tmp_path):
        length = record.problem.get("lengths", {}).get("seqlen_k", 1)
        assert (record.verdict == "known") == (length > 6)
        assert (record.known is None) == (length <= 4)
        assert bool(record.errors) == (record.verdict == "passed")


def test_another_failure_of_a_problem_that_is_covered_is_a_failure(
    campaign: Campaign, long_keys_fail: Kernel, long_keys_known: KnownFailure
) -> None:
    of_dv = replace(campaign, ledger=Ledger((replace(long_keys_known, rules=("R1 dv",)),)))
    found = of_dv.verify(long_keys_fail, PROBLEMS, 25, "t")
    assert found is not None
    assert (found.verdict, found.rule, found.known) == ("failed", "R1 out", "long-keys")
    campaign.findings.clear()
    other_kernel = replace(campaign, ledger=Ledger((replace(long_keys_known, kernels=("other",)),)), _recorded=set())
    assert other_kernel.verify(long_keys_fail, PROBLEMS, 25, "u") is not None


def test_the_smallest_problem_of_a_known_failure(
    campaign: Campaign,
    tmp_path: Path,
    made: Make,
    right: Right,
    long_keys_fail: Kernel,
    long_keys_known: KnownFailure,
) -> None:
    assert campaign.confirm(long_keys_known, long_keys_fail, "t") is None
    assert [(record.verdict, record.rule, record.test) for record in records(tmp_path)] == [("known", "R1 out", "t")]
    stale = campaign.confirm(long_keys_known, made(right), "u")
    assert stale is not None
    assert (stale.verdict, stale.rule, stale.problem) == ("failed", STALE, long_keys_known.smallest.to_dict())
    assert records(tmp_path)[-1] == stale


def test_a_known_failure_that_ends_the_process_is_met_in_another(campaign: Campaign, tmp_path: Path) -> None:
    from fa2verify.kernels.registry import select

    spec = f"{Path(__file__).parents[1] / 'control' / 'foreign.py'}:segfaults"
    kernel = select([spec])[0].kernel
    entry = KnownFailure(
        name="long-keys",
        says="It dies of more than sixteen keys.",
        link="https://example.org/1",
        kernels=(spec,),
        covers=lambda problem: problem.seqlens_k[0] > 16,
        verdict="crashed",
        rules=("process died",),
        smallest=Problem(lengths=Dense(seqlen_k=17), head_dim=8),
    )
    here = replace(campaign, specs=(spec,), ledger=Ledger((entry,)))
    assert here.confirm(entry, kernel, "t") is None
    assert here.verify(kernel, PROBLEMS, 25, "u") is None
    assert {record.verdict for record in records(tmp_path)} == {"passed", "known"}
    assert kernel.name not in here.quarantine


def test_a_hang_is_shrunk_in_time(campaign: Campaign, tmp_path: Path, made: Make, right: Right) -> None:
    """Each step down costs a share of the time-out, their number is limited, and the last is tried in full."""
    limits: list[float] = []

    def attempt(self: Isolation, kernel: Kernel, problem: Problem, test: str) -> Record:
        limits.append(self.timeout)
        takes = 9.0 if problem.seqlens_k[0] > 2 else 0.0
        verdict: Any = "timed_out" if takes > self.timeout else "passed"
        return Record(kernel="made", problem=problem.to_dict(), features=(), verdict=verdict, rule="timeout", test=test)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Isolation, "attempt", attempt)
        campaign.quarantine.add("made")
        found = replace(campaign, timeout=8.0).verify(made(right), PROBLEMS, 25, "t")
        assert found is not None
        assert found.verdict == "timed_out"
        assert found.problem == {"lengths": {"seqlen_k": 3}, "head_dim": 8}
        full = [limit for limit in limits if limit == 8.0]
        shrinking = [limit for limit in limits if limit != 8.0]
        assert set(shrinking) == {1.0}
        assert limits[-1] == 8.0
        assert len(full) <= 2 + len(drawn(tmp_path))


def test_what_takes_long_and_ends_is_no_hang(campaign: Campaign, made: Make, right: Right) -> None:
    """Shrinking waits for a share of the time-out alone; what it then finds may be slow and no more."""

    def attempt(self: Isolation, kernel: Kernel, problem: Problem, test: str) -> Record:
        takes = 9.0 if problem.seqlens_k[0] > 10 else 5.0
        verdict: Any = "timed_out" if takes > self.timeout else "passed"
        return Record(kernel="made", problem=problem.to_dict(), features=(), verdict=verdict, rule="timeout", test=test)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Isolation, "attempt", attempt)
        campaign.quarantine.add("made")
        found = replace(campaign, timeout=8.0).verify(made(right), PROBLEMS, 25, "t")
    assert found is not None
    assert found.verdict == "timed_out"
    assert found.problem["lengths"]["seqlen_k"] > 10
    assert found.message.endswith("(what is smaller took long, but ended)")


def test_a_kernel_that_cannot_say_what_it_takes_has_a_verdict(
    campaign: Campaign, tmp_path: Path, made: Make, right: Right
) -> None:
    kernel = made(right)

    def unsupported(problem: Problem) -> tuple[str, ...]:
        if problem.seqlens_k[0] > 6:
            raise KeyError(problem.seqlens_k[0])
        return ()

    kernel.unsupported = unsupported  # type: ignore[method-assign]
    found = campaign.verify(kernel, PROBLEMS, 25, "t")
    assert found is not None
    assert (found.verdict, found.rule) == ("crashed", "unsupported() gave no answer")
    assert found.message == "unsupported() raised KeyError: 7"
    assert found.problem == {"lengths": {"seqlen_k": 7}, "head_dim": 8}
