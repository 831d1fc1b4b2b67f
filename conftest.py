"""Makes the checkout's own suites, `pytest verify` and `pytest benchmarks`, find their options.

Elsewhere fa2verify's entry point does.
"""

pytest_plugins = ("fa2verify.verify.plugin", "fa2verify.benchmarks.plugin")
