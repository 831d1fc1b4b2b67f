"""What a process was doing when it died.

A kernel can take its process with it: a segmentation fault, an abort, a hang. So each worker notes the call that it is
about to make, and takes the note back after it. A note that outlives its worker is the verdict that the worker could
not write; the controlling process reads it.

A hang is ended from a thread that needs no interpreter lock (faulthandler's), because a kernel that never returns may
hold it.
"""

import faulthandler
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from fa2verify.reports.record import Record, from_json, to_json


class Journal:
    """One worker's note and the trace that a time-out leaves, two files in `directory`."""

    def __init__(self, directory: Path, worker: str) -> None:
        self._note = directory / f".running-{worker}.json"
        self._unfinished = directory / f".running-{worker}.new"
        self._trace = directory / f".running-{worker}.trace"

    @contextmanager
    def call(self, record: Record, timeout: float) -> Iterator[None]:
        """Run the body; if it takes longer than `timeout` seconds the process ends, with the note left behind.

        record  the verdict that holds if the process does not survive
        """
        self._write(record)
        with self._trace.open("w") as trace:
            faulthandler.dump_traceback_later(timeout, exit=True, file=trace)
            try:
                yield
            finally:
                faulthandler.cancel_dump_traceback_later()
        self._note.unlink()
        self._trace.unlink()

    def amend(self, message: str) -> None:
        """Say more about the call under way, for a process that must leave because of it."""
        record = from_json(self._note.read_text())
        assert isinstance(record, Record)
        self._write(replace(record, message=message))

    def last_words(self, timeout: float) -> Record | None:
        """The verdict on the call that the worker died in, and forget it; None if it died outside a call."""
        if not self._note.exists():
            self.forget()
            return None
        record = from_json(self._note.read_text())
        assert isinstance(record, Record)
        trace = self._trace.read_text() if self._trace.exists() else ""
        self.forget()
        if trace.startswith("Timeout"):
            message = f"no answer after {timeout:g} s; the process was ended"
            return replace(record, verdict="timed_out", rule="timeout", message=message)
        return record

    def forget(self) -> None:
        """Remove what is left of the note."""
        for file in (self._note, self._unfinished, self._trace):
            file.unlink(missing_ok=True)

    def _write(self, record: Record) -> None:
        # In one step: half a note, of a process killed meanwhile, could not be read.
        self._unfinished.write_text(to_json(record))
        self._unfinished.replace(self._note)
