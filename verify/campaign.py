"""One process' part of a run: draws problems for a kernel, tries them, records every verdict, shrinks what fails."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import hypothesis
import torch
from hypothesis.database import DirectoryBasedExampleDatabase
from hypothesis.strategies import SearchStrategy

from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.reference import Precision
from fa2verify.reports.failures import rerun
from fa2verify.reports.record import Record
from fa2verify.reports.store import Writer
from fa2verify.reports.summary import BAD
from fa2verify.verify.findings import Findings
from fa2verify.verify.isolation import Isolation
from fa2verify.verify.journal import Journal
from fa2verify.verify.quarantine import Quarantine, record_key
from fa2verify.verify.relations import RELATIONS
from fa2verify.verify.trial import Bench, ContextLost, attempt

EXAMPLE_DATABASE = Path(".hypothesis/examples")
_EXIT_CONTEXT_LOST = 70


class VerificationFailure(AssertionError):
    """A verdict that is not passed; carries the record."""

    def __init__(self, record: Record) -> None:
        super().__init__(f"{record.verdict}: {record.rule}")
        self.record = record


class AlreadyFound(BaseException):
    """A failure that is known in its smallest form; no Exception, so that Hypothesis does not set out to shrink it."""

    def __init__(self, record: Record) -> None:
        super().__init__(f"{record.kernel}: {record.verdict}, {record.rule}")
        self.record = record


@dataclass(frozen=True, slots=True)
class Campaign:
    """What a worker needs to try kernels.

    writer      where verdicts go
    journal     notes what the worker is about to do
    quarantine  kernels that have cost a worker its life
    findings    failures that any worker has shrunk
    specs       what `--kernel` named
    device      "cpu" or "cuda"
    precision   of the reference
    timeout     seconds that one call may take
    seed        run seed
    """

    writer: Writer
    journal: Journal
    quarantine: Quarantine
    findings: Findings
    specs: tuple[str, ...]
    device: str
    precision: Precision
    timeout: float
    seed: int
    _recorded: set[str] = field(default_factory=set)

    def verify(
        self, kernel: Kernel, problems: SearchStrategy[Problem], examples: int, test: str, *, related: bool = False
    ) -> Record | None:
        """Judge `kernel` on `examples` problems. Gives the smallest failing one's record, or None if all passed.

        related  whether further calls are asked for `RELATIONS`

        Verdicts are written as they are reached. After a failure Hypothesis shrinks; only the end of that is recorded.
        Raises AlreadyFound if another part of the same test has found and shrunk the same failure.
        """
        alone = kernel.name in self.quarantine
        try_one = partial(self._try_in_child if alone else self._try_here, related)
        if alone:
            self._recorded.update(self.quarantine.already_recorded(kernel.name, test))
        found: list[Record] = []
        hung: dict[Problem, Record] = {}

        # Settings outermost: `seed` takes the database away from those it is put on top of. With --hypothesis-seed
        # Hypothesis uses none anyway, so that the run it repeats is not preceded by what was found since.
        @hypothesis.settings(max_examples=examples, database=_database(test))
        @hypothesis.seed(int.from_bytes(hashlib.sha256(f"{self.seed} {test}".encode()).digest()[:8]))
        @hypothesis.given(problem=problems)
        def judge_one(problem: Problem) -> None:
            # Shrinking comes back to the same problem many times, and each time would cost the whole time-out.
            record = hung[problem] if problem in hung else try_one(kernel, problem, test)
            if record.verdict == "timed_out":
                hung[problem] = record
            if not found:
                self._write_once(record)
            if record.verdict in BAD:
                if not found and (known := self.findings.of(record)) is not None:
                    raise AlreadyFound(known)
                found.append(record)
                raise VerificationFailure(record)

        return self._run(judge_one, found)

    def _run(self, judge_one: Callable[[], None], found: list[Record]) -> Record | None:
        try:
            judge_one()
        except VerificationFailure as failure:
            # Hypothesis ends by running the smallest failing example once more.
            return self._shrunk(failure.record)
        except hypothesis.errors.Flaky:
            # It failed once and passed, or failed otherwise, when it was tried again: that is a finding, not noise.
            return self._shrunk(found[-1], note="not the same verdict when tried again")
        return None

    def _shrunk(self, record: Record, note: str = "") -> Record:
        message = f"{record.message} ({note})" if note else record.message
        shrunk = replace(record, phase="shrunk", message=message)
        self.writer.write(shrunk)
        self.findings.add(shrunk)
        return shrunk

    def _write_once(self, record: Record) -> None:
        key = record_key(record)
        if key not in self._recorded:
            self._recorded.add(key)
            self.writer.write(record)

    def _try_here(self, related: bool, kernel: Kernel, problem: Problem, test: str) -> Record:
        bench = Bench(
            torch.device(self.device),
            self.precision,
            lambda note: self.journal.call(note, self.timeout),
            RELATIONS if related else (),
        )
        try:
            return attempt(kernel, problem, bench, test)
        except ContextLost as lost:
            self.journal.amend(str(lost))
            os._exit(_EXIT_CONTEXT_LOST)

    def _try_in_child(self, related: bool, kernel: Kernel, problem: Problem, test: str) -> Record:
        isolation = Isolation(self.specs, self.device, self.precision, self.timeout, related)
        return isolation.attempt(kernel, problem, test)


def _database(test: str) -> DirectoryBasedExampleDatabase:
    """Examples are kept by test: one kernel's failure is no reason to try another's first."""
    return DirectoryBasedExampleDatabase(EXAMPLE_DATABASE / hashlib.sha256(test.encode()).hexdigest()[:16])


def failure_text(record: Record, spec: str) -> str:
    """What a person needs: kernel, rule, numbers, problem, and one line to run it again.

    spec  what finds the kernel again: its name, or what `--kernel` took
    """
    return "\n".join(
        [
            f"{record.kernel}: {record.verdict}, {record.rule}",
            f"  {record.message}",
            f"  again: {rerun(spec, record.problem)}",
        ]
    )
