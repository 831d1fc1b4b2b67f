"""Importing the registry must not settle Triton's mode before our Triton package has."""

import subprocess
import sys

SCRIPT = """
import sys
import fa2verify.kernels.registry
assert "triton" not in sys.modules or "fa2verify.kernels.triton" in sys.modules
order = list(sys.modules)
if "triton" in order:
    assert order.index("fa2verify.kernels.triton") < order.index("triton")
print("in order")
"""


def test_triton_is_not_imported_first() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.stdout == "in order\n", done.stderr
