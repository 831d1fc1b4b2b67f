"""What moved between two runs of the suite, A and B: verdicts, errors, environments.

Where both judged the same problem on the same kernel, the verdicts are compared one by one, and one that passed and now
fails is worse, without statistics. Errors of the same problems are compared pair by pair. Runs of different seeds share
few problems; then rates and distributions are compared, by the tests of `significance`.
"""

import math
import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from fa2verify.reports import significance
from fa2verify.reports.environment import rows
from fa2verify.reports.failures import compact
from fa2verify.reports.ratios import share_of_bound
from fa2verify.reports.record import OutputError, OutputName, Record
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import BAD, counted

GROWTH = 1.1  # a median error that is no more than a tenth larger is not called worse, however sure it is
_PAIRS = 16  # from so many on pairs are enough: 2^-16 leaves room for Holm's correction over hundreds of tests

Judged = dict[tuple[str, str], Record]  # (kernel, problem) to what became of it
Measure = Literal["share of the bound", "ratio to PyTorch's error"]
_MEASURES: dict[Measure, Callable[[OutputError], float | None]] = {
    "share of the bound": share_of_bound,
    "ratio to PyTorch's error": lambda error: error.ratio,
}


class NothingInCommon(ValueError):
    """Two runs that no kernel judged problems in both; the message says which kernels each has."""


@dataclass(frozen=True, slots=True)
class Turned:
    """One problem whose verdict is another in B."""

    a: Record
    b: Record


@dataclass(frozen=True, slots=True)
class RateShift:
    """How often one kernel fails on the problems with one feature, or on all (`feature` None), that only one run has.

    p  corrected, that B fails so much more often by chance
    """

    kernel: str
    feature: str | None
    bad_a: int
    judged_a: int
    bad_b: int
    judged_b: int
    p: float

    @property
    def worse(self) -> bool:
        """Whether B fails more often, beyond chance."""
        return self.p < significance.LEVEL


