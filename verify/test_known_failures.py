"""The smallest problem of each known failure: it must still fail, and as the ledger says.

Those that are large problems are tried by test_sizes.py.
"""

from collections.abc import Callable

from fa2verify.verify.run.plan import KnownCase


def test_known_failure(known: KnownCase, verify_known: Callable[[KnownCase], None]) -> None:
    """When it passes, the fault is mended and the ledger's entry must go."""
    verify_known(known)
