"""GPT-2's training throughput by attention, beside the published figures, and whether loss curves agree."""

import math
from collections.abc import Sequence

from fa2verify.reports import chart
from fa2verify.reports.benchmark_record import LossAgreement, Measurement, Mode, Optimizer, Training
from fa2verify.reports.figures import EMPTY, Cell, Panel, Part, Row, Table, in_order
from fa2verify.reports.published import CONTEXTS, FLASH, SOURCE, Published, published
from fa2verify.reports.speeds import OUTCOMES, failures, missing, together
from fa2verify.reports.summary import plural

_NOTE = (
    "Tokens a second by context, mean of the last steps. In tables also the speed where that of {against} is 1, the "
    "batch, the graphs that a compiled model came to, and whether the losses of the first steps agree with those of "
    "standard attention."
)
_BESIDE = (
    " Published figures are of another machine and another torch: what compares is the order, and the ratios, theirs "
    "being over scaled_dot_product_attention with FlashAttention."
)
_LOSSES = (
    "Root mean square, over the first steps, of the difference from the losses of standard attention; and that of the "
    "farthest twin, standard attention from weights that one rounding has changed. An attention farther than every "
    "twin does not agree."
)
_MODELS = ("small", "medium", "large")
_Setting = tuple[str, int, Mode, str, Optimizer]


def trainings(measured: Sequence[Measurement], against: str, only: Sequence[str] = ()) -> tuple[Part, ...]:
    """One part, a panel for each model, memory, mode, dtype and optimizer; none without a record."""
    lines = [line for line in measured if isinstance(line, Training)]
    if not lines:
        return ()
    losses = [line for line in measured if isinstance(line, LossAgreement)]
    settings = sorted(dict.fromkeys(_setting(line) for line in lines), key=_place)
    breaks = (
        (f"{line.attention} breaks the graph", f"{line.cell}, {times} times", reason)
        for line in lines
        for reason, times in line.graph_breaks.items()
    )
    panels = tuple(_panel(setting, lines, losses, against, only) for setting in settings)
    beside = any(row.aside for panel in panels for row in panel.table.rows)
    return (
        Part(
            title="GPT-2 training, tokens/s",
            note=_NOTE.format(against=against) + (_BESIDE if beside else ""),
            panels=panels,
            remarks=(
                *failures((line.attention, f"{line.cell}, {line.mode}", line.outcome, line.message) for line in lines),
                *together(breaks),
            ),
            tabled=True,
        ),
    )


def loss_curves(measured: Sequence[Measurement], only: Sequence[str] = ()) -> tuple[Part, ...]:
    """One part, a panel for each model; none without a record."""
    lines = [line for line in measured if isinstance(line, LossAgreement) and (not only or line.attention in only)]
    if not lines:
        return ()
    panels = []
    for cell in dict.fromkeys(line.cell for line in lines):
        rows = (
            Row(
                line.attention,
                (
                    Cell(f"{line.distance:.2e}", bad=not line.within_noise),
                    Cell(f"{max(line.noise):.2e}"),
                    Cell("yes" if line.within_noise else "no", bad=not line.within_noise),
                ),
            )
            for line in lines
            if line.cell == cell
        )
        panels.append(Panel(cell, Table(("attention", "distance", "farthest twin", "agrees"), tuple(rows))))
    return (Part("Loss curves", _LOSSES, tuple(panels)),)


def _setting(line: Training) -> _Setting:
    return line.model, line.memory, line.mode, line.dtype, line.optimizer


def _place(setting: _Setting) -> tuple[int, float]:
    """Where it stands: small models first, all memory last; those alike as they were trained."""
    model, memory, *_ = setting
    return _MODELS.index(model) if model in _MODELS else len(_MODELS), memory or math.inf


def _panel(
    setting: _Setting, lines: Sequence[Training], losses: Sequence[LossAgreement], against: str, only: Sequence[str]
) -> Panel:
    model, memory, mode, dtype, optimizer = setting
    of_setting = [line for line in lines if _setting(line) == setting]
    contexts = sorted({line.context for line in of_setting})
    found = {(line.attention, line.context): line for line in of_setting}
    attentions = in_order([line.attention for line in of_setting], only)
    agree = {line.attention: line.within_noise for line in losses if _model(line.cell) == model}
    rows = [
        Row(
            attention,
            (
                *(_cell(found.get((attention, context)), found.get((against, context))) for context in contexts),
                _agreement(agree.get(attention)),
            ),
        )
        for attention in attentions
    ]
    rows += _published(model, mode, contexts)
    rates = {key: line.tokens_per_second for key, line in found.items() if line.outcome == "measured"}
    series = {
        attention: [rates.get((attention, context)) for context in contexts]
        for attention in attentions
        if any(name == attention for name, _ in rates)
    }
    limit = f"{memory / 1e9:.3g} GB" if memory else "all memory"
    title = ", ".join((f"GPT-2 {model}", limit, mode, dtype, *([optimizer] if optimizer != "AdamW" else [])))
    columns = tuple(map(str, contexts))
    drawn = (chart.bars("tokens/s", columns, series),) if series else ()
    return Panel(title, Table(("attention", *columns, "losses"), tuple(rows)), drawn)


def _cell(line: Training | None, base: Training | None) -> Cell:
    if line is None or line.outcome != "measured":
        return missing(line)
    words = [f"batch {line.batch}"]
    if base is not None and base.outcome == "measured":
        words.insert(0, f"{line.tokens_per_second / base.tokens_per_second:.2f}x")
    notes = [", ".join(words)]
    if line.mode == "compiled":
        breaks = sum(line.graph_breaks.values())
        notes.append(plural(line.graphs, "graph") + (f", {plural(breaks, 'break')}" if breaks else ""))
    return Cell(f"{line.tokens_per_second:,.0f}", tuple(notes))


def _agreement(agrees: bool | None) -> Cell:
    return EMPTY if agrees is None else Cell("agree" if agrees else "differ", bad=not agrees)


def _model(cell: str) -> str:
    """The model of a cell that is called as trainings call theirs, gpt2-MODEL-cCONTEXT-MEMORY."""
    return cell.removeprefix("gpt2-").partition("-c")[0]


def _published(model: str, mode: Mode, contexts: Sequence[int]) -> list[Row]:
    rows = published(model, mode)
    made = []
    for row in rows:
        at = [CONTEXTS.index(context) if context in CONTEXTS else None for context in contexts]
        cells = [EMPTY if place is None else _published_cell(row, rows, place) for place in at]
        if any(place is not None and row.tokens[place] for place in at):
            made.append(Row(row.attention, (*cells, EMPTY), SOURCE, aside=True))
    return made


def _published_cell(row: Published, rows: Sequence[Published], at: int) -> Cell:
    tokens, batch = row.tokens[at], row.batches[at]
    if tokens is None:
        # Where others have a figure, this one had no memory; where none has, nothing is published.
        return OUTCOMES["out_of_memory"] if any(other.tokens[at] for other in rows) else EMPTY
    base = next((other.tokens[at] for other in rows if other.attention == FLASH), None)
    words = [f"{tokens / base:.2f}x"] if base else []
    words += [f"batch {batch}"] if batch else []
    return Cell(f"{tokens:,.0f}", (", ".join(words),) if words else ())
