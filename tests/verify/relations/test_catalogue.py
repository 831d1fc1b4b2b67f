"""Relations find what no rule on one call can: kernels that are right every time, and wrong beside another call."""

import json
import re

import hypothesis
import pytest
import torch
from mutants import Flash, Mutation, SplitFlash
from mutants.flash import TILE
from mutants.relations import RELATED

from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.registry import Registered
from fa2verify.verify.relations.batch_invariance import batch_invariance
from fa2verify.verify.relations.catalogue import RELATIONS
from fa2verify.verify.relations.foreign_values import foreign_values
from fa2verify.verify.relations.kept_results import kept_results
from fa2verify.verify.relations.relation import Relation
from fa2verify.verify.relations.repetition import repetition
from fa2verify.verify.relations.visible_nan import visible_nan
from fa2verify.verify.run.campaign import Campaign
from fa2verify.verify.run.plan import Part, related_parts
from fa2verify.verify.run.sizes import SIZES
from fa2verify.verify.suite.profiles import EXAMPLES
from fa2verify.verify.trial.attempt import Bench, attempt

CPU = torch.device("cpu")
BY_NAME: dict[str, Relation] = {
    "repetition": repetition,
    "foreign values": foreign_values,
    "visible NaN": visible_nan,
    "batch invariance": batch_invariance,
    "kept results": kept_results,
}

# What a mutant's smallest problem may still have of queries or keys.
LONGEST = {
    "repetition": 3 * TILE,
    "foreign values": 8,
    "visible NaN": 8,
    "batch invariance": 2 * TILE,
    "kept results": 8,
}
NUMBER = r"-?\d\S*"
MESSAGE = {
    name: re.compile(text.replace("#", NUMBER))
    for name, text in {
        "repetition": r"\w+\[.*\] of call 2 is #, not # \(# of # elements differ; the same bits are promised\)",
        "foreign values": (
            r"out\[0, 0, 0\] is nan, not #, when other sequences and key heads hold NaN \(8 such elements\)"
        ),
        "visible NaN": r"out\[0, 0, 0, 0\] is 0, where q\[0, 0, 0, #\] is NaN, and seen \(8 such elements\)",
        "batch invariance": (
            r"out\[0, .*\] of sequence 0 alone is #, not # \(# of 16 elements differ; the same bits are promised\)"
        ),
        "kept results": (
            r"out\[1, 0, 0, 0\] of the first call, after others, is nan, not # "
            r"\(8 of 16 elements differ; the same bits are promised\)"
        ),
    }.items()
}


@pytest.fixture(autouse=True)
def _without_decoys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoys are judged only where the kernel passed, whatever it is, and take most of the time."""
    monkeypatch.setattr("fa2verify.verify.trial.attempt.judge_decoys", lambda *_: {})


def of_a_run(kernel: Kernel) -> list[Part]:
    return related_parts(Registered(kernel, "--kernel=test"), examples=EXAMPLES["default"], size=SIZES["cpu"])


def drawn(kernel: Kernel) -> list[Problem]:
    found: list[Problem] = []
    for part in of_a_run(kernel):

        @hypothesis.settings(max_examples=part.examples, database=None)
        @hypothesis.seed(part.index)
        @hypothesis.given(problem=part.problems)
        def collect(problem: Problem) -> None:
            found.append(problem)

        collect()
    return found


def test_every_relation_has_its_mutant() -> None:
    assert set(BY_NAME.values()) == set(RELATIONS)
    assert set(RELATED) == set(BY_NAME)


@pytest.mark.parametrize("kernel", [Flash, SplitFlash])
def test_kernels_without_a_fault_pass(campaign: Campaign, kernel: type[Flash]) -> None:
    for part in of_a_run(kernel()):
        assert campaign.verify(kernel(), part.problems, part.examples, part.label, related=True) is None


@pytest.mark.parametrize("name", RELATED)
def test_no_other_relation_and_no_rule_sees_its_mutant(name: str) -> None:
    others = tuple(relation for other, relation in BY_NAME.items() if other != name)
    kernel = RELATED[name]()
    problems = [*drawn(kernel), RELATED[name].shows]
    verdicts = [attempt(kernel, problem, Bench(CPU, relations=others)) for problem in problems]
    assert {(record.verdict, record.rule) for record in verdicts} == {("passed", None)}


@pytest.mark.parametrize("name", RELATED)
def test_a_mutant_is_found_and_made_small(campaign: Campaign, name: str) -> None:
    mutant = RELATED[name]()
    found = (
        campaign.verify(mutant, part.problems, part.examples, part.label, related=True) for part in of_a_run(mutant)
    )
    record = next(filter(None, found))
    assert (record.verdict, record.phase) == ("failed", "shrunk")
    assert str(record.rule).startswith(f"R4 {name} ")
    problem = Problem.from_json(json.dumps(record.problem))
    assert max(*problem.seqlens_q, *problem.seqlens_k) <= LONGEST[name]
    assert problem.batch <= 2
    assert problem.heads_q <= 2


@pytest.mark.parametrize("name", RELATED)
def test_its_own_problem_shows_a_mutant(name: str) -> None:
    mutant: type[Mutation] = RELATED[name]
    bench = Bench(CPU, relations=RELATIONS)
    assert attempt(Flash(), mutant.shows, bench).verdict == "passed"
    record = attempt(mutant(), mutant.shows, bench)
    assert record.verdict == "failed"
    assert str(record.rule).startswith(f"R4 {name} ")
    assert MESSAGE[name].fullmatch(record.message), record.message
    assert record.errors, "what the first call was measured at"
