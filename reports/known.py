"""Known failures, as a run met them: an entry of the ledger a line.

An entry covers problems that may show its fault, and a predicate on problems is rarely as narrow as the fault. So how
many of them passed is shown beside how many failed: an entry that is much wider hides other failures.
"""

from collections import Counter
from dataclasses import dataclass

from fa2verify.reports.record import Known
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import BAD, counted, plural


@dataclass(frozen=True, slots=True)
class KnownTally:
    """One entry and one kernel, over all runs.

    entry   None if no kernel's entry describes it: the line could not be read
    failed  problems that failed as the entry says
    passed  problems that it covers and that passed
    other   problems that it covers and that failed in another way
    """

    kernel: str
    name: str
    entry: Known | None
    failed: int
    passed: int
    other: int

    @property
    def sentence(self) -> str:
        """What became of the problems that the entry covers."""
        if not (self.failed or self.passed or self.other):
            return "no problem of it was tried"
        told = [f"{plural(self.failed, 'problem')} failed as known"]
        if self.passed:
            told.append(f"it is wider than the fault: {self.passed:,} of {self.failed + self.passed:,} passed")
        if self.other:
            told.append(f"{self.other:,} failed in another way")
        return "; ".join(told)

    @property
    def line(self) -> str:
        """The tally for a terminal."""
        where = f" ({self.entry.link})" if self.entry else ""
        return f"{self.kernel}: known failure {self.name}{where}: {self.sentence}"


def known_failures(loaded: Loaded) -> tuple[KnownTally, ...]:
    """A tally for every entry that was expected of a kernel, or met, by kernel in order of appearance."""
    described = {(kernel.name, entry.name): entry for kernel in loaded.kernels for entry in kernel.known}
    tallies: dict[tuple[str, str], Counter[str]] = {pair: Counter() for pair in described}
    for part in loaded.parts:
        for record in counted(part.records):
            if record.known is not None:
                fate = "other" if record.verdict in BAD else record.verdict
                tallies.setdefault((record.kernel, record.known), Counter())[fate] += 1
    kernels = list(dict.fromkeys(kernel for kernel, _ in tallies))
    found = (
        KnownTally(kernel, name, described.get((kernel, name)), tally["known"], tally["passed"], tally["other"])
        for (kernel, name), tally in tallies.items()
    )
    return tuple(sorted(found, key=lambda tally: kernels.index(tally.kernel)))
