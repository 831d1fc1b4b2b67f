"""Settles Triton's mode before any test module is imported: torch's own modules import triton too, and too early."""

import fa2verify.kernels.triton  # noqa: F401