@dataclass(frozen=True, slots=True)
class ErrorShift:
    """Errors of one kernel and output in one measure.

    paired              the medians are over the same problems; else over all that each run has
    tensors_a, _b       how many
    median_a, median_b  of the measure
    p                   corrected, that B's errors are so much larger by chance
    """

    kernel: str
    output: OutputName
    measure: Measure
    paired: bool
    tensors_a: int
    tensors_b: int
    median_a: float
    median_b: float
    p: float

    @property
    def growth(self) -> float:
        """Median of B / median of A."""
        return significance.growth(self.median_a, self.median_b)

    @property
    def worse(self) -> bool:
        """Whether errors grew beyond chance, and by more than GROWTH."""
        return self.p < significance.LEVEL and self.growth > GROWTH


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that two runs differ in.

    common          problems that both judged on the same kernel
    fails, passes   those among them that fail only in B, only in A
    narrowed        those that A judged and B's kernel does not take
    only_a, only_b  kernels that judged problems in one of the two alone
    environment     property to what A and B say, where they differ
    """

    common: int
    fails: tuple[Turned, ...]
    passes: tuple[Turned, ...]
    narrowed: tuple[Turned, ...]
    rates: tuple[RateShift, ...]
    errors: tuple[ErrorShift, ...]
    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    environment: Mapping[str, tuple[str, str]]

    @property
    def worse(self) -> bool:
        """Whether anything in B is worse."""
        return bool(self.fails) or any(rate.worse for rate in self.rates) or any(one.worse for one in self.errors)


def compare(a: Loaded, b: Loaded) -> Comparison:
    """Compare run B with run A. Raises NothingInCommon."""
    all_a, all_b = _records(a), _records(b)
    judged_a, judged_b = ({key: one for key, one in all_.items() if _judged(one)} for all_ in (all_a, all_b))
    kernels_a, kernels_b = (dict.fromkeys(kernel for kernel, _ in judged) for judged in (judged_a, judged_b))
    kernels = [kernel for kernel in kernels_a if kernel in kernels_b]
    if not kernels:
        raise NothingInCommon(
            "no kernel judged problems in both runs: "
            f"A has {', '.join(kernels_a) or 'none'}; B has {', '.join(kernels_b) or 'none'}"
        )
    common = [key for key in judged_a if key in judged_b]
    turned = [Turned(judged_a[key], judged_b[key]) for key in common]
    return Comparison(
        common=len(common),
        fails=tuple(one for one in turned if one.a.verdict not in BAD and one.b.verdict in BAD),
        passes=tuple(one for one in turned if one.a.verdict in BAD and one.b.verdict not in BAD),
        narrowed=tuple(
            Turned(judged_a[key], all_b[key]) for key in judged_a if key in all_b and not _judged(all_b[key])
        ),
        rates=_rates(kernels, judged_a, judged_b),
        errors=_errors(kernels, judged_a, judged_b),
        only_a=tuple(kernel for kernel in kernels_a if kernel not in kernels_b),
        only_b=tuple(kernel for kernel in kernels_b if kernel not in kernels_a),
        environment=_environment(a, b),
    )


def _records(loaded: Loaded) -> Judged:
    found: Judged = {}
    for part in loaded.parts:
        for record in counted(part.records):
            key = record.kernel, compact(dict(sorted(record.problem.items())))
            # A problem may be drawn twice; its worst verdict is what became of it.
            if key not in found or record.verdict in BAD:
                found[key] = record
    return found


def _judged(record: Record) -> bool:
    return record.verdict != "unsupported"


def _rates(kernels: list[str], judged_a: Judged, judged_b: Judged) -> tuple[RateShift, ...]:
    """Problems that only one run has: what both have is compared one by one."""
    apart = [
        [record for key, record in judged.items() if key not in other]
        for judged, other in ((judged_a, judged_b), (judged_b, judged_a))
    ]
    shifts = []
    for kernel in kernels:
        ours = [[record for record in records if record.kernel == kernel] for records in apart]
        features = dict.fromkeys(feature for records in ours for record in records for feature in record.features)
        for feature in (None, *features):
            (bad_a, n_a), (bad_b, n_b) = (_count(records, feature) for records in ours)
            if n_a and n_b and (bad_a or bad_b):
                p = significance.rates(bad_a, n_a, bad_b, n_b)
                shifts.append(RateShift(kernel, feature, bad_a, n_a, bad_b, n_b, p))
    corrected = significance.holm([shift.p for shift in shifts])
    return tuple(replace(shift, p=p) for shift, p in zip(shifts, corrected, strict=True))


def _count(records: list[Record], feature: str | None) -> tuple[int, int]:
    asked = [record for record in records if feature is None or feature in record.features]
    return sum(record.verdict in BAD for record in asked), len(asked)


def _errors(kernels: list[str], judged_a: Judged, judged_b: Judged) -> tuple[ErrorShift, ...]:
    shifts = []
    for measure, of in _MEASURES.items():
        values_a, values_b = (_values(judged, of) for judged in (judged_a, judged_b))
        for kernel, output in values_a:
            if kernel not in kernels or (kernel, output) not in values_b:
                continue
            a, b = values_a[kernel, output], values_b[kernel, output]
            both = [problem for problem in a if problem in b]
            paired = len(both) >= _PAIRS
            one = [a[problem] for problem in both] if paired else list(a.values())
            other = [b[problem] for problem in both] if paired else list(b.values())
            p = (significance.pairs if paired else significance.samples)(one, other)
            medians = statistics.median_low(one), statistics.median_low(other)
            shifts.append(ErrorShift(kernel, output, measure, paired, len(one), len(other), *medians, p))
    corrected = significance.holm([shift.p for shift in shifts])
    return tuple(replace(shift, p=p) for shift, p in zip(shifts, corrected, strict=True))


def _values(
    judged: Judged, of: Callable[[OutputError], float | None]
) -> dict[tuple[str, OutputName], dict[str, float]]:
    found: dict[tuple[str, OutputName], dict[str, float]] = {}
    for (kernel, problem), record in judged.items():
        for error in record.errors:
            value = of(error)
            if value is not None:
                # NaN has no rank; an error that is no number is as bad as any.
                found.setdefault((kernel, error.output), {})[problem] = math.inf if math.isnan(value) else value
    return found


def _environment(a: Loaded, b: Loaded) -> dict[str, tuple[str, str]]:
    said = [{row.name: ", ".join(dict.fromkeys(row.values)) for row in rows(loaded)} for loaded in (a, b)]
    return {name: pair for name, pair in _pairs_of(*said) if pair[0] != pair[1] and name not in ("run", "verdict")}


def _pairs_of(a: dict[str, str], b: dict[str, str]) -> Iterator[tuple[str, tuple[str, str]]]:
    for name in dict.fromkeys((*a, *b)):
        yield name, (a.get(name, ""), b.get(name, ""))
