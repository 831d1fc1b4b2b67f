"""Settles Triton's mode before any test module is imported: torch's own modules import triton too, and too early."""

from importlib.util import find_spec

import fa2verify.kernels.triton  # noqa: F401

# The report's tests in a browser have an environment of their own, `tox run -e browser`, with what they import.
collect_ignore = [] if find_spec("playwright") else ["browser"]
