"""The controlling process' part: the run's record, the kernels' entries, dead workers, the report, the exit status."""

import datetime
import secrets
from pathlib import Path
from typing import Any

import pytest
import torch

from fa2verify.kernels.features import FEATURES
from fa2verify.kernels.registry import KernelSpecError, Registered, select
from fa2verify.kernels.support import unsupported_features
from fa2verify.reports.html import render
from fa2verify.reports.known import known_failures
from fa2verify.reports.record import KernelEntry, Run, to_json
from fa2verify.reports.sources import load
from fa2verify.reports.store import Loaded, Writer, clear, merge
from fa2verify.reports.summary import KernelSummary, lines, sentence, summarize
from fa2verify.verify.known_failures.built_in import LEDGER
from fa2verify.verify.known_failures.ledger import Ledger, LedgerError, Place
from fa2verify.verify.known_failures.ledger_file import read
from fa2verify.verify.run import room
from fa2verify.verify.run.campaign import failure_text
from fa2verify.verify.run.environment import describe
from fa2verify.verify.run.findings import Findings
from fa2verify.verify.run.journal import Journal
from fa2verify.verify.run.large_problems import not_tried
from fa2verify.verify.run.plan import left_out
from fa2verify.verify.run.quarantine import Quarantine
from fa2verify.verify.suite import options

RUN_KEY = "fa2verify_run"
# What the run's record and its last lines call them, where they are left out.
LARGE = "problems past 2^31 elements"


class Controller:
    """Hooks of the process that pytest was started as."""

    def __init__(self, config: pytest.Config, profile: str) -> None:
        device = options.chosen_device(config)
        options.shard(config)
        sanitized = options.sanitizer(config) is not None
        try:
            self.kernels = select(config.getoption("--kernel"))
        except KernelSpecError as error:
            raise pytest.UsageError(f"--kernel: {error}") from error
        self._ledger = expected(config, self.kernels).at(Place.here(device))
        self._config = config
        self._directory: Path = config.getoption("--report-dir").absolute()
        self._summaries: tuple[KernelSummary, ...] = ()
        self._loaded = Loaded(())
        self._no_large = not_tried(device, profile, sanitized=sanitized)
        self.run = Run(
            id=secrets.token_hex(6),
            started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            profile=profile,
            seed=_seed(config),
            device=device,
            environment=describe(device) | _asked(config) | ({LARGE: self._no_large} if self._no_large else {}),
            features=FEATURES,
        )
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            asked = config.getoption("--report-dir")
            raise pytest.UsageError(
                f"--report-dir={asked}: no folder, and none can be made: {error.strerror}"
            ) from None
        self._dry = config.getoption("collectonly")
        if self._dry:
            return
        clear(self._directory)
        Quarantine(self._directory).clear()
        Findings(self._directory).clear()
        room.clear(self._directory)
        for leftover in self._directory.glob(".running-*"):
            leftover.unlink()
        self._write(self.run, *(self._entry(registered) for registered in self.kernels))

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Give each worker the run it is part of."""
        node.workerinput[RUN_KEY] = to_json(self.run)

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport, sched: Any) -> None:
        """Write the verdict that a dead worker could not, and have its test run again with the kernel in quarantine."""
        timeout = self._config.getoption("--problem-timeout")
        record = Journal(self._directory, report.node.gateway.id).last_words(timeout)
        if record is None:
            return  # it did not die in a kernel: xdist's own report stands
        self._write(record)
        Quarantine(self._directory).add(record.kernel)
        report.longrepr = failure_text(record, spec_of(record.kernel, self.kernels))
        sched.mark_test_pending(crashitem)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> Any:
        """Merge the workers' records and write the report, once all of them have left."""
        result = yield
        if self._dry:
            return result
        merge(self._directory)
        sources = load([self._directory])
        self._loaded = sources.loaded
        self._summaries = summarize(self._loaded)
        # Benchmarks that were left there belong to its report.
        self._report().write_text(render(self._loaded, sources.machines), encoding="utf-8")
        Quarantine(self._directory).clear()
        Findings(self._directory).clear()
        room.clear(self._directory)
        if session.exitstatus == pytest.ExitCode.OK and any(map(blind_to, self._summaries)):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
        return result

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One line a kernel, what could not be told, and where the report is."""
        if self._dry:
            return
        write = terminalreporter.write_line
        terminalreporter.section("kernels")
        for line in lines(self._summaries):
            write(line)
        for summary in self._summaries:
            for decoy in blind_to(summary):
                write(f"{summary.name}: not verified (R3), no problem told it from the decoy {decoy!r}", red=True)
        for tally in known_failures(self._loaded):
            write(tally.line)
        if self._no_large:
            write(f"{LARGE}: not tried. {self._no_large}")
        for loss in self._loaded.losses:
            write(f"not read: {loss}", yellow=True)
        write(f"{sentence(self._summaries)}. Report: {_shown(self._report())}")

    def _report(self) -> Path:
        return self._directory / "index.html"

    def _entry(self, registered: Registered) -> KernelEntry:
        kernel = registered.kernel
        named = bool(self._config.getoption("--kernel"))
        unavailable = left_out(registered, torch.device(self.run.device), named=named)
        return KernelEntry(
            name=kernel.name,
            lineage=kernel.lineage,
            origin=registered.origin,
            unavailable=unavailable,
            unsupported={} if unavailable else unsupported_features(kernel),
            known=() if unavailable else tuple(entry.shown for entry in self._ledger.of(kernel.name)),
        )

    def _write(self, *written: Any) -> None:
        with Writer(self._directory / "records-controller.jsonl") as writer:
            for line in written:
                writer.write(line)


def expected(config: pytest.Config, kernels: tuple[Registered, ...]) -> Ledger:
    """The known failures, ours and those of `--ledger`. Raises pytest.UsageError for an entry that cannot be."""
    try:
        ledger = Ledger((*LEDGER.entries, *(entry for path in config.getoption("--ledger") for entry in read(path))))
        ledger.require_kernels({registered.kernel.name for registered in (*select(()), *kernels)})
    except LedgerError as error:
        raise pytest.UsageError(f"--ledger: {error}") from error
    return ledger


def blind_to(summary: KernelSummary) -> tuple[str, ...]:
    """R3: the decoys that a passed kernel's run never caught, so that it could not have seen such a defect."""
    if summary.status != "passed":
        return ()
    missed = (name for name, fates in summary.decoys.items() if fates["missed"])
    return tuple(dict.fromkeys((*summary.never_caught, *missed)))


def spec_of(name: str, kernels: tuple[Registered, ...]) -> str:
    """What finds the kernel again: its name, or what `--kernel` took."""
    origin = next((registered.origin for registered in kernels if registered.kernel.name == name), "")
    return origin.removeprefix("--kernel=") if origin.startswith("--kernel=") else name


def _seed(config: pytest.Config) -> int:
    """The seed on the command line, or a fresh one. Raises pytest.UsageError."""
    given = config.getoption("--hypothesis-seed")
    if given in (None, "random"):
        return secrets.randbits(32)
    try:
        return int(given)
    except ValueError:
        raise pytest.UsageError(f"--hypothesis-seed={given}: must be an integer, or random") from None


def _asked(config: pytest.Config) -> dict[str, str]:
    """Options that decide what ran, where they are not at their defaults."""
    asked = {
        "kernels": " ".join(config.getoption("--kernel")),
        "shard": config.getoption("--shard") or "",
        "sanitizer": config.getoption("--sanitizer") or "",
    }
    return {name: value for name, value in asked.items() if value}


def _shown(path: Path) -> str:
    """Relative to the current folder, if it is in there."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
