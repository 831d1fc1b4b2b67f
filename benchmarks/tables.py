"""Benchmark records as Markdown tables: what `docs/results` shows. Needs no torch.

Medians throughout; a dash where nothing was measured, and the outcome where there is one.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from fa2verify.reports.benchmark_record import (
    BenchmarkRun,
    Ceiling,
    Direction,
    FirstCall,
    HostCost,
    LossAgreement,
    Measurement,
    Memory,
    Mode,
    Outcome,
    Timing,
    Training,
)

Line = BenchmarkRun | Measurement
Found = TypeVar("Found", bound=Line)
_OUTCOMES: dict[Outcome, str] = {"out_of_memory": "OOM", "failed": "failed", "unsupported": "-", "measured": ""}


def tables(lines: Sequence[Line], against: str, only: Sequence[str] = ()) -> str:
    """Every table that `lines` have something for, as one Markdown text.

    against  the kernel that speeds are ratios to
    only     kernels to show, in this order; all without any
    """
    sections = [
        ("Speed, TFLOP/s", speed(lines, against, only)),
        ("Peak memory, MB", memory(lines, only)),
        ("Host cost, us a call", host(lines, only)),
        ("First call, ms", first_calls(lines, only)),
        ("GPT-2 training, tokens/s", training(lines, only)),
        ("Loss curves", agreement(lines, only)),
    ]
    return "\n\n".join(f"## {title}\n\n{table}" for title, table in sections if table) + "\n"


def speed(lines: Sequence[Line], against: str, only: Sequence[str] = ()) -> str:
    """TFLOP/s by cell, direction and kernel, in brackets the ratio to `against`; beside them the matrix product's."""
    timings = of_kind(lines, Timing)
    cells = {(line.cell, line.direction, line.kernel): line for line in timings}
    matmuls = {line.cell: line.rate for line in of_kind(lines, Ceiling) if line.name == "matmul"}
    kernels = _names((line.kernel for line in timings if line.outcome != "unsupported"), only)
    rows = []
    for cell, direction in dict.fromkeys((line.cell, line.direction) for line in timings):
        base = cells.get((cell, direction, against))
        shown = [_speed(cells.get((cell, direction, kernel)), base) for kernel in kernels]
        matmul = matmuls.get(cell)
        rows.append([cell, direction, "-" if matmul is None else f"{matmul:.0f}", *shown])
    return _table(["cell", "direction", "matmul", *kernels], rows)


def _speed(line: Timing | None, base: Timing | None) -> str:
    if line is None or line.outcome != "measured":
        return _missing(line)
    if base is None or base.outcome != "measured":
        return f"{line.tflops:.0f}"
    return f"{line.tflops:.0f} ({base.median_ms / line.median_ms:.2f})"


def memory(lines: Sequence[Line], only: Sequence[str] = ()) -> str:
    """Megabytes (10^6 bytes) by length, direction and kernel; in brackets how many times less than standard."""
    found: dict[tuple[int, str, str], Memory] = {
        (line.seqlen, line.direction, line.kernel): line for line in of_kind(lines, Memory)
    }
    kernels = _names((key[2] for key in found), only)
    rows = []
    for seqlen, direction in sorted({key[:2] for key in found}, key=lambda key: (key[1], key[0])):
        standard = found.get((seqlen, direction, "standard"))
        shown = [_memory(found.get((seqlen, direction, kernel)), standard) for kernel in kernels]
        rows.append([str(seqlen), direction, *shown])
    return _table(["seqlen", "direction", *kernels], rows)


def _memory(line: Memory | None, standard: Memory | None) -> str:
    if line is None or line.outcome != "measured":
        return _missing(line)
    if standard is None or standard.outcome != "measured" or line is standard:
        return f"{line.bytes / 1e6:.1f}"
    return f"{line.bytes / 1e6:.1f} ({standard.bytes / line.bytes:.1f}x less)"


def host(lines: Sequence[Line], only: Sequence[str] = ()) -> str:
    """Microseconds of a forward, eager and compiled, and of forward and backward."""
    found = {(line.subject, line.mode, line.direction): line for line in of_kind(lines, HostCost)}
    columns: tuple[tuple[Mode, Direction], ...] = (("eager", "forward"), ("compiled", "forward"), ("eager", "both"))

    def cell(line: HostCost | None) -> str:
        return f"{line.median_us:.1f}" if line is not None and line.outcome == "measured" else _missing(line)

    subjects = _names((key[0] for key in found), only)
    rows = [[name, *(cell(found.get((name, mode, direction))) for mode, direction in columns)] for name in subjects]
    return _table(["subject", "forward", "forward compiled", "forward and backward"], rows)


def first_calls(lines: Sequence[Line], only: Sequence[str] = ()) -> str:
    """Milliseconds of the first call in a fresh process."""
    found = {(line.kernel, line.cache): line for line in of_kind(lines, FirstCall)}

    def cell(line: FirstCall | None) -> str:
        return f"{line.first_ms:.0f}" if line is not None and line.outcome == "measured" else _missing(line)

    kernels = _names((key[0] for key in found), only)
    rows = [[name, cell(found.get((name, "cold"))), cell(found.get((name, "disk")))] for name in kernels]
    return _table(["kernel", "cold", "from disk"], rows)


def training(lines: Sequence[Line], only: Sequence[str] = ()) -> str:
    """Tokens a second by cell, mode and attention; in brackets the batch and, if it broke, into how many graphs."""
    found = {(line.cell, line.mode, line.attention): line for line in of_kind(lines, Training)}
    attentions = _names((key[2] for key in found), only)

    def cell(line: Training | None) -> str:
        if line is None or line.outcome != "measured":
            return _missing(line)
        graphs = f", {line.graphs} graphs" if line.graph_breaks else ""
        return f"{line.tokens_per_second:,.0f} ({line.batch}{graphs})"

    rows = [
        [name, mode, *(cell(found.get((name, mode, attention))) for attention in attentions)]
        for name, mode in dict.fromkeys(key[:2] for key in found)
    ]
    return _table(["cell", "mode", *attentions], rows)


def agreement(lines: Sequence[Line], only: Sequence[str] = ()) -> str:
    """How far each loss curve lies from standard attention's, and how far the farthest twin does."""
    found = [line for line in of_kind(lines, LossAgreement) if not only or line.attention in only]
    rows = [
        [
            line.cell,
            line.attention,
            f"{line.distance:.2e}",
            f"{max(line.noise):.2e}",
            "yes" if line.within_noise else "no",
        ]
        for line in found
    ]
    return _table(["cell", "attention", "distance", "farthest twin", "within noise"], rows)


def of_kind(lines: Iterable[Line], kind: type[Found]) -> list[Found]:
    """The lines of one kind."""
    return [line for line in lines if isinstance(line, kind)]


def _names(found: Iterable[str], only: Sequence[str]) -> list[str]:
    present = dict.fromkeys(found)
    return [name for name in only if name in present] if only else list(present)


def _missing(line: object) -> str:
    outcome: Outcome = getattr(line, "outcome", "unsupported")
    return _OUTCOMES[outcome]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return ""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))
