"""Kernels that have cost a worker its life, known to every worker of the run.

A file in the report folder a kernel: workers are processes, and the one that learns it last is not yet started.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fa2verify.reports.record import Record
from fa2verify.reports.store import load


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The quarantine kept in `directory`."""

    directory: Path

    def add(self, kernel: str) -> None:
        """From now on `kernel` is tried in processes of its own."""
        self._file(kernel).touch()

    def __contains__(self, kernel: str) -> bool:
        return self._file(kernel).exists()

    def clear(self) -> None:
        """Forget every kernel."""
        for file in self.directory.glob(".quarantined-*"):
            file.unlink()

    def already_recorded(self, kernel: str, test: str) -> list[Record]:
        """The verdicts on `kernel` that earlier workers reached in `test`: it is about to be drawn again."""
        records = load([self.directory]).records
        return [record for record in records if record.kernel == kernel and record.test == test]

    def _file(self, kernel: str) -> Path:
        return self.directory / f".quarantined-{hashlib.sha256(kernel.encode()).hexdigest()[:16]}"


def record_key(record: Record) -> str:
    """What makes two verdicts of one run the same verdict."""
    return f"{record.test} {record.problem}"
