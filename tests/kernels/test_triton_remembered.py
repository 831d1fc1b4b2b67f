"""The outcome of a race: kept in a file, damaged, lost, or waited for; the GPU and the race are made up."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

# isort: on
import triton
from made_up_gpu import DEVICE, ENTRY, FAST, FASTER, FASTEST, SLOW, UNKNOWN, Machine, taken

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401
from fa2verify.kernels.triton import choice, remembered
from fa2verify.kernels.triton.choice import configuration
from fa2verify.kernels.triton.configuration import Configuration, Pass
from fa2verify.kernels.triton.race import Result

# The machine's fixture replaces it.
WAIT_UNTIL_IDLE = choice._wait_until_idle


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The log's warnings so far."""
    caplog.set_level(logging.INFO, logger=choice.__name__)
    return lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def only_file(folder: Path) -> Path:
    (file,) = (folder / "tiles").glob("*.json")
    return file


@pytest.mark.parametrize(
    "change",
    ["nothing", "name", "capability", "triton", "sources", "pass", "head_dim"],
)
def test_what_a_race_depends_on_is_its_key(change: str, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken() == FASTER
    machine.later_process()
    name: Pass = "forward"
    block_d = 64
    if change == "name":
        machine.gpu = replace(UNKNOWN, name="NVIDIA Something Else")
    elif change == "capability":
        machine.gpu = replace(UNKNOWN, capability=(8, 9))
    elif change == "triton":
        monkeypatch.setattr(triton, "__version__", "9.9.9")
    elif change == "sources":
        monkeypatch.setattr(remembered, "sources", lambda: "others")
    elif change == "pass":
        name = "backward_dq"
    elif change == "head_dim":
        block_d = 128
    configuration(name, block_d, DEVICE)
    assert machine.races[-1] == (name, block_d)
    assert len(machine.races) == (1 if change == "nothing" else 2)


def test_the_sources_are_the_kernels() -> None:
    assert len(remembered.sources()) == 16
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Path, "read_bytes", lambda path: b"another kernel")
        assert remembered.sources.__wrapped__() != remembered.sources()


def test_a_file_says_what_was_measured(machine: Machine, tmp_path: Path) -> None:
    taken()
    said = json.loads(only_file(tmp_path).read_text())
    assert said["key"]["gpu"] == UNKNOWN.name
    assert [entrant["milliseconds"] for entrant in said["raced"]] == [SLOW, FAST]
    assert (said["winner"]["block_m"], said["winner"]["num_stages"]) == (FASTER.block_m, FASTER.num_stages)


def _others_key(text: bytes) -> bytes:
    return text.replace(UNKNOWN.name.encode(), b"another GPU")


