"""Bugs that shipped are rejected within the default budget, on a problem that one can read; without them all passes.

The parts of a run in the default profile, as pytest runs them, up to the first failure. Each mutant starts with the
kind of problem that it is about; all kinds are tried before it counts as missed. docs/kill-matrix.md tells how often
each rule sees each mutant.
"""

import json
from collections.abc import Iterator

import pytest
import torch
from mutants import MUTANTS, Flash, Mutation, SplitFlash
from mutants.flash import TILE

from fa2verify.kernels.problem import Direction, Problem
from fa2verify.kernels.registry import Registered
from fa2verify.reports.record import Record
from fa2verify.verify.run.campaign import Campaign
from fa2verify.verify.run.plan import Part, parts
from fa2verify.verify.run.sizes import SIZES
from fa2verify.verify.suite.profiles import EXAMPLES
from fa2verify.verify.trial.attempt import Bench, attempt

CASES: tuple[tuple[Direction, bool], ...] = (
    ("forward", False),
    ("forward", True),
    ("forward_backward", False),
    ("forward_backward", True),
)
BENCH = Bench(torch.device("cpu"))

# At which call depends on what the kernel has seen by then, while it shrinks most of all.
CACHED = {
    f"{rule}{when}"
    for rule in ("R0 out one key", "R0 out finite", "R1 out")
    for when in ("", ", second call", ", third call")
}
# Mutant to the rules that may name its shrunk problem: which one does depends on the problem that is drawn first.
RULES: dict[str, set[str]] = {
    "padded columns in the backward": {"R0 dq finite"},
    "padded columns from the second query block": {"R0 dq finite"},
    "top-left for bottom-right": {"R0 out empty row", "R0 lse finite", "R1 out"},
    "diagonal of padded lengths": {"R0 out empty row", "R0 lse finite", "R1 out"},
    "window one short": {"R0 lse finite", "R1 out", "R2 out", "R2 lse"},
    "window one wide": {"R0 out one key", "R1 out"},
    "backward not causal": {"R0 dk empty row", "R0 dq finite", "R1 dq", "R1 dk", "R1 dv"},
    "head_dim hard-coded to 64": {"R1 out", "R2 lse"},
    "early exit without queries": {"R0 dk finite"},
    "write for an empty sequence": {"R1 dk", "R1 dv"},
    "crash without keys": {"raised RuntimeError"},
    "division by no queries": {"raised ZeroDivisionError"},
    "padding of lse unwritten": {"R0 dk finite"},
    "gradients past the last sequence unwritten": {"R0 dq past the last sequence"},
    "all-zero outputs": {"R0 out one key", "R0 lse finite", "R1 out"},
    "combine of empty splits": {"R0 out finite"},
    "early exit into another's slot": {"R0 out one key", "R0 lse finite", "R1 out"},
    "accumulators freed early": {"R0 out one key", "R0 out finite", "R1 out"},
    "scale twice in lse": {"R2 lse"},
    "lse halved": {"R2 lse"},
    "lse of packed heads": {"R2 lse", "R0 lse finite"},
    "O read with the strides of dO": {"R0 dq finite", "R1 dq"},
    "contiguous at head_dim 256": {"R0 out one key", "R0 out finite", "R1 out"},
    "no fix-up when cached": CACHED,
    "no fix-up when cached by shape": CACHED,
    "strides of packed QKV for split ones": {"R0 out one key", "R0 out finite", "R1 out"},
    "head map no bijection": {"R1 dk", "R1 dv"},
    "gradients not summed over the group": {"R1 dk", "R1 dv"},
    "key heads in turn": {"R0 out one key", "R0 out finite", "R1 out"},
    "next K tile over the current one": {"R1 out", "R2 lse"},
    "third K tile is the first again": {"R1 out", "R2 lse"},
    "D read before it is written": {"R1 dq", "R1 dk"},
    "atomic at index -1": {"R0 inputs unchanged"},
    "write past the last row": {"R0 inputs unchanged"},
    "atomic before the workspace": {"R0 memory around a workspace"},
    "write past the end of O": {"R0 memory around out"},
    "dropout index not absolute": {"R1 dq", "R1 dk", "R1 dv"},
    "normaliser after dropout": {"R0 lse finite", "R1 out", "R2 lse"},
    "no dropout on dP": {"R1 dq", "R1 dk"},
}

