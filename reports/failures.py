"""Failures worth reading: the smallest problem for each way in which a kernel failed, and the line that reruns it.

Hypothesis draws hundreds of failing problems on the way to the smallest. Shrunk records stand for the drawn ones of
their test, verdict and rule; failures that nothing shrank (a crash takes the process with it) are shown by the
smallest that was drawn.
"""

import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from fa2verify.reports.record import KernelEntry, Record, Run, VerdictName
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import BAD

_Way = tuple[str, str, VerdictName, str | None]  # kernel, test, verdict, rule


@dataclass(frozen=True, slots=True)
class Failure:
    """One failing problem.

    record  the verdict on it; the first of several identical ones
    times   how many drawn problems failed in this way, at least 1
    runs    where it was seen
    rerun   the line that runs it again, quoted for a POSIX shell
    """

    record: Record
    times: int
    runs: tuple[Run, ...]
    rerun: str

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """The problem's fields as text, those of a nested object under their own names."""
        return tuple(_fields(self.record.problem))


def failures(loaded: Loaded) -> tuple[Failure, ...]:
    """Every distinct failure, by kernel in order of appearance; shrunk ones of a kernel before drawn ones."""
    specs = _specs(loaded.kernels)
    ways: dict[_Way, list[tuple[Record, Run | None]]] = {}
    for part in loaded.parts:
        for record in part.records:
            if record.verdict in BAD:
                way = record.kernel, record.test, record.verdict, record.rule
                ways.setdefault(way, []).append((record, part.run))
    found = [failure for seen in ways.values() for failure in _of_one_way(seen, specs)]
    kernels = list(dict.fromkeys(kernel for kernel, *_ in ways))
    return tuple(sorted(found, key=lambda one: (kernels.index(one.record.kernel), one.record.phase != "shrunk")))


def rerun(kernel: str, problem: dict[str, Any], rule: str | None) -> str:
    """The shell line that runs `problem` on `kernel` again, under the sanitizer where that is what `rule` names.

    kernel  a kernel's name or what `--kernel=` took
    """
    watched, _, tool = (rule or "").partition(" ")
    sanitizer = [f"--sanitizer={tool}"] if watched == "sanitizer" else []
    separator = ["--"] if kernel.startswith("-") else []
    return shlex.join(["fa2verify", "check", *sanitizer, *separator, kernel, compact(problem)])


def compact(problem: dict[str, Any]) -> str:
    """`problem` as JSON without a space to spare."""
    return json.dumps(problem, separators=(",", ":"), ensure_ascii=False)


def _of_one_way(seen: Sequence[tuple[Record, Run | None]], specs: dict[str, str]) -> list[Failure]:
    drawn = [record for record, _ in seen if record.phase == "drawn"]
    shrunk = [record for record, _ in seen if record.phase == "shrunk"]
    # Defaults are left out of a problem's text, so the shortest text asks for the least.
    shown = shrunk or [min(drawn, key=lambda record: (len(compact(record.problem)), compact(record.problem)))]
    distinct: dict[str, Record] = {}
    for record in shown:
        distinct.setdefault(compact(record.problem), record)
    runs = {run.id: run for _, run in seen if run is not None}
    return [
        Failure(
            record=record,
            times=max(len(drawn), 1),
            runs=tuple(runs.values()),
            rerun=rerun(specs.get(record.kernel, record.kernel), record.problem, record.rule),
        )
        for record in distinct.values()
    ]


def _fields(problem: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in problem.items():
        if isinstance(value, dict):
            yield from _fields(value)
        elif isinstance(value, str):
            yield name, value
        else:
            yield name, json.dumps(value, ensure_ascii=False)


def _specs(entries: Sequence[KernelEntry]) -> dict[str, str]:
    """Names of kernels that only `--kernel=SPEC` knows, to SPEC: a rerun does not find those by name."""
    prefix = "--kernel="
    return {entry.name: entry.origin.removeprefix(prefix) for entry in entries if entry.origin.startswith(prefix)}
