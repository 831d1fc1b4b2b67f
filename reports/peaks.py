"""Peak memory of a call by sequence length, beside standard attention's, which keeps every score."""

from collections.abc import Sequence

from fa2verify.reports import chart
from fa2verify.reports.benchmark_record import Measurement, Memory
from fa2verify.reports.figures import Cell, Panel, Part, Row, Table, in_order
from fa2verify.reports.speeds import WORDS, failures, missing
from fa2verify.reports.summary import short

STANDARD = "standard"
_NOTE = (
    "The highest allocation during a call above what was there before it, in MB of 10⁶ bytes, by sequence length, on "
    "a logarithmic axis. In tables also how many times less than standard attention, plain PyTorch that keeps every "
    "score."
)


def peaks(measured: Sequence[Measurement], only: Sequence[str] = ()) -> tuple[Part, ...]:
    """One part, a panel for each direction; none without a record."""
    found = [line for line in measured if isinstance(line, Memory) and line.outcome != "unsupported"]
    if not found:
        return ()
    return (
        Part(
            title="Peak memory",
            note=_NOTE,
            panels=tuple(
                _panel([line for line in found if line.direction == direction], only)
                for direction in dict.fromkeys(line.direction for line in found)
            ),
            remarks=failures((line.kernel, f"length {line.seqlen}", line.outcome, line.message) for line in found),
        ),
    )


def _panel(found: Sequence[Memory], only: Sequence[str]) -> Panel:
    title = WORDS[found[0].direction]
    lengths = sorted({line.seqlen for line in found})
    columns = tuple(map(str, lengths))
    lines = {(line.kernel, line.seqlen): line for line in found}
    kernels = in_order([line.kernel for line in found], only)
    rows = (
        Row(
            kernel,
            tuple(_cell(lines.get((kernel, length)), lines.get((STANDARD, length))) for length in lengths),
        )
        for kernel in kernels
    )
    measured = {key: line.bytes / 1e6 for key, line in lines.items() if line.outcome == "measured"}
    series = {
        kernel: [measured.get((kernel, length)) for length in lengths]
        for kernel in kernels
        if any(name == kernel for name, _ in measured)
    }
    drawn = (chart.lines("MB", columns, series),) if series else ()
    return Panel(title, Table(("kernel", *columns), tuple(rows)), drawn)


def _cell(line: Memory | None, standard: Memory | None) -> Cell:
    if line is None or line.outcome != "measured":
        return missing(line)
    text = short(line.bytes / 1e6)
    if line is standard or standard is None or standard.outcome != "measured" or not line.bytes:
        return Cell(text)
    less = standard.bytes / line.bytes
    if f"{less:.1f}" == "1.0":
        return Cell(text, ("as much",))
    return Cell(text, (f"{short(less)}x less" if less > 1 else f"{short(1 / less)}x more",))
