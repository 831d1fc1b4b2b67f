"""The benchmarks' command-line options. `--kernel` and `--device` are the verification suite's own."""

import argparse
import math
from pathlib import Path

import pytest

from fa2verify.verify.suite.options import seconds


def add_options(parser: pytest.Parser) -> None:
    """Add the options to pytest's."""
    group = parser.getgroup("fa2verify benchmarks", "attention kernel benchmarks: pytest benchmarks")
    group.addoption(
        "--bench-dir",
        type=Path,
        default=Path("build/benchmarks"),
        metavar="DIR",
        help="where benchmarks.jsonl, a line a measurement, and pytest-benchmark.json go (default: %(default)s)",
    )
    group.addoption(
        "--bench-seconds",
        type=seconds,
        default=math.inf,
        metavar="SECONDS",
        help="end within about this: cells get equal parts of it, and what is left over is skipped (default: no limit)",
    )
    group.addoption(
        "--bench-rounds",
        type=rounds,
        default=12,
        metavar="N",
        help="rounds that count, up to four times as many where a kernel's times vary (default: %(default)s)",
    )
    group.addoption(
        "--bench-grid",
        action="append",
        default=[],
        metavar="GRID",
        help="only this grid of problems (repeatable): flash, triton, gqa, varlen, or smoke, which also a CPU can do "
        "(default: all but smoke; on a CPU, smoke)",
    )
    group.addoption(
        "--bench-against",
        default="torch-flash",
        metavar="KERNEL",
        help="the kernel that ratios are to (default: %(default)s, or the first that runs)",
    )
    group.addoption(
        "--bench-model",
        action="append",
        default=[],
        choices=("small", "medium", "large"),
        help="only this GPT-2 (repeatable; default: all three)",
    )
    group.addoption(
        "--bench-context",
        action="append",
        default=[],
        type=int,
        metavar="TOKENS",
        help="only this context (repeatable)",
    )
    group.addoption(
        "--bench-memory",
        action="append",
        default=[],
        type=float,
        metavar="GB",
        help="only this much memory, in 10^9 bytes, 0 for all there is (repeatable; default: 12 and 0)",
    )
    group.addoption(
        "--bench-lanes",
        type=lanes,
        default=1,
        metavar="N",
        help="train GPT-2 in so many processes at a time, which compile beside each other and use the GPU in turn; "
        "with 2 CPU cores each (default: %(default)s)",
    )
    group.addoption(
        "--bench-steps", type=rounds, default=125, metavar="N", help="steps a training (default: %(default)s)"
    )
    group.addoption(
        "--bench-dtype", choices=("float16", "bfloat16"), default="float16", help="of autocast (default: %(default)s)"
    )


def rounds(text: str) -> int:
    """Read a number of rounds. Raises argparse.ArgumentTypeError, a usage error."""
    if not text.isdecimal() or int(text) < 3:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 3: a median needs a spread")
    return int(text)


def lanes(text: str) -> int:
    """Read a number of lanes. Raises argparse.ArgumentTypeError, a usage error."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a whole number, at least 1: processes at a time")
    return int(text)
