"""The pytest plugin behind `pytest benchmarks`: options, and whether this run is one of benchmarks.

The modules that pytest collects are called `bench_*.py`, so that no run of tests takes them for its own.
"""

import pytest

from fa2verify.benchmarks import options
from fa2verify.verify.entry import asked

# `--kernel` and `--device` are its.
pytest_plugins = ("fa2verify.verify.plugin",)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the benchmarks' options."""
    options.add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Conduct the run, if benchmarks are what runs."""
    if asked(config) != "benchmarks":
        return
    config.addinivalue_line("markers", "cell(key): the cell of a benchmark that a test belongs to")
    config.addinivalue_line("python_files", "bench_*.py")

    # Imported here: it brings torch and the kernels.
    from fa2verify.benchmarks.conductor import Conductor

    config.pluginmanager.register(Conductor(config), "fa2verify-conductor")
