"""Host cost and first calls: what is timed, and what a process that dies or hangs becomes."""

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from fa2verify.benchmarks import first_call, host_cost
from fa2verify.benchmarks.standard import StandardAttention
from fa2verify.benchmarks.timing import Call, attempt
from fa2verify.kernels.autograd import AutogradKernel
from fa2verify.reports.benchmark_record import HostCost, Mode

CPU = torch.device("cpu")


def test_the_clock_tells_the_mean_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    ticks = iter((10.0, 10.006))
    monkeypatch.setattr("time.perf_counter", lambda: next(ticks))
    elapsed = host_cost.HostClock(3, CPU).time(lambda: calls.append(1))
    assert len(calls) == 3
    assert elapsed() == pytest.approx(2.0)  # of 6 ms


def test_every_kernel_and_part_has_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(kernel: AutogradKernel, device: torch.device) -> Call:
        def call() -> object:
            raise RuntimeError("the graph broke:\n  at a print")

        return call

    monkeypatch.setattr(host_cost, "compiled", broken)
    lines = host_cost.host_costs([StandardAttention()], CPU, rounds=3, calls=2, deadline=math.inf)
    found = {(line.subject, line.mode, line.direction): line for line in lines}
    parts = {(part, "eager", "forward") for part in ("torch add_", "library operator", "custom_op")}
    own = {("standard", "eager", "forward"), ("standard", "eager", "both"), ("standard", "compiled", "forward")}
    assert set(found) == parts | own
    failed = found["standard", "compiled", "forward"]
    assert (failed.outcome, failed.message) == ("failed", "RuntimeError: the graph broke:   at a print")
    measured = [line for line in lines if line is not failed]
    assert all(line.outcome == "measured" and len(line.us) == 3 and min(line.us) > 0 for line in measured)


def test_nothing_is_compiled_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    def too_late() -> object:
        raise AssertionError("compiled")

    monkeypatch.setattr(host_cost, "compiled", lambda *_: too_late)
    lines = host_cost.host_costs([StandardAttention()], CPU, rounds=3, calls=2, deadline=-math.inf)
    assert {line.mode for line in lines} == {"eager"}
    assert {line.outcome for line in lines} == {"measured"}


def test_a_compiled_forward_is_the_eager_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By dynamo alone: Inductor takes ten seconds to load."""
    compile_whole = torch.compile
    asked: dict[str, Any] = {}

    def compile_eagerly(function: Any, **options: Any) -> Any:
        asked.update(options)
        return compile_whole(function, backend="eager", **options)

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    call = host_cost.compiled(StandardAttention(), CPU)
    assert asked == {"fullgraph": True}
    assert attempt(call, CPU) is None
    out = call()
    assert isinstance(out, tuple)
    assert out[0].shape == (1, 16, 1, 64)
    assert not out[0].requires_grad


def cost(subject: str, us: float, mode: Mode = "eager") -> HostCost:
    return HostCost(subject=subject, mode=mode, direction="forward", outcome="measured", us=(us,), calls=1)


def test_our_forward_may_take_one_and_a_half_times_torchs() -> None:
    assert not host_cost.too_much((cost("fa2verify-cuda", 30.0), cost("torch-flash", 20.0)))
    said = host_cost.too_much((cost("fa2verify-cuda", 30.1), cost("torch-flash", 20.0)))
    assert said.startswith("a forward of fa2verify-cuda takes the host 30.1 us, one of torch-flash 20.0 us")
    assert not host_cost.too_much((cost("fa2verify-cuda", 99.0, "compiled"), cost("torch-flash", 20.0)))
    assert not host_cost.too_much((cost("fa2verify-cuda", 99.0),))


def test_caches_are_empty_at_the_cold_start_and_kept_for_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def run(command: list[str], env: dict[str, str], **_: Any) -> subprocess.CompletedProcess[str]:
        folders = [Path(env[name]) for name in first_call.CACHES]
        seen.append([sorted(path.name for path in folder.iterdir()) for folder in folders])
        for folder in folders:
            (folder / "compiled").touch()
        return subprocess.CompletedProcess(command, 0, "chatter\n[120.5, 0.5, [7.5, 8.5]]\n", "")

    monkeypatch.setattr(subprocess, "run", run)
    lines = first_call.first_calls("standard", host_cost.PROBLEM, "cpu", 5)
    assert seen == [[[]] * len(first_call.CACHES), [["compiled"]] * len(first_call.CACHES)]
    assert [(line.cache, line.first_ms, line.second_ms, line.others_ms) for line in lines] == [
        ("cold", 120.5, 0.5, (7.5, 8.5)),
        ("disk", 120.5, 0.5, (7.5, 8.5)),
    ]
    assert {line.outcome for line in lines} == {"measured"}


def test_a_process_that_fails_or_hangs_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter((subprocess.CompletedProcess([], 1, "", "Traceback\nRuntimeError: no luck\n"), None))

    def run(command: list[str], timeout: float, **_: Any) -> subprocess.CompletedProcess[str]:
        answer = next(answers)
        if answer is None:
            raise subprocess.TimeoutExpired(command, timeout)
        return answer

    monkeypatch.setattr(subprocess, "run", run)
    cold, disk = first_call.first_calls("standard", host_cost.PROBLEM, "cpu", 5)
    assert (cold.outcome, cold.message) == ("failed", "RuntimeError: no luck")
    assert (disk.outcome, disk.message) == ("failed", "no answer within 5 s")


def test_the_process_prints_every_time(capsys: pytest.CaptureFixture[str]) -> None:
    first_call.main(["torch-math", host_cost.PROBLEM.to_json(), "cpu"])
    first, second, others = json.loads(capsys.readouterr().out)
    assert min(first, second, *others) > 0
    assert len(others) == len(set(first_call.others(host_cost.PROBLEM))) == 5
