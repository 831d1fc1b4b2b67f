"""Makes the checkout's own suite, `pytest verify`, find its options; elsewhere fa2verify's entry point does."""

pytest_plugins = ("fa2verify.verify.plugin",)
