"""What one call promises about another: see `fa2verify.verify.relations.catalogue`."""

from collections.abc import Callable

from fa2verify.verify.run.plan import Part


def test_relations(part: Part, verify_part: Callable[[Part], None]) -> None:
    """Problems of either direction and packing, each called several times."""
    verify_part(part)
