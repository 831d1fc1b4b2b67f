"""Trying a kernel under NVIDIA's compute-sanitizer: what it finds is the verdict.

Wrong results are one thing, how they come about another: a read past the end, a race on shared memory, or a barrier
that not all threads reach may go well a thousand times. Each problem has a process of its own, because what the
sanitizer reports is then that problem's, and because an access that it stops takes the process' CUDA context along. In
that process torch allocates every tensor by itself: in its cache, neighbours hide an overrun.

Outputs are not judged here; that is the ordinary run's part.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Problem
from fa2verify.reports.record import Record
from fa2verify.verify.trial.crash import crash

Tool = Literal["memcheck", "racecheck", "initcheck", "synccheck"]
TOOLS: tuple[Tool, ...] = get_args(Tool)

# Where toolkits put it when it is not on the PATH.
_TOOLKIT = "/usr/local/cuda/bin"
_PREFIX = "========="
_SUMMARY = re.compile(r"(?:ERROR SUMMARY: (\d+) errors?|RACECHECK SUMMARY: \d+ hazards? displayed \((\d+) errors?)")
# A finding goes on for a whole backtrace; what and where are in its first lines.
_LINES = 4


class SanitizerMissing(Exception):
    """There is no compute-sanitizer on this machine."""


def find() -> str:
    """The path of compute-sanitizer. Raises SanitizerMissing."""
    path = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=_TOOLKIT)
    if path is None:
        raise SanitizerMissing(f"compute-sanitizer is neither on the PATH nor in {_TOOLKIT}; the CUDA toolkit has it")
    return path


@dataclass(frozen=True, slots=True)
class Log:
    """What one log says.

    errors  how many, by the log's own summary; None where it has none: the sanitizer itself came to an end early
    first   the first finding's first lines, joined by "; "
    """

    errors: int | None
    first: str

    @classmethod
    def of(cls, text: str) -> "Log":
        """Read a log of any of the tools."""
        lines = [line.removeprefix(_PREFIX).strip() for line in text.splitlines() if line.startswith(_PREFIX)]
        summaries = [found for line in lines if (found := _SUMMARY.search(line))]
        errors = sum(int(found[1] or found[2]) for found in summaries) if summaries else None
        # A line without text stands between findings.
        said = [line for line in lines if line not in ("", "COMPUTE-SANITIZER") and not _SUMMARY.search(line)]
        return cls(errors, "; ".join(said[:_LINES]))


@dataclass(frozen=True, slots=True)
class Sanitizer:
    """One of the tools, and how to try kernels under it.

    tool        which
    executable  compute-sanitizer's path
    specs       what `--kernel` named, so that the child finds the same kernels
    device      of the tensors
    timeout     seconds that one problem may take, start of the process included
    """

    tool: Tool
    executable: str
    specs: tuple[str, ...]
    device: str
    timeout: float

    def attempt(self, kernel: Kernel, problem: Problem, test: str = "") -> Record:
        """Call `kernel` on `problem` in a process under the sanitizer: passed if it finds nothing."""
        blank = crash(kernel.name, problem, f"sanitizer {self.tool}", test=test)
        if reasons := kernel.unsupported(problem):
            return replace(blank, verdict="unsupported", rule=None, reasons=reasons)
        with tempfile.TemporaryDirectory() as directory:
            log, said = Path(directory, "log"), Path(directory, "said")
            arguments = [kernel.name, problem.to_json(), self.device, str(said), *self.specs]
            errors = Path(directory, "errors")
            command = [*self._command(log), sys.executable, "-P", "-m", "fa2verify.verify.trial.sanitized", *arguments]
            started = time.perf_counter()
            status = self._run(command, errors)
            blank = replace(blank, seconds=time.perf_counter() - started)
            if status is None:
                message = f"no answer after {self.timeout:g} s under {self.tool}; the process was ended"
                return replace(blank, verdict="timed_out", rule="timeout", message=message)
            last = (errors.read_text(errors="replace").strip().splitlines() or ["it said nothing"])[-1]
            found = Log.of(log.read_text(errors="replace") if log.exists() else "")
            words = said.read_text() if said.exists() else None
        if found.errors:
            count = f"{found.errors} {'error' if found.errors == 1 else 'errors'}"
            return replace(blank, verdict="failed", message=f"{count}, the first: {found.first}")
        if words is None or found.errors is None:
            return replace(blank, message=f"the process left with status {status}: {last}")
        if words:
            return replace(blank, rule=f"raised {words.partition(':')[0]}", message=words)
        return replace(blank, verdict="passed", rule=None)

    def _run(self, command: Sequence[str], errors: Path) -> int | None:
        """The exit status; None after the time-out."""
        environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
        with errors.open("w") as stderr:
            # A session of its own: the sanitizer's child must not outlive it.
            child = subprocess.Popen(
                command, env=environment, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True
            )
            try:
                return child.wait(self.timeout)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
                return None

    def _command(self, log: Path) -> Sequence[str]:
        # An API call that fails is an exception in the child; libraries also make some that may fail.
        return [self.executable, "--tool", self.tool, "--report-api-errors", "no", "--log-file", str(log)]
