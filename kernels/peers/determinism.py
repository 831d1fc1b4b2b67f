"""Torch's deterministic mode, for the length of one call.

The peers inside torch have no parameter of their own for it: their backward kernels read torch's global switch. It must
be on during backward too, so it is wrapped around the whole call and put back afterwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def deterministic_algorithms(wanted: bool) -> Iterator[None]:
    """Switch torch.use_deterministic_algorithms on if `wanted`; afterwards it is as it was."""
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warn_only)
