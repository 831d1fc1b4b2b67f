"""A plain function with flash_attn_func's signature passes; with one fault it fails, on a problem that one can read.

The whole of a run but pytest: the parts that a run would consist of, Hypothesis, the judge, the records.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain
import pytest
import torch

from fa2verify.kernels.function import FunctionKernel
from fa2verify.kernels.problem import Direction, Problem
from fa2verify.kernels.registry import Registered
from fa2verify.reports.record import Record
from fa2verify.reports.store import load
from fa2verify.reports.summary import summarize
from fa2verify.verify.run.campaign import AlreadyFound, Campaign
from fa2verify.verify.run.plan import parts
from fa2verify.verify.run.sizes import SIZES
from fa2verify.verify.suite.profiles import EXAMPLES
from fa2verify.verify.trial.attempt import Bench, attempt

DIRECTIONS: tuple[Direction, ...] = ("forward", "forward_backward")

# Fault to the rules that may catch it: which one does depends on the problem that is drawn first.
RULES: dict[Callable[..., Any], set[str]] = {
    plain.alignment_swapped: {"R0 out empty row", "R1 out"},
    plain.last_key_dropped: {"R0 out one key"},
    plain.scale_off: {"R1 out"},
    plain.lse_doubled: {"R2 lse"},
    plain.dk_zeroed: {"R1 dk"},
    plain.last_tile_unwritten: {"R0 out one key"},
}


def run(campaign: Campaign, function: Callable[..., Any]) -> list[Record]:
    """What a run in the quick profile finds, as pytest runs its parts: the failures, shrunk."""
    registered = Registered(FunctionKernel(function, function.__name__), "--kernel=test")
    found = []
    for direction in DIRECTIONS:
        for part in parts(registered, direction, varlen=False, examples=EXAMPLES["quick"], size=SIZES["cpu"]):
            try:
                record = campaign.verify(registered.kernel, part.problems, part.examples, f"{direction} {part.label}")
            except AlreadyFound:
                continue
            if record is not None:
                found.append(record)
    return found


def test_every_fault_has_a_rule() -> None:
    assert set(RULES) == set(plain.FAULTY)


def test_the_function_without_a_fault_passes(campaign: Campaign, tmp_path: Path) -> None:
    assert run(campaign, plain.attention) == []
    (summary,) = summarize(load([tmp_path]))
    assert summary.counts["passed"] == 48, "16 problems forward, 32 forward and backward"
    assert sum(summary.counts.values()) == 48
    assert summary.never_caught == (), "and every decoy was caught on one of them"


@pytest.mark.parametrize("function", RULES, ids=lambda function: function.__name__)
def test_a_fault_is_found_and_made_small(campaign: Campaign, tmp_path: Path, function: Callable[..., Any]) -> None:
    found = run(campaign, function)
    assert found
    for record in found:
        problem = Problem.from_json(json.dumps(record.problem))
        assert record.verdict == "failed"
        assert record.phase == "shrunk"
        assert record.rule in RULES[function]
        assert max(*problem.seqlens_q, *problem.seqlens_k) <= 64
        # As small as the fault allows: one sequence, one head, nothing that does not matter.
        assert (problem.batch, problem.heads_q, problem.values, problem.layout) == (1, 1, "randn", "plain")
        # And it fails again, from its JSON alone.
        again = attempt(FunctionKernel(function, function.__name__), problem, Bench(torch.device("cpu")))
        assert (again.verdict, again.rule, again.message) == (record.verdict, record.rule, record.message)
    # The report tells the same.
    loaded = load([tmp_path])
    assert [record for record in loaded.records if record.phase == "shrunk"] == found
    assert loaded.losses == ()
