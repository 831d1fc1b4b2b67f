"""The pytest plugin behind `pytest verify/bench_*.py`, loaded by `fa2verify.verify.plugin` where benchmarks run.

Verification and benchmarks share `--kernel` and `--device`, and nothing of what the run does.
"""

from typing import Any

import pytest

from fa2verify.verify.benchmark_session import SESSION, BenchmarkSession, session_of

_JSON = "pytest-benchmark.json"


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Make the session, and have pytest-benchmark write its JSON beside our records."""
    if config.getoption("numprocesses", None):
        raise pytest.UsageError("-n: benchmarks run one after the other, in one process; leave it out")
    if not config.pluginmanager.has_plugin("benchmark"):
        raise pytest.UsageError("benchmarks need pytest-benchmark; install fa2verify[bench]")
    session = config.stash[SESSION] = BenchmarkSession(config)
    if config.option.benchmark_json is None:
        session.directory.mkdir(parents=True, exist_ok=True)
        config.option.benchmark_json = session.directory / _JSON


def pytest_collection_finish(session: pytest.Session) -> None:
    """Count the cells that the selected tests will ask for."""
    session_of(session.config).left = {mark.args[0] for item in session.items for mark in item.iter_markers("cell")}


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Tell progress through the terminal."""
    terminal = session.config.pluginmanager.get_plugin("terminalreporter")
    if terminal is not None:
        session_of(session.config).report_to(lambda line: terminal.write_line(f"\n{line}", flush=True))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the records."""
    if SESSION in config.stash:
        session_of(config).close()


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """What the run knows of the machine instead of the machine's name."""
    del machine_info["node"]
    machine_info["fa2verify"] = session_of(config).run.environment


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> BenchmarkSession:
    """The run's session."""
    return session_of(request.config)
