"""The tuning script without a GPU: what it would try, how it races, what it does when its time is up."""

import json
import time
from pathlib import Path

import pytest
import torch

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401

# isort: on
from fa2verify.kernels.triton import race, tune
from fa2verify.kernels.triton.candidates import candidates
from fa2verify.kernels.triton.configuration import Configuration, Pass
from fa2verify.kernels.triton.mode import interpreting

NAMES: tuple[Pass, ...] = ("forward", "backward_dkdv", "backward_dq")
SHAPE = race.Shape(head_dim=16, causal=True, seqlen=32, tokens=32, hidden=32)
pytestmark = pytest.mark.skipif(not interpreting(), reason="on a GPU the script itself is the test")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter's wall time instead of a GPU's, on tiny tensors, and two configurations."""
    monkeypatch.setattr(tune, "HIDDEN", 32)
    monkeypatch.setattr(tune, "TOKENS", 32)
    monkeypatch.setattr(tune, "_ROUNDS", 3)
    monkeypatch.setattr(race, "_MIN_MS", 1e-6)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(tune, "Tensors", lambda shape, device: race.Tensors(shape, torch.device("cpu")))
    monkeypatch.setattr(tune, "compile_all", lambda launches: None)
    monkeypatch.setattr(race, "synchronise", lambda: None)
    monkeypatch.setattr(race, "timed", _wall)
    configs = (Configuration(16, 32, 1, 1), Configuration(32, 16, 1, 1, descriptors=True))
    monkeypatch.setattr(tune, "candidates", lambda name, head_dim: iter(configs))


def _wall(launch: race.Launch, repeats: int) -> float:
    begin = time.perf_counter()
    for _ in range(repeats):
        launch()
    return (time.perf_counter() - begin) * 1e3 / repeats


@pytest.mark.parametrize("name", NAMES)
def test_a_race_times_every_entrant(name: Pass) -> None:
    timings = tune.race_all(name, SHAPE, time.monotonic() + 60)
    assert len(timings) == 3  # two configurations and torch's
    assert [t.milliseconds for t in timings] == sorted(t.milliseconds for t in timings)
    assert all(t.milliseconds > 0 and not t.failure for t in timings)
    assert sum(t.config is None for t in timings) == 1


def test_what_cannot_run_is_recorded_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("no room\nfor this")

    monkeypatch.setattr("fa2verify.kernels.triton.backward_dq.backward_dq", refuse)
    timings = tune.race_all("backward_dq", SHAPE, time.monotonic() + 60)
    assert [t.failure for t in timings if t.config] == ["RuntimeError: no room"] * 2
    assert next(t for t in timings if t.config is None).milliseconds > 0


@pytest.mark.parametrize("seconds", [60.0, 0.0])
def test_a_run_writes_what_it_has_when_its_time_is_up(
    seconds: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    monkeypatch.setattr(tune, "interpreting", lambda: False)
    out = tmp_path / "tune.json"
    options = ["--head-dim", "16", "--seqlen", "32", "--seconds", str(seconds), "--out", str(out)]
    assert tune.main(options) == 0
    printed = capsys.readouterr().out
    if seconds:
        timings = json.loads(out.read_text())["timings"]
        assert len(timings) == 2 * 3 * 3  # masks, passes, entrants
        for form in ("both passes", "torch flash"):
            assert f"backward {form}" in printed
        assert "nan" not in printed
    else:
        assert "time is up: 6 of 6 races not run" in printed


def test_a_machine_without_a_gpu_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert tune.main([]) == 2
    assert "needs a GPU" in capsys.readouterr().err


@pytest.mark.parametrize("head_dim", [64, 128, 256])
@pytest.mark.parametrize("name", NAMES)
def test_candidates_hold_what_may_win(name: Pass, head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = list(candidates(name, head_dim))
    assert 4 <= len(found) <= 40
    assert len(set(found)) == len(found)
    if name == "backward_dkdv" and head_dim == 128:
        assert Configuration(64, 128, 8, 3) in found  # what FlexAttention takes on Hopper
