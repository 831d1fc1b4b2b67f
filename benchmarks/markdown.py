"""Benchmark records as Markdown: the tables of the report, for `docs/results`. Needs no torch."""

from collections.abc import Sequence

from fa2verify.reports.figures import Cell, Part, Row, Table


def markdown(parts: Sequence[Part]) -> str:
    """A heading for each part and for each of its tables, and what else is to be said, as one text."""
    blocks = []
    for part in parts:
        blocks.append(f"## {part.title}")
        blocks += [part.note] if part.note else []
        for panel in part.panels:
            if panel.measured:
                blocks += [f"### {panel.title}", _table(panel.table)]
        if part.remarks:
            blocks.append("\n".join(f"- {_text(remark)}" for remark in part.remarks))
    return "\n\n".join(blocks) + "\n"


def _table(table: Table) -> str:
    lines = [table.head, ["---"] * len(table.head), *([_name(row), *map(_cell, row.cells)] for row in table.rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _name(row: Row) -> str:
    return _text(f"{row.name} ({row.note})" if row.note else row.name)


def _cell(cell: Cell) -> str:
    return _text(f"{cell.text} ({'; '.join(cell.notes)})" if cell.notes else cell.text)


def _text(said: str) -> str:
    """On one line, and without what would end a cell or begin a tag: names and messages are strangers'."""
    return " ".join(said.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
