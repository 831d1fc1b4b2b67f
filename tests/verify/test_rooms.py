"""Rooms of `verify/` import only those before them, so that each can be read without those that use it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fa2verify.verify

ROOMS = ("judgement", "relations", "known_failures", "trial", "run", "suite")
VERIFY = Path(fa2verify.verify.__file__).parent


def imported(file: Path) -> Iterator[str]:
    """What of `fa2verify.verify` the file imports, at the top or in a function: "run.plan", "run", "plugin"."""
    for node in ast.walk(ast.parse(file.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file.name} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            if name.startswith("fa2verify.verify."):
                yield name.removeprefix("fa2verify.verify.")


def test_every_room_is_listed() -> None:
    assert {file.parent.name for file in VERIFY.glob("*/__init__.py")} == set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_those_before_it(room: str) -> None:
    files = list((VERIFY / room).glob("*.py"))
    arrows = {(file.name, name) for file in files for name in imported(file)}
    allowed = ROOMS[: ROOMS.index(room) + 1]
    assert [arrow for arrow in sorted(arrows) if arrow[1].partition(".")[0] not in allowed] == []
    assert any(name.startswith(f"{room}.") for _, name in arrows), "imports are not seen"
