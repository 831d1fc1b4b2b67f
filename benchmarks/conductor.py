"""What a run of benchmarks does between pytest, pytest-benchmark and the records: hooks, and the fixture `bench`."""

import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from fa2verify.benchmarks.session import SESSION, BenchmarkSession
from fa2verify.reports.html import render
from fa2verify.reports.sources import load

_JSON = "pytest-benchmark.json"


class Conductor:
    """Hooks of the process that runs. Raises pytest.UsageError where benchmarks cannot run, or not so."""

    def __init__(self, config: pytest.Config) -> None:
        if config.getoption("numprocesses", None):
            raise pytest.UsageError("-n: benchmarks run one after the other, in one process; leave it out")
        if not config.pluginmanager.has_plugin("benchmark"):
            raise pytest.UsageError("benchmarks need pytest-benchmark; install fa2verify[bench]")
        self._session = config.stash[SESSION] = BenchmarkSession(config)
        if config.option.benchmark_json is None:
            # Before pytest-benchmark reads it.
            self._session.directory.mkdir(parents=True, exist_ok=True)
            config.option.benchmark_json = self._session.directory / _JSON

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """Count the cells that the selected tests will ask for."""
        self._session.left = {mark.args[0] for item in session.items for mark in item.iter_markers("cell")}

    @pytest.hookimpl(trylast=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Tell progress through the terminal."""
        terminal = session.config.pluginmanager.get_plugin("terminalreporter")
        capture = session.config.pluginmanager.get_plugin("capturemanager")
        if terminal is None:
            return

        def say(line: str) -> None:
            # In a test, which is when there is progress, the terminal's file descriptor is captured.
            with capture.global_and_fixture_disabled() if capture else nullcontext():
                terminal.write_line(f"\n{line}", flush=True)

        self._session.report_to(say)

    @pytest.hookimpl(tryfirst=True, wrapper=True)
    def pytest_sessionfinish(self) -> Iterator[None]:
        """Let pytest-benchmark have nothing to save: memory is not timed, and time may be up before anything is."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Not saving anything, no benchmarks have been run")
            yield
        if self._session.wrote:
            sources = load([self._session.directory])
            self._report().write_text(render(sources.loaded, sources.machines), encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Where the report is."""
        if self._session.wrote:
            terminalreporter.write_line(f"Report: {self._report()}")

    def pytest_unconfigure(self) -> None:
        """Close the records."""
        self._session.close()

    @pytest.hookimpl(optionalhook=True)
    def pytest_benchmark_update_machine_info(self, machine_info: dict[str, Any]) -> None:
        """What the run knows of the machine instead of the machine's name."""
        del machine_info["node"]
        machine_info["fa2verify"] = self._session.run.environment

    def _report(self) -> Path:
        return self._session.directory / "index.html"

    @pytest.fixture
    def bench(self) -> BenchmarkSession:
        """The run's session."""
        return self._session
