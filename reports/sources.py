"""What a report is made of: the records of runs, benchmarks, or both, from folders and files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fa2verify.reports.benchmark_store import Machine, file_in, machines
from fa2verify.reports.store import Loaded, holds_records
from fa2verify.reports.store import load as load_records


class NothingToReport(ValueError):
    """A file without a single line that a report could show; the message names it."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Verdicts with everything that could not be read, benchmarks included; and benchmarks."""

    loaded: Loaded
    machines: tuple[Machine, ...]


def load(paths: Sequence[Path]) -> Sources:
    """Read files of records and of benchmarks, and folders that hold either or both.

    Raises FileNotFoundError naming a path that does not exist, or a folder without any; NothingToReport; OSError.
    """
    benchmarks = {path: file for path in paths if (file := file_in(path)) is not None}
    records = [path for path in paths if path not in benchmarks or (path.is_dir() and holds_records(path))]
    loaded = load_records(records)
    for path in records:
        if not path.is_dir() and not load_records([path]).parts:
            raise NothingToReport(f"{path}: no line of it is a record; give a file or a folder that a run wrote")
    measured, losses = machines(benchmarks.values())
    return Sources(replace(loaded, losses=(*loaded.losses, *losses)), measured)
