"""Failures that some worker of the run has shrunk, so that no other spends its time on the same one.

A file in the report folder each: workers are processes. Two failures are the same if kernel, direction, packing,
verdict and rule are.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from fa2verify.reports.record import Record, from_json, to_json


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings kept in `directory`."""

    directory: Path

    def add(self, shrunk: Record) -> None:
        """Keep the smallest problem of a failure."""
        file = self._file(shrunk)
        unfinished = file.with_suffix(f".{os.getpid()}")
        unfinished.write_text(to_json(shrunk))
        unfinished.rename(file)

    def of(self, record: Record) -> Record | None:
        """The smallest problem that fails as `record` does, if one is known."""
        file = self._file(record)
        if not file.exists():
            return None
        known = from_json(file.read_text())
        assert isinstance(known, Record)
        return known

    def clear(self) -> None:
        """Forget all findings."""
        for file in self.directory.glob(".finding-*"):
            file.unlink()

    def _file(self, record: Record) -> Path:
        varlen, backward = "varlen" in record.features, "backward" in record.features
        same = f"{record.kernel} {varlen} {backward} {record.verdict} {record.rule}"
        return self.directory / f".finding-{hashlib.sha256(same.encode()).hexdigest()[:16]}"