# Those that need more than 8 queries or keys, and how many they may keep.
LONGEST = {
    "next K tile over the current one": 2 * TILE,
    "third K tile is the first again": 4 * TILE + 1,
    "D read before it is written": 2 * TILE,
    "dropout index not absolute": 2 * TILE,
    # A row of low scores alone. Shrinking prefers plain values to few rows; of randn's the first so low is the 160th.
    "padded columns in the backward": 160,
    "padded columns from the second query block": 160,
}
# Those that need more than 2 query heads: two of each of two key heads, or rows enough for a low one.
HEADS = {
    "key heads in turn": 4,
    "padded columns in the backward": 8,
    "padded columns from the second query block": 8,
}


@pytest.fixture(autouse=True)
def _without_decoys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoys are judged only where the kernel passed, whatever it is, and take most of the time."""
    monkeypatch.setattr("fa2verify.verify.trial.attempt.judge_decoys", lambda *_: {})


def of_a_run(kernel: Flash, first: Problem | None = None) -> Iterator[tuple[str, Part]]:
    """The tests of a run in the default profile, those of the kind of `first` first."""
    registered = Registered(kernel, "--kernel=test")
    cases = sorted(CASES, key=lambda case: first is not None and case != (first.direction, first.is_varlen))
    for direction, varlen in cases:
        for part in parts(registered, direction, varlen=varlen, examples=EXAMPLES["default"], size=SIZES["cpu"]):
            yield f"{direction} {varlen} {part.label}", part


def first_failure(campaign: Campaign, mutant: Mutation) -> Record:
    for test, part in of_a_run(mutant, mutant.shows):
        record = campaign.verify(mutant, part.problems, part.examples, test)
        if record is not None:
            return record
    raise AssertionError(f"{mutant.name} passed a whole run")


def test_every_mutant_has_its_rules() -> None:
    assert set(RULES) == set(MUTANTS)


@pytest.mark.parametrize(
    ("kernel", "direction"),
    # The backward of both is the same.
    [(Flash, "forward"), (Flash, "forward_backward"), (SplitFlash, "forward")],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_kernel_without_a_fault_passes(campaign: Campaign, kernel: type[Flash], direction: Direction) -> None:
    for test, part in of_a_run(kernel()):
        if test.startswith(f"{direction} "):
            failure = campaign.verify(part.registered.kernel, part.problems, part.examples, test)
            assert failure is None


@pytest.mark.parametrize(
    "name",
    MUTANTS,
)
def test_a_mutant_is_found_and_made_small(campaign: Campaign, name: str) -> None:
    record = first_failure(campaign, MUTANTS[name]())
    problem = Problem.from_json(json.dumps(record.problem))
    assert record.phase == "shrunk"
    assert record.rule is not None
    assert record.rule.partition(",")[0] in RULES[name]  # of whichever call
    assert max(*problem.seqlens_q, *problem.seqlens_k) <= LONGEST.get(name, 8)
    assert problem.batch <= 2
    assert problem.heads_q <= HEADS.get(name, 2)


@pytest.mark.parametrize("name", MUTANTS)
def test_its_own_problem_shows_a_mutant(name: str) -> None:
    mutant = MUTANTS[name]
    assert attempt(Flash(), mutant.shows, BENCH).verdict == "passed"
    kernel = mutant()
    attempt(kernel, mutant.shows, BENCH)
    assert attempt(kernel, mutant.shows, BENCH).verdict in ("failed", "crashed")
