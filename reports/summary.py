"""What a run says about each kernel, in numbers, and about all of them in one sentence.

Counts are over drawn problems. A shrunk problem is a failing one told again, so it counts only where the drawn one is
missing, for example because its process died.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from fa2verify.reports.ratios import DIRECTIONS, Direction, Ratios, ratios, share_of_bound
from fa2verify.reports.record import DecoyFate, KernelEntry, Record, VerdictName
from fa2verify.reports.store import Loaded

Status = Literal["failed", "passed", "unavailable", "not judged"]
BAD: tuple[VerdictName, ...] = ("failed", "crashed", "timed_out")
VERDICT_WORDS: dict[VerdictName, str] = {
    "passed": "passed",
    "failed": "failed",
    "crashed": "crashed",
    "timed_out": "timed out",
    "unsupported": "unsupported",
    "known": "known failures",
}

_NAME_LENGTH = 40  # characters; a longer name costs its own line the columns, not all lines their legibility


@dataclass(frozen=True, slots=True)
class KernelSummary:
    """One kernel over all runs.

    lineages, origins  as its entries say, each once; more than one if runs knew different kernels of this name
    unavailable        why a run left it out, in sentences, each once; a kernel may have run on another machine
    counts             verdict to number of problems; verdicts that did not occur are 0
    reasons            sentences why problems were not taken, to how many, most frequent first
    ratios             errors in units of PyTorch's, `out` and gradients
    worst_share        the largest share of the elementwise bound that any tensor reached, 1 is the limit; None without
                       a measured tensor
    decoys             decoy to how often it met each fate
    first_failure      the first record that failed, crashed or timed out, a shrunk one if there is one
    """

    name: str
    lineages: tuple[str, ...]
    origins: tuple[str, ...]
    unavailable: tuple[str, ...]
    counts: dict[VerdictName, int]
    reasons: dict[str, int]
    ratios: dict[Direction, Ratios]
    worst_share: float | None
    decoys: dict[str, dict[DecoyFate, int]]
    first_failure: Record | None

    @property
    def judged(self) -> int:
        """Problems that the kernel took, without known failures."""
        return self.counts["passed"] + self.bad

    @property
    def bad(self) -> int:
        """Problems that failed, crashed or timed out."""
        return sum(self.counts[verdict] for verdict in BAD)

    @property
    def status(self) -> Status:
        """Failed if any problem did, but for known failures; passed needs at least one that did."""
        if self.bad:
            return "failed"
        if self.counts["passed"]:
            return "passed"
        return "unavailable" if self.unavailable else "not judged"

    @property
    def never_caught(self) -> tuple[str, ...]:
        """Decoys that no example told from the truth: this run could not have seen such a defect."""
        return tuple(name for name, fates in self.decoys.items() if not fates["caught"])


def summarize(loaded: Loaded) -> tuple[KernelSummary, ...]:
    """One summary a kernel, in the order in which the runs name them; kernels without an entry come last."""
    entries: dict[str, list[KernelEntry]] = {entry.name: [] for entry in loaded.kernels}
    for entry in loaded.kernels:
        entries[entry.name].append(entry)
    records: dict[str, list[Record]] = {}
    for part in loaded.parts:
        for record in counted(part.records):
            records.setdefault(record.kernel, []).append(record)
    shrunk: dict[str, Record] = {}
    for record in loaded.records:
        if record.phase == "shrunk" and record.verdict in BAD:
            shrunk.setdefault(record.kernel, record)
    return tuple(
        _summary(name, entries.get(name, []), records.get(name, []), shrunk.get(name))
        for name in dict.fromkeys((*entries, *records))
    )


def counted(records: Sequence[Record]) -> tuple[Record, ...]:
    """The records of one run without shrunk ones that tell a drawn one again."""
    # Only what may be told twice needs its key, and nearly nothing is: keys of all would cost a large run seconds.
    retold = {(record.kernel, record.verdict) for record in records if record.phase == "shrunk"}
    drawn = {
        problem_key(record)
        for record in records
        if record.phase == "drawn" and (record.kernel, record.verdict) in retold
    }
    return tuple(record for record in records if record.phase == "drawn" or problem_key(record) not in drawn)


def problem_key(record: Record) -> tuple[str, str, VerdictName]:
    """What makes two records tell the same: kernel, problem and verdict."""
    return record.kernel, json.dumps(record.problem, sort_keys=True), record.verdict


def sentence(summaries: Sequence[KernelSummary]) -> str:
    """The whole run in one sentence, for example "7 kernels, 1,204 problems, all passed"."""
    judged = [summary for summary in summaries if summary.judged]
    failing = [summary for summary in judged if summary.bad]
    problems = sum(summary.judged for summary in judged)
    known = sum(summary.counts["known"] for summary in summaries)
    aside = f" (and {plural(known, 'known failure')})" if known else ""
    if not judged:
        return f"No problem was judged{aside}"
    scope = f"{plural(len(judged), 'kernel')}, {plural(problems, 'problem')}"
    if not failing:
        return f"{scope}, all passed{aside}"
    bad = sum(summary.bad for summary in failing)
    names = ", ".join(_shortened(summary.name) for summary in failing[:3])
    more = f" and {len(failing) - 3} more" if len(failing) > 3 else ""
    return f"{scope}: {bad:,} did not pass, in {plural(len(failing), 'kernel')} ({names}{more}){aside}"


def lines(summaries: Sequence[KernelSummary]) -> tuple[str, ...]:
    """One line a kernel for a terminal, in columns."""
    width = min(max((len(_printable(summary.name)) for summary in summaries), default=0), _NAME_LENGTH)
    return tuple(f"{_printable(summary.name):{width}}  {_line(summary)}" for summary in summaries)


def plural(count: int, noun: str) -> str:
    """`count` with thousands separators and its noun: "1 kernel", "1,204 problems"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def short(value: float | None) -> str:
    """Three significant digits, more for thousands; an en dash for None."""
    if value is None:
        return "\N{EN DASH}"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.2e}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def _line(summary: KernelSummary) -> str:
    if summary.status == "unavailable":
        return "left out: " + _printable(" ".join(summary.unavailable))
    counts = "  ".join(f"{summary.counts[verdict]:6d} {word}" for verdict, word in VERDICT_WORDS.items())
    if summary.status == "not judged":
        return f"{counts}  nothing judged"
    medians = [
        f"{short(found.median)}x {{}}in {direction}"
        for direction, found in summary.ratios.items()
        if found.median is not None
    ]
    # "PyTorch's error" is said once, with the first of the two.
    ratio = " and ".join(text.format("" if index else "PyTorch's error ") for index, text in enumerate(medians))
    share = f"at most {short(summary.worst_share)} of the bound" if summary.worst_share is not None else ""
    measured = ", ".join(part for part in (ratio and f"median {ratio}", share) if part)
    return f"{counts}  {measured}" if measured else counts


