"""One thread a test; and Triton's mode is settled before any test module is imported.

torch's own modules import triton too, and too early.
"""

from importlib.util import find_spec

import pytest
import torch

import fa2verify.kernels.triton  # noqa: F401

# The report's tests in a browser have an environment of their own, `tox run -e browser`, with what they import.
collect_ignore = [] if find_spec("playwright") else ["browser"]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Small tensors: a second thread costs more than it gives, and tests may run beside each other."""
    torch.set_num_threads(1)
