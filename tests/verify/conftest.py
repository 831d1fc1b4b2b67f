"""Kernels made of one function, and a call that every part of the judgement can be shown on."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from fa2verify.kernels.features import FEATURES
from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.reference import reference
from fa2verify.kernels.tensors import Tensors
from fa2verify.reports.record import Run
from fa2verify.reports.store import Loaded, Writer, load
from fa2verify.verify.known_failures.ledger import Ledger
from fa2verify.verify.run.campaign import Campaign
from fa2verify.verify.run.findings import Findings
from fa2verify.verify.run.journal import Journal
from fa2verify.verify.run.quarantine import Quarantine

RUN = Run(
    id="test",
    started="2026-01-01T00:00:00+00:00",
    profile="quick",
    seed=1,
    device="cpu",
    environment={},
    features=FEATURES,
)


class Made(Kernel):
    """A kernel that does what the test says."""

    lineage = "test"
    gives_lse = True

    def __init__(self, call: Callable[[Problem, Tensors], Any], **attributes: Any) -> None:
        self.name = "made"
        self._call = call
        for name, value in attributes.items():
            setattr(self, name, value)

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        return ()

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        return ()

    def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:
        return self._call(problem, tensors)  # type: ignore[no-any-return]


@pytest.fixture
def made() -> Callable[..., Kernel]:
    """Makes a kernel of a function of problem and tensors; keyword arguments become its attributes."""
    return Made


def stored(problem: Problem, exact: Outputs) -> Outputs:
    """`exact` rounded once: what a kernel without any other error gives."""
    dtype = getattr(torch, problem.dtype)
    lse = None if exact.lse is None else exact.lse.float()
    dq, dk, dv = (None if each is None else each.to(dtype) for each in (exact.dq, exact.dk, exact.dv))
    return Outputs(exact.out.to(dtype), lse, dq, dk, dv)


@pytest.fixture
def right() -> Callable[[Problem, Tensors], Outputs]:
    """The reference rounded to the problem's dtype."""
    return lambda problem, tensors: stored(problem, reference(problem, tensors))


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Campaign]:
    """A campaign whose records, notes and examples are the test's own."""
    monkeypatch.setattr("fa2verify.verify.run.campaign.EXAMPLE_DATABASE", tmp_path / "examples")
    with Writer(tmp_path / "records-main.jsonl") as writer:
        writer.write(RUN)
        yield Campaign(
            writer=writer,
            journal=Journal(tmp_path, "main"),
            quarantine=Quarantine(tmp_path),
            findings=Findings(tmp_path),
            ledger=Ledger(),
            specs=(),
            device="cpu",
            precision="fp64",
            timeout=60.0,
            seed=1,
        )


CONTROL = Path(__file__).parents[1] / "control"


class Suite:
    """The suite as a user starts it, in a folder of its own that holds nothing."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.report = directory / "report"
        # Kernels are found by module name from there, as an installed package's are.
        self.environment = {**os.environ, "PYTHONPATH": str(CONTROL)}

    def command(self, *arguments: str, kernels: Sequence[str] = (), profile: str = "quick") -> list[str]:
        return [
            *(sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "fa2verify.verify"),
            *(f"--hypothesis-profile={profile}", f"--report-dir={self.report}"),
            *(f"--kernel=foreign:{kernel}" for kernel in kernels),
            *arguments,
        ]

    def run(self, *arguments: str, **given: Any) -> subprocess.CompletedProcess[str]:
        return self.start(self.command(*arguments, **given))

    def start(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.directory, env=self.environment, capture_output=True, text=True, timeout=300
        )

    def loaded(self) -> Loaded:
        return load([self.report])


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return Suite(tmp_path)
