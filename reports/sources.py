"""What a report is made of: the records of runs, benchmarks, or both, from folders and files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fa2verify.reports.benchmark_record import FILE
from fa2verify.reports.benchmark_store import Machine, file_in, machines
from fa2verify.reports.store import MERGED, PARTS, Loaded, has_a_record, holds_records
from fa2verify.reports.store import load as load_records


class NothingToReport(ValueError):
    """A folder or a file without a single line that a report could show; the message names it."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Verdicts with everything that could not be read, benchmarks included; and benchmarks."""

    loaded: Loaded
    machines: tuple[Machine, ...]


def load(paths: Sequence[Path]) -> Sources:
    """Read files of records and of benchmarks, and folders that hold either or both.

    Raises FileNotFoundError naming a path that does not exist, NothingToReport, and OSError.
    """
    benchmarks = {path: file for path in paths if (file := file_in(path)) is not None}
    records = [path for path in paths if path not in benchmarks or (path.is_dir() and holds_records(path))]
    for path in records:
        if path.is_dir() and not holds_records(path):
            raise NothingToReport(
                f"{path}: holds neither {MERGED} nor {PARTS} nor {FILE}; give a folder that a run wrote to"
            )
        if path.is_file() and not has_a_record(path):
            raise NothingToReport(f"{path}: no line of it is a record; give a file or a folder that a run wrote")
    loaded = load_records(records)
    measured, losses = machines(benchmarks.values())
    return Sources(replace(loaded, losses=(*loaded.losses, *losses)), measured)
