"""Past the limits of an index: see `fa2verify.verify.run.large_problems`."""

from collections.abc import Callable

from fa2verify.verify.run.plan import LargeCase


def test_sizes(large: LargeCase, verify_large: Callable[[LargeCase], None]) -> None:
    """Tensors of more than 2^31 elements, sequences of more than 65,536 tokens, a batch * heads of more than 65,535."""
    verify_large(large)
