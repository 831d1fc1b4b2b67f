"""Kernels made of one function, and a call that every part of the judgement can be shown on."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.reference import reference
from fa2verify.kernels.tensors import Tensors
from fa2verify.reports.store import Writer
from fa2verify.verify.campaign import Campaign
from fa2verify.verify.findings import Findings
from fa2verify.verify.journal import Journal
from fa2verify.verify.quarantine import Quarantine


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors: a second thread costs more than it gives, and tests may run beside each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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
    kept = {name: getattr(exact, name) for name in ("out", "dq", "dk", "dv")}
    lse = None if exact.lse is None else exact.lse.float()
    return Outputs(lse=lse, **{name: None if tensor is None else tensor.to(dtype) for name, tensor in kept.items()})


@pytest.fixture
def right() -> Callable[[Problem, Tensors], Outputs]:
    """The reference rounded to the problem's dtype."""
    return lambda problem, tensors: stored(problem, reference(problem, tensors))


@pytest.fixture
def campaign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Campaign]:
    """A campaign whose records, notes and examples are the test's own."""
    monkeypatch.setattr("fa2verify.verify.campaign.EXAMPLE_DATABASE", tmp_path / "examples")
    with Writer(tmp_path / "records-main.jsonl") as writer:
        yield Campaign(
            writer=writer,
            journal=Journal(tmp_path, "main"),
            quarantine=Quarantine(tmp_path),
            findings=Findings(tmp_path),
            specs=(),
            device="cpu",
            precision="fp64",
            timeout=60.0,
            seed=1,
        )
