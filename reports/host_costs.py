"""What a call costs the host, and what a kernel's first call costs: a table each."""

from collections.abc import Sequence

from fa2verify.reports.benchmark_record import Cache, Called, Direction, FirstCall, HostCost, Measurement, Mode
from fa2verify.reports.figures import Cell, Panel, Part, Row, Table, in_order
from fa2verify.reports.speeds import failures, missing
from fa2verify.reports.summary import short

_HOST = (
    "Microseconds in which the host queues a call on a small problem and does not wait for the device: medians over "
    "batches, from the fastest to the slowest batch below. Kernels, and parts that a call is made of."
)
_FIRST = (
    "Milliseconds from the first call in a fresh process until the device has finished, once with every compiler cache "
    "empty and once with what that call left on disk; below them the same call again, and other variants' first calls "
    "in that process, from the fastest to the slowest: what a variant takes once the libraries are loaded."
)
_COLUMNS: dict[tuple[Mode, Direction], str] = {
    ("eager", "forward"): "forward",
    ("compiled", "forward"): "forward, compiled",
    ("eager", "both"): "forward and backward",
}
_FIRST_COLUMNS: dict[tuple[Called, Cache], str] = {
    ("forward", "cold"): "forward, caches empty",
    ("forward", "disk"): "forward, from disk",
    ("both", "cold"): "forward and backward, caches empty",
    ("both", "disk"): "forward and backward, from disk",
}


def host_costs(measured: Sequence[Measurement], only: Sequence[str] = ()) -> tuple[Part, ...]:
    """One part, or none without a record."""
    lines = [line for line in measured if isinstance(line, HostCost)]
    if not lines:
        return ()
    found = {(line.subject, line.mode, line.direction): line for line in lines}

    def cell(line: HostCost | None) -> Cell:
        if line is None or line.outcome != "measured":
            return missing(line)
        return Cell(short(line.median_us), (f"{short(min(line.us))} to {short(max(line.us))}",))

    rows = (
        Row(name, tuple(cell(found.get((name, *column))) for column in _COLUMNS))
        for name in in_order([line.subject for line in lines], only)
    )
    table = Table(("subject", *_COLUMNS.values()), tuple(rows))
    said = failures((line.subject, f"{line.direction}, {line.mode}", line.outcome, line.message) for line in lines)
    return (Part("Host cost, µs a call", _HOST, (Panel("host cost", table),), said),)


def first_calls(measured: Sequence[Measurement], only: Sequence[str] = ()) -> tuple[Part, ...]:
    """One part, or none without a record."""
    lines = [line for line in measured if isinstance(line, FirstCall)]
    if not lines:
        return ()
    found = {(line.kernel, line.direction, line.cache): line for line in lines}

    def cell(line: FirstCall | None) -> Cell:
        if line is None or line.outcome != "measured":
            return missing(line)
        others = f"others {short(min(line.others_ms))} to {short(max(line.others_ms))}" if line.others_ms else ""
        return Cell(short(line.first_ms), tuple(filter(None, (f"then {short(line.second_ms)}", others))))

    columns = [column for column in _FIRST_COLUMNS if any(key[1:] == column for key in found)]
    rows = (
        Row(name, tuple(cell(found.get((name, *column))) for column in columns))
        for name in in_order([line.kernel for line in lines], only)
    )
    table = Table(("kernel", *(_FIRST_COLUMNS[column] for column in columns)), tuple(rows))
    said = failures((line.kernel, f"{line.direction}, {line.cache}", line.outcome, line.message) for line in lines)
    return (Part("First call, ms", _FIRST, (Panel("first call", table),), said),)
