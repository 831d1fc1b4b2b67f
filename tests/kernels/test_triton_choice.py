"""Which tiles a call takes, on a GPU and by a race that are made up: ties, the knob, what forbids a race."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import pytest
import torch

# isort: on
from made_up_gpu import DEVICE, ENTRY, FAST, FASTER, FASTEST, SLOW, UNKNOWN, Machine, taken

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401
from fa2verify.kernels.triton import choice
from fa2verify.kernels.triton.candidates import neighbours
from fa2verify.kernels.triton.choice import Gpu, configuration, winner, wins
from fa2verify.kernels.triton.configuration import Configuration, Pass, compiled_configuration
from fa2verify.kernels.triton.launch import compile_only

KNOWN = Gpu("NVIDIA H200", (9, 0), 227, tma=True)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return Machine(monkeypatch, tmp_path)


def test_equals_pass_as_seldom_as_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = 5
    monkeypatch.setattr(choice, "_ROUNDS", rounds)
    orders = list(combinations(range(2 * rounds), rounds))
    passed = sum(
        wins([float(place) for place in places], [float(place) for place in range(10) if place not in places])
        for places in orders
    )
    assert (passed, len(orders)) == (rounds**2 + 1, comb(2 * rounds, rounds))


def test_one_spoiled_round_each_decides_nothing() -> None:
    assert wins([1.0] * 10 + [9.0], [0.5] + [2.0] * 10)
    assert not wins([1.0] * 9 + [9.0] * 2, SLOW)
    assert not wins(FAST, [0.5] * 2 + [2.0] * 9)
    assert not wins(FAST, FAST)
    assert not wins(FAST[1:], SLOW)
    assert not wins(FAST, SLOW[1:])


def test_the_tables_entry_wins_a_tie_and_the_fastest_wins_otherwise() -> None:
    noisy = [0.99, 1.03] + [1.01] * 9
    assert winner(ENTRY, {ENTRY: FAST, FASTER: noisy}) == ENTRY
    assert winner(ENTRY, {ENTRY: SLOW, FASTER: noisy, FASTEST: FAST}) == FASTEST
    assert winner(ENTRY, {ENTRY: SLOW, FASTER: noisy, FASTEST: [0.1] * 2}) == FASTER
    assert winner(ENTRY, {FASTER: noisy, FASTEST: FAST}) == FASTEST


def test_the_cpu_takes_the_interpreters_and_asks_nobody(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setenv(choice.VARIABLE, "nonsense")
    assert configuration("forward", 64, torch.device("cpu")) == Configuration(64, 32, 1, 1, descriptors=True)


@pytest.mark.parametrize(
    ("gpu", "asked", "raced"),
    [
        (UNKNOWN, "", True),
        (UNKNOWN, "race", True),
        (UNKNOWN, "table", False),
        (KNOWN, "", False),
        (KNOWN, "table", False),
        (KNOWN, "race", True),
        (replace(KNOWN, capability=(10, 0)), "", True),
        (replace(KNOWN, shared_memory=163), "", True),
    ],
)
def test_unknown_gpus_race_unless_the_knob_says_otherwise(
    gpu: Gpu, asked: str, raced: bool, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.gpu = gpu
    monkeypatch.setenv(choice.VARIABLE, asked)
    entry, other = neighbours("forward", 64, gpu.shared_memory, tma=gpu.tma)[:2]
    machine.samples = {entry: SLOW, other: FAST}
    assert [taken(), taken()] == [other if raced else entry] * 2
    assert machine.races == [("forward", 64)] * raced


def test_the_knob_overrules_what_is_remembered(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    assert taken() == FASTER
    machine.later_process()
    monkeypatch.setenv(choice.VARIABLE, "table")
    assert taken() == ENTRY


def test_a_wrong_value_of_the_knob_is_named(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(choice.VARIABLE, "tabel")
    with pytest.raises(ValueError, match=r"FA2VERIFY_TILES is 'tabel'; it may be 'table' .* 'race' .* or unset"):
        taken()


def test_a_configuration_says_itself_in_a_line() -> None:
    assert str(Configuration(64, 128, 4, 1)) == " 64 x 128, 4 warps, 1 stage"
    assert str(Configuration(64, 128, 8, 2, descriptors=True)) == " 64 x 128, 8 warps, 2 stages, TMA"
    moving = Configuration(64, 128, 8, 2, descriptors=True, resting=False)
    assert str(moving) == " 64 x 128, 8 warps, 2 stages, TMA for what moves"


@pytest.mark.parametrize("name", ["preprocess", "probabilities"])
def test_passes_whose_tiles_hardly_matter_never_race(name: Pass, machine: Machine) -> None:
    assert configuration(name, 64, DEVICE) == compiled_configuration(name, 64, 99)
    assert machine.races == []


def _capturing(device: object) -> Callable[[pytest.MonkeyPatch], AbstractContextManager[Any]]:
    """A graph is captured on `device`, or, if that is None, on another one, which is current."""

    def begin(monkeypatch: pytest.MonkeyPatch) -> AbstractContextManager[Any]:
        inside = [device is None]

        class Guard:
            def __init__(self, entered: torch.device) -> None:
                self.entered = entered

            def __enter__(self) -> None:
                inside[0] = self.entered == device

            def __exit__(self, *_: object) -> None:
                inside[0] = device is None

        monkeypatch.setattr(torch.cuda, "device", Guard)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: inside[0])
        return nullcontext()

    return begin


def _interpreting(monkeypatch: pytest.MonkeyPatch) -> AbstractContextManager[Any]:
    monkeypatch.setattr(choice, "interpreting", lambda: True)
    return nullcontext()


@pytest.mark.parametrize(
    "begin", [_capturing(None), _capturing(DEVICE), _interpreting, lambda monkeypatch: compile_only()]
)
def test_where_nothing_may_race_the_table_serves_and_nothing_is_remembered(
    begin: Callable[[pytest.MonkeyPatch], AbstractContextManager[Any]], machine: Machine, tmp_path: Path
) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch, begin(monkeypatch):
        assert taken() == ENTRY
    assert machine.races == []
    assert list(tmp_path.glob("tiles/*")) == []
    assert taken() == FASTER  # the next call that may
    machine.later_process()
    with pytest.MonkeyPatch.context() as monkeypatch, begin(monkeypatch):
        assert taken() == FASTER
    assert len(machine.races) == 1
