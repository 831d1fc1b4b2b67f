"""Where the runs of a report took place, side by side: what differs between two machines is what to look at first."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from fa2verify.reports.benchmark_record import BenchmarkRun
from fa2verify.reports.benchmark_store import Machine
from fa2verify.reports.record import Run
from fa2verify.reports.store import Loaded
from fa2verify.reports.summary import BAD, counted, plural


@dataclass(frozen=True, slots=True)
class Row:
    """One property of every run; `values` in the order of the runs, empty where a run does not say."""

    name: str
    values: tuple[str, ...]

    @property
    def differs(self) -> bool:
        """Whether not all runs say the same."""
        return len(set(self.values)) > 1


def rows(loaded: Loaded, machines: Sequence[Machine] = ()) -> tuple[Row, ...]:
    """A table with a column a run, those of benchmarks last: what it was, what it found and on what."""
    parts = [(part.run, part) for part in loaded.parts if part.run is not None]
    runs = [run for run, _ in parts]
    verdicts = []
    for _, part in parts:
        records = [record for record in counted(part.records) if record.verdict not in ("unsupported", "known")]
        bad = sum(record.verdict in BAD for record in records)
        outcome = f"{bad:,} did not pass" if bad else "all passed"
        verdicts.append(f"{plural(len(records), 'problem')}, {outcome}" if records else "nothing judged")
    measured = [run for machine in machines for run in machine.runs]
    every: tuple[Run | BenchmarkRun, ...] = (*runs, *measured)
    names = dict.fromkeys(name for run in every for name in run.environment)
    others = ("",) * len(measured)
    found = (
        Row("run", tuple(run.id for run in every)),
        Row("started", tuple(run.started for run in every)),
        Row("verdict", (*verdicts, *("benchmarks" for _ in measured))),
        Row("device", tuple(run.device for run in every)),
        Row("profile", (*(run.profile for run in runs), *others)),
        Row("seed", (*(str(run.seed) for run in runs), *others)),
        Row("options", (*("" for _ in runs), *(_options(run) for run in measured))),
        *(Row(name, tuple(run.environment.get(name, "") for run in every)) for name in names),
    )
    return tuple(row for row in found if any(row.values))


def _options(run: BenchmarkRun) -> str:
    return ", ".join(f"{name} {value}" for name, value in run.options.items())


def repeats(runs: Sequence[Run]) -> tuple[str, ...]:
    """Shell lines that draw the same problems again, each once."""
    lines = (
        shlex.join(
            ["pytest", "-n", "auto", "verify", f"--hypothesis-profile={run.profile}", f"--hypothesis-seed={run.seed}"]
        )
        for run in runs
    )
    return tuple(dict.fromkeys(lines))
