"""Failures worth reading: the smallest problem for each way in which a kernel failed, and the line that reruns it.

Hypothesis draws hundreds of failing problems on the way to the smallest. Shrunk records stand for the drawn ones of
their verdict and rule; failures that nothing shrank (a crash takes the process with it) are shown by the smallest that
was drawn. Several tests of one run find one defect, so which test it was distinguishes nothing.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fa2verify.reports.record import KernelEntry, Record, Run, VerdictName
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import BAD

_MOST = 3  # problems of one way; the fourth is longer, and says what the first three do

_Way = tuple[str, VerdictName, str | None]  # kernel, verdict, rule


@dataclass(frozen=True, slots=True)
class Failure:
    """One failing problem.

    record  the verdict on it; the first of several identical ones
    times   how many drawn problems failed in this way, at least 1
    tests   the tests that drew it
    runs    where it was seen
    rerun   the line that runs it again, quoted for a POSIX shell
    """

    record: Record
    times: int
    tests: tuple[str, ...]
    runs: tuple[Run, ...]
    rerun: str

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The problem's fields as text, those of a nested object under their own names."""
        return tuple(_fields(self.record.problem))


def failures(loaded: Loaded) -> tuple[Failure, ...]:
    """The shortest problems of every way to fail, by kernel in order of appearance; a kernel's shrunk ones first."""
    known = specs(loaded.kernels)
    ways: dict[_Way, list[tuple[Record, Run | None]]] = {}
    for part in loaded.parts:
        for record in part.records:
            if record.verdict in BAD:
                way = record.kernel, record.verdict, record.rule
                ways.setdefault(way, []).append((record, part.run))
    found = [failure for seen in ways.values() for failure in _of_one_way(seen, known)]
    kernels = list(dict.fromkeys(kernel for kernel, *_ in ways))
    return tuple(sorted(found, key=lambda one: (kernels.index(one.record.kernel), one.record.phase != "shrunk")))


def rerun(kernel: str, problem: dict[str, Any], rule: str | None) -> str:
    """The shell line that runs `problem` on `kernel` again, under the sanitizer where that is what `rule` names.

    kernel  a kernel's name or what `--kernel=` took
    """
    watched, _, tool = (rule or "").partition(" ")
    sanitizer = [f"--sanitizer={tool}"] if watched == "sanitizer" else []
    return shlex.join([*rerun_words(kernel, *sanitizer), compact(problem)])


def rerun_words(kernel: str, *options: str) -> list[str]:
    """The words of the line that runs a problem on `kernel`, but for the problem."""
    separator = ["--"] if kernel.startswith("-") else []
    return ["fa2verify", "check", *options, *separator, kernel]


def specs(entries: Sequence[KernelEntry]) -> dict[str, str]:
    """Names of kernels that only `--kernel=SPEC` knows, to SPEC: a rerun does not find those by name."""
    prefix = "--kernel="
    return {entry.name: entry.origin.removeprefix(prefix) for entry in entries if entry.origin.startswith(prefix)}


def compact(problem: dict[str, Any]) -> str:
    """`problem` as JSON without a space to spare."""
    return json.dumps(problem, separators=(",", ":"), ensure_ascii=False)


def _of_one_way(seen: Sequence[tuple[Record, Run | None]], known: dict[str, str]) -> list[Failure]:
    drawn = [record for record, _ in seen if record.phase == "drawn"]
    shrunk = [record for record, _ in seen if record.phase == "shrunk"]
    # Defaults are left out of a problem's text, so the shortest text asks for the least.
    shown = shrunk or [min(drawn, key=lambda record: (len(compact(record.problem)), compact(record.problem)))]
    distinct: dict[str, Record] = {}
    for record in sorted(shown, key=lambda record: len(compact(record.problem))):
        distinct.setdefault(compact(record.problem), record)
    runs = {run.id: run for _, run in seen if run is not None}
    tests = tuple(dict.fromkeys(record.test for record, _ in seen if record.test))
    return [
        Failure(
            record=record,
            times=max(len(drawn), 1),
            tests=tests,
            runs=tuple(runs.values()),
            rerun=rerun(known.get(record.kernel, record.kernel), record.problem, record.rule),
        )
        for record in list(distinct.values())[:_MOST]
    ]


def _fields(problem: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in problem.items():
        if isinstance(value, dict):
            yield from _fields(value)
        elif isinstance(value, str):
            yield name, value
        else:
            yield name, json.dumps(value, ensure_ascii=False)