def _alien_winner(text: bytes) -> bytes:
    return json.dumps(json.loads(text) | {"winner": {"block_m": 7}}).encode()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:40],
        lambda text: b"",
        lambda text: b"\xff",
        lambda text: b"[]",
        _others_key,
        _alien_winner,
    ],
)
def test_a_damaged_file_is_named_and_the_table_serves(
    damage: Callable[[bytes], bytes], machine: Machine, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    taken()
    file = only_file(tmp_path)
    damaged = damage(file.read_bytes())
    file.write_bytes(damaged)
    machine.later_process()
    assert [taken(), taken()] == [ENTRY, ENTRY]
    assert len(machine.races) == 1
    (warning,) = warnings()
    assert str(file) in warning
    assert "delete it to race again" in warning
    assert file.read_bytes() == damaged


def test_a_folder_that_cannot_be_made_is_named_and_nothing_races(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FA2VERIFY_CACHE", str(tmp_path / "file"))
    assert taken() == ENTRY
    assert machine.races == []
    assert str(tmp_path / "file") in warnings()[0]


def test_an_outcome_that_cannot_be_written_is_not_taken(
    machine: Machine, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    machine.run = lambda: (tmp_path / "tiles").rename(tmp_path / "away") and (tmp_path / "tiles").touch()
    assert taken() == ENTRY
    assert len(machine.races) == 1
    assert str(tmp_path / "tiles") in warnings()[0]


@pytest.mark.parametrize("error", [RuntimeError, torch.OutOfMemoryError, triton.TritonError, OSError, AssertionError])
def test_a_race_that_cannot_be_run_leaves_the_table(
    error: type[Exception], machine: Machine, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    def fail() -> None:
        raise error("befell it")

    machine.run = fail
    assert [taken(), taken()] == [ENTRY, ENTRY]
    assert len(machine.races) == 1
    assert "befell it" in warnings()[0]
    assert list(tmp_path.glob("tiles/*.json")) == []


def test_a_lost_context_is_the_calls_to_report(machine: Machine) -> None:
    def fail() -> None:
        raise torch.AcceleratorError("illegal address")

    machine.run = fail
    with pytest.raises(torch.AcceleratorError, match="illegal address"):
        taken()


def test_a_race_that_nobody_could_run_is_not_remembered(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(choice, "_result", lambda *_: Result({}, {ENTRY: "no compiler"}))
    assert taken() == ENTRY
    assert "none could run: no compiler" in warnings()[0]
    assert list(tmp_path.glob("tiles/*.json")) == []


def test_a_race_that_was_cut_short_is_not_remembered(
    machine: Machine, tmp_path: Path, warnings: Callable[[], list[str]]
) -> None:
    machine.samples = {ENTRY: SLOW[:3], FASTER: FAST[:3]}
    assert taken() == ENTRY
    assert "the race was not over after" in warnings()[0]
    assert list(tmp_path.glob("tiles/*.json")) == []
    machine.samples = {ENTRY: SLOW, FASTER: FAST}
    machine.later_process()
    assert taken() == FASTER


def test_a_stream_that_is_busy_too_long_is_not_raced_against(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warnings: Callable[[], list[str]]
) -> None:
    class Busy:
        def record(self) -> None: ...

        def query(self) -> bool:
            # Nobody waits for a stream while others may be waiting for the lock.
            assert list(tmp_path.glob("tiles/*.lock")) == []
            return False

    monkeypatch.setattr(choice, "_wait_until_idle", WAIT_UNTIL_IDLE)
    monkeypatch.setattr(choice, "_IDLE_PATIENCE", 0.01)
    monkeypatch.setattr(torch.cuda, "Event", Busy)
    assert taken() == ENTRY
    assert machine.races == []
    assert "of work before the call" in warnings()[0]


def test_the_log_says_what_was_raced_and_chosen(machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=choice.__name__)
    taken()
    first, *rows = (record.getMessage() for record in caplog.records)
    assert first.startswith("forward, head_dim 64, on NVIDIA Something (TM): raced 2 of 6 in ")
    assert first.endswith(f"took {FASTER}")
    assert rows[0].startswith(f"  {FASTER}")
    assert "1.0000 ms, 1.0000 to 1.0000 in 11 rounds, taken" in rows[0]
    assert rows[1].endswith("the table's")


def test_threads_that_start_together_race_once(machine: Machine) -> None:
    barrier = threading.Barrier(4)

    def call() -> Configuration:
        barrier.wait()
        return taken()

    with ThreadPoolExecutor(4) as pool:
        found = [future.result() for future in [pool.submit(call) for _ in range(4)]]
    assert found == [FASTER] * 4
    assert len(machine.races) == 1


# Both would find another winner: whoever races second, or does not wait, takes other tiles.
_PROCESS = """
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
import torch
from fa2verify.kernels.triton import choice
from fa2verify.kernels.triton.configuration import compiled_configuration
from fa2verify.kernels.triton.race import Result

folder, which = Path(sys.argv[1]), int(sys.argv[2])

def result(name, block_d, entrants, device, deadline):
    (folder / f"raced-{which}").touch()
    time.sleep(0.5)
    return Result({entrants[0]: [2.0] * 11, entrants[which]: [1.0] * 11}, {})

choice._gpu = lambda device: choice.Gpu("made up", (8, 6), 99, False)
choice.table_entry = lambda name, block_d, device: compiled_configuration(name, block_d, 99)
choice._must_not_race = lambda device: False
choice._wait_until_idle = lambda device: None
choice._result = result
(folder / f"ready-{which}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.005)
print(choice.configuration("forward", 64, torch.device("cuda", 0)))
"""


def test_processes_that_start_together_take_the_same_winner(tmp_path: Path) -> None:
    environment = os.environ | {"FA2VERIFY_CACHE": str(tmp_path)}
    environment.pop(choice.VARIABLE, None)
    both = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", _PROCESS, str(tmp_path), str(which)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for which in (1, 2)
    ]
    first, second = (process.communicate(timeout=120)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert first == second
    (raced,) = tmp_path.glob("raced-*")
    assert first.strip() == str((FASTER, FASTEST)[int(raced.name[-1]) - 1]).strip()
