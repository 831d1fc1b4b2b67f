"""`verify/` is in layers: each imports only those before it, and so can be read without what uses it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import fa2verify.verify

LAYERS = ("judgement", "relations", "known_failures", "trial", "run", "suite")
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


def test_every_layer_is_listed() -> None:
    assert {file.parent.name for file in VERIFY.glob("*/__init__.py")} == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_those_before_it(layer: str) -> None:
    files = list((VERIFY / layer).glob("*.py"))
    arrows = {(file.name, name) for file in files for name in imported(file)}
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    assert [arrow for arrow in sorted(arrows) if arrow[1].partition(".")[0] not in allowed] == []
    assert any(name.startswith(f"{layer}.") for _, name in arrows), "imports are not seen"
