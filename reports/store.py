"""Records on disk: JSON lines, only ever appended to, and read again whatever happened to the process that wrote them.

A kernel under verification may take its process down at any moment, so every line is flushed as it is written, every
worker has a file of its own, and reading skips what cannot be read and says so, line by line.

Every file begins with the line of its `Run`, and a line belongs to the last `Run` before it. So a file needs no header,
files can be joined end to end, and a report over several machines knows where each verdict came from.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from fa2verify.reports.lines import loss, parsed
from fa2verify.reports.record import KernelEntry, Record, Run, from_json, to_json

MERGED = "records.jsonl"
PARTS = "records-*.jsonl"


class Writer:
    """Appends to one file, a line a record; a context manager.

    The first line written to a new file must be its `Run`. One writer a file: workers get files of their own, named
    as `PARTS` says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab+")
        if self._file.tell() and not _ends_a_line(self.path):
            self._file.write(b"\n")  # what a killed process left unfinished must not swallow the next line
        return self

    def write(self, line: Run | KernelEntry | Record) -> None:
        """Append `line`. It is with the operating system on return: SIGKILL cannot take it back, a power cut can."""
        if isinstance(line, Record):
            line = replace(line, message=_encodable(line.message), reasons=tuple(map(_encodable, line.reasons)))
        self._file.write(to_json(line).encode() + b"\n")
        self._file.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class RunRecords:
    """What one run left behind.

    run      None if its line could not be read, or was never written
    kernels  every distinct entry once, in the order of appearance
    records  in the order of the files and of their lines
    """

    run: Run | None
    kernels: tuple[KernelEntry, ...]
    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """Runs with what each left behind, and `losses`: a sentence for everything that could not be read."""

    parts: tuple[RunRecords, ...]
    losses: tuple[str, ...] = ()

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every run whose line could be read."""
        return tuple(part.run for part in self.parts if part.run is not None)

    @property
    def kernels(self) -> tuple[KernelEntry, ...]:
        """Every distinct kernel entry of any run, once."""
        return _distinct([entry for part in self.parts for entry in part.kernels])

    @property
    def records(self) -> tuple[Record, ...]:
        """Every record of every run."""
        return tuple(record for part in self.parts for record in part.records)


def load(paths: Sequence[Path]) -> Loaded:
    """Read files of records, and folders that hold `records.jsonl` or parts of it; a file named twice is read once.

    Lines that cannot be read become `losses`. Raises FileNotFoundError naming a path that does not exist, or a folder
    without records.
    """
    gathered: dict[str, _Gathered] = {}
    losses: list[str] = []
    for path in dict.fromkeys(file.resolve() for given in paths for file in _files(given)):
        _read(path, gathered, losses)
    parts = (RunRecords(part.run, _distinct(part.kernels), tuple(part.records)) for part in gathered.values())
    return Loaded(tuple(parts), tuple(losses))


def holds_records(directory: Path) -> bool:
    """Whether `directory` has a file that `load` would read."""
    return (directory / MERGED).exists() or any(directory.glob(PARTS))


def has_a_record(path: Path) -> bool:
    """Whether a line of the file is one that `load` would keep. Raises OSError."""
    return next(parsed(path, from_json, "not a record, ", []), None) is not None


def merge(directory: Path) -> Path:
    """Append the parts in `directory` to its `records.jsonl`, remove them, and return its path.

    Call it once every worker has left. The new file takes its place in one step, so a merge that is killed can be
    repeated: parts that are already in are not added twice. Bytes are copied as they are: a line that cannot be read
    stays, and `load` goes on reporting it.
    """
    merged = directory / MERGED
    parts = sorted(directory.glob(PARTS))
    if not parts:
        return merged
    pending = directory / f".{MERGED}.{os.getpid()}"
    try:
        with pending.open("wb") as file:
            file.write(_whole_lines(merged) if merged.exists() else b"")
            for part in _unmerged(merged, parts):
                file.write(_whole_lines(part))
            file.flush()
            os.fsync(file.fileno())
        pending.replace(merged)
    finally:
        pending.unlink(missing_ok=True)
    for part in parts:
        part.unlink()
    return merged


def clear(directory: Path) -> None:
    """Remove `records.jsonl` and all parts of it, so that the next run does not add to the last one's records."""
    for path in [directory / MERGED, *directory.glob(PARTS)]:
        path.unlink(missing_ok=True)


@dataclass(slots=True)
class _Gathered:
    run: Run | None = None
    kernels: list[KernelEntry] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)


def _read(path: Path, gathered: dict[str, _Gathered], losses: list[str]) -> None:
    orphans = _Gathered()
    current = orphans
    for number, line in parsed(path, from_json, "not a record, ", losses):
        match line:
            case Run():
                current = gathered.setdefault(line.id, _Gathered(line))
                if current.run != line:
                    reason = f"describes run {line.id!r} differently than an earlier line; the earlier one is shown"
                    losses.append(loss(path, reason, number))
            case KernelEntry():
                current.kernels.append(line)
            case Record():
                current.records.append(line)
    if orphans.kernels or orphans.records:
        losses.append(loss(path, "does not begin with a run, so its lines belong to none"))
        gathered[f"without a run: {path}"] = orphans


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"{path}: does not exist; give a folder that a run wrote its report to, or a file")
        return [path]
    merged, parts = path / MERGED, sorted(path.glob(PARTS))
    files = ([merged] if merged.exists() else []) + _unmerged(merged, parts)
    if not files:
        raise FileNotFoundError(f"{path}: holds neither {MERGED} nor {PARTS}; give a folder that a run wrote to")
    return files


def _unmerged(merged: Path, parts: Sequence[Path]) -> list[Path]:
    """Parts that a merge which was killed has not taken in: one it has lies in `merged` byte for byte."""
    if not parts or not merged.exists():
        return list(parts)
    inside = b"\n" + merged.read_bytes()
    return [part for part in parts if b"\n" + _whole_lines(part) not in inside]


def _whole_lines(path: Path) -> bytes:
    content = path.read_bytes()
    return content + b"\n" if content and not content.endswith(b"\n") else content


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read() == b"\n"


def _encodable(text: str) -> str:
    """`text` with lone surrogates escaped: an exception's message may hold a file name that is no UTF-8."""
    return text.encode(errors="backslashreplace").decode()


def _distinct(entries: Sequence[KernelEntry]) -> tuple[KernelEntry, ...]:
    # Entries hold a dict and so have no hash; their text stands for them.
    return tuple({to_json(entry): entry for entry in entries}.values())
