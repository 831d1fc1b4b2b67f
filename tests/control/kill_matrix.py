"""The kill matrix: which rule sees which mutant, on the problems that runs in the default profile draw.

    python tests/control/kill_matrix.py

judges every mutant of `mutants` by every rule, not only by the first that fails, and writes docs/kill-matrix.md. It
takes a few minutes: it does not stop at the first failure, as a run does, for how often a bug shows is a number too.
"""

import hashlib
import multiprocessing
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import hypothesis
import torch
from mutants import CORRECT, MUTANTS, Flash
from mutants.uncovered import GAPS, UNCOVERED

from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.problem import Direction, Problem
from fa2verify.kernels.registry import Registered
from fa2verify.kernels.tensors import make_tensors
from fa2verify.reports.record import Record
from fa2verify.verify.judgement import judge as judging
from fa2verify.verify.judgement.truth import Truth
from fa2verify.verify.run.plan import parts
from fa2verify.verify.run.sizes import SIZES
from fa2verify.verify.suite.profiles import EXAMPLES
from fa2verify.verify.trial.call import Bench, Called, call
from fa2verify.verify.trial.further_calls import repeats

PAGE = Path(__file__).parents[2] / "docs" / "kill-matrix.md"
SEEDS = (1, 2, 3, 4)
Case = tuple[Direction, bool]  # direction, varlen
CASES: tuple[Case, ...] = tuple(product(("forward_backward", "forward"), (False, True)))

BENCH = Bench(torch.device("cpu"))

# In the order in which a trial asks. An exception ends the judgement. "again" is every rule at the calls that follow,
# which there are only where the first call passed.
COLUMNS = ("raised", "R0 inputs unchanged", "R0 memory", "R0 tail", "R0 finite", "R0 exact rows", "R1", "R2", "again")


@dataclass
class Tally:
    """What became of one mutant on the problems of one or more runs.

    runs    seeds with which a run catches it
    caught  problems that it fails
    first   the rule that a run would name, to problems
    seen    column to problems
    alone   column to problems on which no other column sees it
    """

    runs: set[int] = field(default_factory=set)
    problems: int = 0
    caught: int = 0
    first: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    alone: Counter[str] = field(default_factory=Counter)

    def add(self, other: "Tally") -> None:
        self.runs |= other.runs
        self.problems += other.problems
        self.caught += other.caught
        self.first += other.first
        self.seen += other.seen
        self.alone += other.alone


def drawn(seed: int, case: Case) -> list[Problem]:
    """The problems of one test of a run in the default profile, in order."""
    direction, varlen = case
    found: list[Problem] = []
    registered = Registered(Flash(), "kill matrix")
    for part in parts(registered, direction, varlen=varlen, examples=EXAMPLES["default"], size=SIZES["cpu"]):
        name = f"{direction} {varlen} {part.label}"

        @hypothesis.settings(
            max_examples=part.examples, database=None, deadline=None, suppress_health_check=list(hypothesis.HealthCheck)
        )
        @hypothesis.seed(int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8]))
        @hypothesis.given(problem=part.problems)
        def collect(problem: Problem) -> None:
            found.append(problem)

        collect()
    return found


def verdicts(kernel: Flash, problem: Problem, truth: Truth, right: Outputs | None) -> tuple[str | None, set[str]]:
    """The first rule that `kernel` fails, and every column that sees it.

    right  outputs that pass: the same bits pass again
    """
    note = Record(kernel=kernel.name, problem=problem.to_dict(), features=(), verdict="crashed")
    rule, seen = _of_call(kernel, problem, truth, right, call(kernel, problem, BENCH, note))
    if seen:
        return rule, seen
    for repeat in repeats(kernel, problem, BENCH.device):
        rule, seen = _of_call(kernel, problem, truth, right, call(kernel, repeat.problem, BENCH, note))
        if seen:
            return f"{rule}, {repeat.name}", {"again"}
    return None, set()


def _of_call(
    kernel: Flash, problem: Problem, truth: Truth, right: Outputs | None, called: Called
) -> tuple[str | None, set[str]]:
    if called.fault and called.outputs is None:
        return called.fault.rule, {"raised"}
    seen = {next(column for column in COLUMNS if called.fault.rule.startswith(column))} if called.fault else set()
    outputs = called.outputs
    assert isinstance(outputs, Outputs)
    if right is not None and _same(outputs, right):
        return (called.fault.rule if called.fault else None), seen
    judgement = judging.judge(problem, kernel, outputs, truth)
    compared = judgement.comparisons
    if any(judging._past_the_last(problem, each) for each in compared):
        seen.add("R0 tail")
    if any(judging._non_finite(each) for each in compared):
        seen.add("R0 finite")
    if judging._exact_rows(problem, kernel, {each.output: each.candidate for each in compared}, truth):
        seen.add("R0 exact rows")
    if any(judging._headline(each) for each in compared):
        seen.add("R1")
    if any(judging._elementwise(each) for each in compared):
        seen.add("R2")
    return (called.fault.rule if called.fault else judgement.rule), seen


