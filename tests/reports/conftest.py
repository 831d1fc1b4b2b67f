"""Hand-made records: short to write in a test, complete on disk."""

from collections.abc import Callable
from typing import Any

import pytest

from fa2verify.reports.record import KernelEntry, OutputError, Record, Run
from fa2verify.reports.store import Loaded, RunRecords

Make = Callable[..., Any]


@pytest.fixture
def make_run() -> Callable[..., Run]:
    def make(identity: str = "run-1", **fields: Any) -> Run:
        known: dict[str, Any] = {
            "started": "2026-01-02T03:04:05Z",
            "profile": "quick",
            "seed": 7,
            "device": "cpu",
            "environment": {"python": "3.11.2", "torch": "2.13.0"},
            "features": ("float16", "causal", "dropout"),
        }
        return Run(id=identity, **{**known, **fields})

    return make


@pytest.fixture
def make_kernel() -> Callable[..., KernelEntry]:
    def make(name: str = "ours", **fields: Any) -> KernelEntry:
        return KernelEntry(name=name, **{"lineage": "fa2verify", "origin": "built in", **fields})

    return make


@pytest.fixture
def make_error() -> Callable[..., OutputError]:
    def make(output: str = "out", max_abs: float = 0.5, baseline: float | None = 1.0, **fields: Any) -> OutputError:
        known: dict[str, Any] = {
            "elements": 64,
            "bound_units": 0.25,
            "limit": 1.0,
            "rmse": 0.1,
            "reference_rms": 1.0,
            "bias": 0.0,
            "ulps": (60, 4),
            "worst_index": (0, 1, 2, 3),
            "observed": 1.5,
            "expected": 1.0,
        }
        return OutputError(output=output, max_abs=max_abs, baseline=baseline, **{**known, **fields})  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_record() -> Callable[..., Record]:
    def make(verdict: str = "passed", kernel: str = "ours", **fields: Any) -> Record:
        known: dict[str, Any] = {"problem": {"head_dim": 32}, "features": ("float16",), "test": "test_kernel"}
        return Record(kernel=kernel, verdict=verdict, **{**known, **fields})  # type: ignore[arg-type]

    return make


@pytest.fixture
def one_run(make_run: Make, make_kernel: Make) -> Callable[..., Loaded]:
    """What one run of the kernel "ours" left: its records are the arguments."""

    def make(*records: Record, kernels: tuple[KernelEntry, ...] | None = None) -> Loaded:
        return Loaded((RunRecords(make_run(), (make_kernel(),) if kernels is None else kernels, records),))

    return make
