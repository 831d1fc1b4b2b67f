"""A file of JSON lines: what can be read of it, and what is said of the rest."""

from pathlib import Path

from pydantic import TypeAdapter

from fa2verify.reports.lines import loss, parsed

NUMBER = TypeAdapter(int)


def test_blank_lines_count_and_are_nothing(tmp_path: Path) -> None:
    file = tmp_path / "numbers"
    file.write_bytes(b"1\n\n \r\nx\n5\n6 7")
    losses: list[str] = []
    assert list(parsed(file, NUMBER.validate_json, "no number, ", losses)) == [(1, 1), (5, 5)]
    unread, cut = losses
    assert unread.startswith("numbers, line 4: no number, Invalid JSON: ")
    assert unread.endswith(f" (in {tmp_path})")
    assert cut == loss(file, "cut off, its process ended while writing it", 6)