def _same(one: Outputs, other: Outputs) -> bool:
    return all(
        a is b or torch.equal(a, b)
        for a, b in ((getattr(one, name), getattr(other, name)) for name in ("out", "lse", "dq", "dk", "dv"))
    )


def tallies(seed: int, case: Case) -> dict[str, Tally]:
    """Every kernel on the problems of one test of a run."""
    torch.set_num_threads(1)
    kernels: dict[str, Flash] = {kernel.name: kernel() for kernel in (*CORRECT, *MUTANTS.values())}
    found = {name: Tally() for name in kernels}
    for problem in drawn(seed, case):
        truth = Truth.of(problem, make_tensors(problem))
        right = None
        for name, kernel in kernels.items():
            rule, seen = verdicts(kernel, problem, truth, right)
            if right is None and rule is None:
                right = kernel(problem, make_tensors(problem))
            tally = found[name]
            tally.problems += 1
            tally.caught += rule is not None
            if rule is not None:
                tally.first[rule] += 1
                tally.runs.add(seed)
            tally.seen.update(seen)
            if len(seen) == 1:
                tally.alone.update(seen)
    return found


def everything() -> dict[str, Tally]:
    """Every kernel on the problems of whole runs, one a seed."""
    total: dict[str, Tally] = {}
    with ProcessPoolExecutor(max_workers=2, mp_context=multiprocessing.get_context("spawn")) as pool:
        for found in pool.map(tallies, *zip(*product(SEEDS, CASES), strict=True)):
            for name, tally in found.items():
                total.setdefault(name, Tally()).add(tally)
    return total


def page(total: dict[str, Tally]) -> Iterator[str]:
    """Lines of docs/kill-matrix.md."""
    problems = next(iter(total.values())).problems
    yield "# The kill matrix"
    yield ""
    yield (
        "Bugs of attention kernels that shipped, each planted in one correct kernel "
        f"([`tests/control/mutants`](../tests/control/mutants)), and on how many of the {problems} problems that "
        f"{len(SEEDS)} runs in the default profile draw each rule of [the numerics](numerics.md) sees it."
    )
    yield ""
    yield (
        "*Runs*: how many of them reject it. *First* is the rule that a run names; where problems disagree, the two "
        "most frequent. **Bold**: no other rule sees that mutant. "
        "[`tests/verify/test_mutants.py`](../tests/verify/test_mutants.py) runs each as a user would and holds how "
        "small its problem shrinks. Written by `python tests/control/kill_matrix.py`, not by hand."
    )
    yield ""
    yield f"| mutant | source | runs | problems | first | {' | '.join(COLUMNS)} |"
    yield f"| --- | --- | --- | --- | --- |{' --- |' * len(COLUMNS)}"
    for name, mutant in MUTANTS.items():
        tally = total[name]
        alone = len([column for column in COLUMNS if tally.seen[column]]) == 1
        cells = [
            ("" if not count else f"**{count}**" if alone else str(count))
            for count in (tally.seen[column] for column in COLUMNS)
        ]
        first = ", ".join(rule for rule, _ in tally.first.most_common(2)) or "-"
        yield _row(name, mutant.source, tally, first, cells)
    for correct in CORRECT:
        yield _row(f"*{correct.name}, without a fault*", "", total[correct.name], "-", [""] * len(COLUMNS))
    yield ""
    for name in MUTANTS:
        if len(total[name].runs) < len(SEEDS):
            yield f"- **{name}** is not rejected by every run: {GAPS.get(name, 'no explanation is known')}."
    yield ""
    yield "What a rule is needed for: mutants that it alone sees; cases of a mutant and a problem that it alone sees."
    yield ""
    yield "| rule | mutants | cases |"
    yield "| --- | --- | --- |"
    for column in COLUMNS:
        sole = sum({each for each in COLUMNS if total[name].seen[each]} == {column} for name in MUTANTS)
        yield f"| {column} | {sole} | {sum(total[name].alone[column] for name in MUTANTS)} |"
    yield ""
    yield "What each mutant does:"
    yield ""
    for name, mutant in MUTANTS.items():
        yield f"- **{name}** ({mutant.source}). {' '.join((mutant.__doc__ or '').split())}"
    yield ""
    yield "## Bugs without a mutant here"
    yield ""
    for entry, why in UNCOVERED.items():
        yield f"- **{entry}**: {why}"


def _row(name: str, source: str, tally: Tally, first: str, cells: list[str]) -> str:
    runs = f"{len(tally.runs)} of {len(SEEDS)}"
    return f"| {' | '.join((name, source, runs, str(tally.caught), first, *cells))} |"


def main() -> None:
    """Judge them all and write the page."""
    PAGE.write_text("\n".join(page(everything())) + "\n")


if __name__ == "__main__":
    main()