def _summary(
    name: str, entries: Sequence[KernelEntry], records: Sequence[Record], shrunk: Record | None
) -> KernelSummary:
    counts = Counter(record.verdict for record in records)
    reasons = Counter(reason for record in records for reason in record.reasons if record.verdict == "unsupported")
    shares = [share_of_bound(error) for record in records for error in record.errors]
    return KernelSummary(
        name=name,
        lineages=_once(entry.lineage for entry in entries),
        origins=_once(entry.origin for entry in entries),
        unavailable=_once(reason for entry in entries for reason in entry.unavailable),
        counts={verdict: counts[verdict] for verdict in VERDICT_WORDS},
        reasons=dict(reasons.most_common()),
        ratios={direction: ratios(records, direction) for direction in DIRECTIONS},
        worst_share=max(shares, default=None),
        decoys=_decoys(records),
        first_failure=shrunk or next((record for record in records if record.verdict in BAD), None),
    )


def _decoys(records: Sequence[Record]) -> dict[str, dict[DecoyFate, int]]:
    decoys: dict[str, dict[DecoyFate, int]] = {}
    for record in records:
        for decoy, fate in record.decoys.items():
            decoys.setdefault(decoy, {"caught": 0, "missed": 0, "too_close": 0})[fate] += 1
    return decoys


def _once(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else name[: _NAME_LENGTH - 1] + "\N{HORIZONTAL ELLIPSIS}"


def _printable(text: str) -> str:
    """`text` on one line and without control characters, which could rewrite what a terminal shows."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)
