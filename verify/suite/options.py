"""The suite's command-line options."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from fa2verify.kernels.reference import Precision
from fa2verify.verify.trial.sanitizer import TOOLS, SanitizerMissing, Tool, find

Device = Literal["cpu", "cuda"]

_DAY = 86_400


@dataclass(frozen=True, slots=True)
class Shard:
    """Slice `index` (from 1) of `count` of the tests."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read "i/n". Raises ValueError."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise ValueError(f"--shard={text}: must be i/n with 1 <= i <= n, for example 2/8")
        return cls(int(index), int(count))

    def takes(self, position: int) -> bool:
        """Whether the test at `position` belongs to this slice."""
        return position % self.count == self.index - 1


def add_options(parser: pytest.Parser) -> None:
    """Add the options to pytest's."""
    group = parser.getgroup("fa2verify", "attention kernel verification")
    group.addoption(
        "--kernel",
        action="append",
        default=[],
        metavar="NAME|MODULE:OBJECT",
        help="verify this kernel only (repeatable): one that `fa2verify kernels` lists, or a kernel object or a "
        "function with flash_attn_func's signature, as module:object or file.py:object",
    )
    group.addoption(
        "--report-dir",
        type=Path,
        default=Path("build/report"),
        help="where records and report go (default: %(default)s)",
    )
    group.addoption(
        "--reference",
        choices=("fp64", "fp32"),
        default="fp64",
        help="precision of the reference (default: %(default)s); fp32 where fp64 is too slow or too large",
    )
    group.addoption(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where to verify (default: cuda if there is a GPU, else cpu)",
    )
    group.addoption(
        "--problem-timeout",
        type=seconds,
        default=120.0,
        metavar="SECONDS",
        help="a kernel that takes longer for one problem has hung (default: %(default)s; includes compilation)",
    )
    group.addoption(
        "--ledger",
        action="append",
        type=Path,
        default=[],
        metavar="FILE.toml",
        help="known failures of your own kernels (repeatable): tried, and no failure of the run while they fail so",
    )
    group.addoption(
        "--shard", metavar="I/N", help="run only the I-th of N slices of the suite; merge with `fa2verify report`"
    )
    group.addoption(
        "--sanitizer",
        choices=TOOLS,
        help="instead of judging outputs, call the kernels under this tool of NVIDIA's compute-sanitizer, a process a "
        "problem: what it finds is the verdict",
    )


def seconds(text: str) -> float:
    """Read a number of seconds that an alarm can be set to. Raises argparse.ArgumentTypeError, a usage error."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value <= _DAY:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of seconds above 0, at most a day ({_DAY})")
    return value


def chosen_device(config: pytest.Config) -> Device:
    """The device that this run verifies on. Raises pytest.UsageError if it is asked for and absent."""
    import torch

    wanted = config.getoption("--device")
    present = torch.cuda.is_available()
    if wanted == "cuda" and not present:
        raise pytest.UsageError("--device=cuda: torch sees no CUDA device here")
    return "cuda" if wanted != "cpu" and present else "cpu"


def precision(config: pytest.Config) -> Precision:
    """The reference's precision."""
    chosen: Precision = config.getoption("--reference")
    return chosen


def sanitizer(config: pytest.Config) -> tuple[Tool, str] | None:
    """The tool of compute-sanitizer that watches the kernels, and the path of compute-sanitizer; None: none does.

    Raises pytest.UsageError where there is nothing to watch or nothing to watch with.
    """
    tool: Tool | None = config.getoption("--sanitizer")
    if tool is None:
        return None
    if chosen_device(config) != "cuda":
        raise pytest.UsageError(
            f"--sanitizer={tool} watches kernels on a GPU, and this run verifies on the cpu; the CUDA kernels on the "
            "emulator have `tox run -e sanitize`"
        )
    try:
        return tool, find()
    except SanitizerMissing as missing:
        raise pytest.UsageError(f"--sanitizer={tool}: {missing}") from None


def shard(config: pytest.Config) -> Shard | None:
    """The slice to run, or None for everything. Raises pytest.UsageError for a malformed one."""
    text = config.getoption("--shard")
    if text is None:
        return None
    try:
        return Shard.parse(text)
    except ValueError as error:
        raise pytest.UsageError(str(error)) from None
