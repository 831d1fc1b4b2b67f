"""The kernels x features matrix: for each feature and kernel, how many problems asked for it and what became of them.

A problem has many features and counts in each of their rows, so a cell says "among the problems with this feature",
not "because of it".
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from fa2verify.reports.record import Record
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import BAD, KernelSummary, counted

State = Literal["passed", "failed", "known", "unsupported", "untested"]


@dataclass(frozen=True, slots=True)
class Cell:
    """One feature of one kernel.

    passed       problems that passed
    bad          problems that failed, crashed or timed out
    known        problems that failed as the ledger of known failures says
    unsupported  problems that the kernel does not take
    declared     the kernel's entry says that it does not take the feature
    reasons      why not, in sentences; empty unless `state` is "unsupported"
    """

    passed: int
    bad: int
    known: int
    unsupported: int
    declared: bool
    reasons: tuple[str, ...]

    @property
    def judged(self) -> int:
        """Problems that the kernel took."""
        return self.passed + self.bad

    @property
    def state(self) -> State:
        """What judged problems say comes first: a kernel that takes them is held to them."""
        if self.bad:
            return "failed"
        if self.passed:
            return "passed"
        if self.known:
            return "known"
        return "unsupported" if self.unsupported or self.declared else "untested"


def matrix(loaded: Loaded, summaries: Sequence[KernelSummary]) -> dict[str, tuple[Cell, ...]]:
    """Feature to one cell a kernel, in the order of `summaries`.

    Features are in the order of the first run; those that only records or entries name come last.
    """
    by_cell: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for part in loaded.parts:
        for record in counted(part.records):
            for feature in record.features:
                by_cell[feature, record.kernel].append(record)
    declared: dict[tuple[str, str], dict[str, None]] = defaultdict(dict)
    for entry in loaded.kernels:
        for feature, reasons in entry.unsupported.items():
            declared[feature, entry.name].update(dict.fromkeys(reasons))
    listed = (feature for run in loaded.runs for feature in run.features)
    named = (feature for feature, _ in (*by_cell, *declared))
    return {
        feature: tuple(
            _cell(by_cell.get((feature, kernel.name), []), declared.get((feature, kernel.name))) for kernel in summaries
        )
        for feature in dict.fromkeys((*listed, *named))
    }


def _cell(records: Sequence[Record], declared: dict[str, None] | None) -> Cell:
    verdicts = Counter(record.verdict for record in records)
    bad = sum(verdicts[verdict] for verdict in BAD)
    reasons = tuple(declared or _shared_reasons(records)) if not verdicts["passed"] and not bad else ()
    return Cell(verdicts["passed"], bad, verdicts["known"], verdicts["unsupported"], declared is not None, reasons)


def _shared_reasons(records: Sequence[Record]) -> Sequence[str]:
    """Reasons that every problem of the cell was refused for, which are likely the feature's own; else all of them."""
    given = list(dict.fromkeys(reason for record in records for reason in record.reasons))
    return [reason for reason in given if all(reason in record.reasons for record in records)] or given
