"""One process' part of a run: draws problems for a kernel, tries them, records every verdict, shrinks what fails."""

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
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
from fa2verify.verify.known_failures.ledger import KnownFailure, Ledger, confirmed, in_light_of
from fa2verify.verify.relations.catalogue import RELATIONS
from fa2verify.verify.run.findings import Findings
from fa2verify.verify.run.journal import Journal
from fa2verify.verify.run.large_problems import bytes_needed
from fa2verify.verify.run.quarantine import Quarantine, record_key
from fa2verify.verify.run.room import Crowded, room, wait_for_room
from fa2verify.verify.trial.attempt import Bench, ContextLost, attempt
from fa2verify.verify.trial.isolation import Isolation
from fa2verify.verify.trial.no_answer import no_answer, without_room
from fa2verify.verify.trial.sanitizer import Sanitizer

EXAMPLE_DATABASE = Path(".hypothesis/examples")
_EXIT_CONTEXT_LOST = 70
# A hang is shrunk with short time-outs, a share of the whole one each and this many: all of them cost one more.
_HANGS = 8
_SHORTEST_LIMIT = 1.0  # seconds; less would end what merely starts slowly
# Seconds from the first failure on in which smaller problems are still tried. A call of milliseconds needs a few; a
# kernel that is compiled for each problem would otherwise be shrunk for minutes.
_SHRINKING = 60.0


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
    ledger      the known failures that are to be expected here
    specs       what `--kernel` named
    device      "cpu" or "cuda"
    precision   of the reference
    timeout     seconds that one call may take
    seed        run seed
    sanitizer   under which kernels are called instead of being judged; None: they are judged
    """

    writer: Writer
    journal: Journal
    quarantine: Quarantine
    findings: Findings
    ledger: Ledger
    specs: tuple[str, ...]
    device: str
    precision: Precision
    timeout: float
    seed: int
    sanitizer: Sanitizer | None = None
    _recorded: set[str] = field(default_factory=set)

    def verify(
        self, kernel: Kernel, problems: SearchStrategy[Problem], examples: int, test: str, *, related: bool = False
    ) -> Record | None:
        """Judge `kernel` on `examples` problems. Gives the smallest failing one's record, or None if all passed.

        related  whether further calls are asked for `RELATIONS`

        Verdicts are written as they are reached. After a failure Hypothesis shrinks; only the end of that is recorded.
        Raises AlreadyFound if another part of the same test has found and shrunk the same failure, Crowded if the GPU
        was too full to try anything.
        """
        entries = self.ledger.of(kernel.name)
        earlier = self._earlier(kernel, test)
        found: list[Record] = []
        failing: dict[Problem, Record] = {}
        deadline = math.inf
        # The problem that a worker has hung on need not hang another one before it is shrunk.
        hung = {Problem.from_dict(record.problem): record for record in earlier if record.verdict == "timed_out"}
        most = len(hung) + 1 + _HANGS

        # Settings outermost: `seed` takes the database away from those it is put on top of. With --hypothesis-seed
        # Hypothesis uses none anyway, so that the run it repeats is not preceded by what was found since.
        @hypothesis.settings(max_examples=examples, database=_database(test))
        @hypothesis.seed(int.from_bytes(hashlib.sha256(f"{self.seed} {test}".encode()).digest()[:8]))
        @hypothesis.given(problem=problems)
        def judge_one(problem: Problem) -> None:
            nonlocal deadline
            # Shrinking comes back to the same problem many times, and tries others that hang.
            if time.monotonic() > deadline:
                if problem in failing:
                    raise VerificationFailure(failing[problem])
                return
            shrinking = bool(found) and found[0].verdict == "timed_out"
            if shrinking and problem not in hung and len(hung) >= most:
                return
            limit = max(_SHORTEST_LIMIT, self.timeout / _HANGS) if shrinking else self.timeout
            record = hung[problem] if problem in hung else self._try(kernel, problem, test, limit, related=related)
            record = in_light_of(entries, problem, record)
            if record.verdict == "timed_out":
                hung[problem] = record
            if not found:
                self._write_once(record)
            if record.verdict in BAD:
                if not found:
                    if (known := self.findings.of(record)) is not None:
                        raise AlreadyFound(known)
                    deadline = time.monotonic() + _SHRINKING
                found.append(record)
                failing[problem] = record
                raise VerificationFailure(record)

        smallest = self._run(judge_one, found)
        if smallest is None:
            return None
        if time.monotonic() > deadline:
            smallest = _noted(smallest, f"perhaps not the smallest: shrinking ended after {_SHRINKING:g} s")
        return self._shrunk(self._hangs_indeed(kernel, found[0], smallest, related))

    def confirm(self, entry: KnownFailure, kernel: Kernel, test: str) -> Record | None:
        """Try the smallest problem of a known failure. Gives the record if it does not fail as the entry says.

        Raises Crowded if the GPU was too full to try it.
        """
        if self.sanitizer is not None:
            return None  # what the entry tells of are outputs, and they are not judged
        self._earlier(kernel, test)
        record = confirmed(entry, self._try(kernel, entry.smallest, test, self.timeout, related=True))
        self._write_once(record)
        return record if record.verdict in BAD else None

    def verify_large(self, kernel: Kernel, problems: Sequence[Problem], test: str) -> list[Record]:
        """Judge `kernel` on each of `problems`, one after the other where workers share a GPU. Gives what failed.

        The smallest problem of a known failure must fail as its entry says, unless there was no room to try it.
        """
        entries = self.ledger.of(kernel.name)
        earlier = {json.dumps(record.problem): record for record in self._earlier(kernel, test)}
        found = []
        for problem in problems:
            record = earlier.get(json.dumps(problem.to_dict()))
            if record is None:
                with room(self.findings.directory, torch.device(self.device), bytes_needed(problem)) as wanting:
                    record = (
                        in_light_of(entries, problem, without_room(kernel, problem, wanting, self.precision, test))
                        if wanting
                        else self._large(kernel, problem, entries, test)
                    )
                self._write_once(record)
            found.append(record)
        return [record for record in found if record.verdict in BAD]

    def _large(self, kernel: Kernel, problem: Problem, entries: Sequence[KnownFailure], test: str) -> Record:
        record = self._try(kernel, problem, test, self.timeout, related=False)
        own = next((entry for entry in entries if entry.smallest == problem), None)
        # Reasons that are not the kernel's: the call ran out of memory, which says nothing of the entry.
        without_answer = record.verdict == "unsupported" and record.reasons != kernel.unsupported(problem)
        if own is None or without_answer:
            return in_light_of(entries, problem, record)
        return confirmed(own, record)

    def _run(self, judge_one: Callable[[], None], found: list[Record]) -> Record | None:
        try:
            judge_one()
        except VerificationFailure as failure:
            # Hypothesis ends by running the smallest failing example once more.
            return failure.record
        except hypothesis.errors.Flaky:
            if not found:
                raise  # this suite's own error, and one that does not repeat
            # It failed once and passed, or failed otherwise, when it was tried again: that is a finding, not noise.
            return _noted(found[-1], "not the same verdict when tried again")
        except Crowded:
            if not found:
                raise
            return _noted(found[-1], "perhaps not the smallest: the GPU was full when smaller ones were tried")
        return None

    def _hangs_indeed(self, kernel: Kernel, first: Record, smallest: Record, related: bool) -> Record:
        """`smallest`, or the first failure if that hung, and the smallest only took longer than shrinking waits."""
        if smallest.verdict != "timed_out" or smallest.problem == first.problem:
            return smallest
        again = self._try(kernel, Problem.from_dict(smallest.problem), first.test, self.timeout, related=related)
        return again if again.verdict == "timed_out" else _noted(first, "what is smaller took long, but ended")

    def _shrunk(self, record: Record) -> Record:
        shrunk = replace(record, phase="shrunk")
        self.writer.write(shrunk)
        self.findings.add(shrunk)
        return shrunk

    def _earlier(self, kernel: Kernel, test: str) -> list[Record]:
        """What workers that the kernel has killed recorded of the same test; it is not written again."""
        if kernel.name not in self.quarantine:
            return []
        earlier = self.quarantine.already_recorded(kernel.name, test)
        self._recorded.update(map(record_key, earlier))
        return earlier

    def _write_once(self, record: Record) -> None:
        key = record_key(record)
        if key not in self._recorded:
            self._recorded.add(key)
            self.writer.write(record)

    def _try(self, kernel: Kernel, problem: Problem, test: str, limit: float, *, related: bool) -> Record:
        if (silent := no_answer(kernel, problem, self.precision, test)) is not None:
            return silent
        if problem.values != "sampled":  # a large problem has the room that it was given
            wait_for_room(torch.device(self.device))
        if self.sanitizer is not None:
            return replace(self.sanitizer, timeout=limit).attempt(kernel, problem, test)
        deadly = any(entry.takes_process and entry.covers(problem) for entry in self.ledger.of(kernel.name))
        if deadly or kernel.name in self.quarantine:
            return Isolation(self.specs, self.device, self.precision, limit, related).attempt(kernel, problem, test)
        bench = Bench(
            torch.device(self.device),
            self.precision,
            lambda note: self.journal.call(note, limit),
            RELATIONS if related else (),
        )
        try:
            return attempt(kernel, problem, bench, test)
        except ContextLost as lost:
            self.journal.amend(str(lost))
            os._exit(_EXIT_CONTEXT_LOST)


def _noted(record: Record, note: str) -> Record:
    return replace(record, message=f"{record.message} ({note})")


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
            f"  again: {rerun(spec, record.problem, record.rule)}",
        ]
    )
