"""Races between configurations without a GPU: who takes part, who is timed to the end, what is compiled in time."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import product

import pytest
import torch

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401

# isort: on
from fa2verify.kernels.triton import choice, race
from fa2verify.kernels.triton.candidates import MOST, RACED, fits, neighbours
from fa2verify.kernels.triton.configuration import (
    BLOCK_DS,
    SHARED_MEMORY,
    Configuration,
    Pass,
    compiled_configuration,
)
from fa2verify.kernels.triton.launch import compiling_only
from fa2verify.kernels.triton.mode import interpreting

# KB that a block may have, and whether there are tensor descriptors: the table's levels, and compute capability 12.0.
GPUS = [*((level, level == 227) for level in SHARED_MEMORY), (99, True)]


@pytest.mark.parametrize(("name", "block_d", "gpu"), list(product(RACED, BLOCK_DS, GPUS)))
def test_few_take_part_and_they_fit(name: Pass, block_d: int, gpu: tuple[int, bool]) -> None:
    shared_memory, tma = gpu
    entry, *others = entrants = neighbours(name, block_d, shared_memory, tma=tma)
    assert entry == compiled_configuration(name, block_d, shared_memory)
    assert 2 <= len(entrants) <= MOST
    assert len(set(entrants)) == len(entrants)
    for config in others:
        assert fits(name, block_d, config, shared_memory), config
        assert tma or config.descriptors == entry.descriptors, config
        if config.descriptors:
            # What descriptors cannot serve was not raced: it keeps the table's tile.
            kept = entry.served(by_descriptors=False)
            served = config.served(by_descriptors=False)
            assert (served.block_m, served.block_n, served.num_warps) == (kept.block_m, kept.block_n, kept.num_warps)


def test_a_tile_that_leaves_no_room_for_every_feature_takes_no_part() -> None:
    # 96 KB in its plain form, by the compiler: nothing is left for scores that change their layout.
    crowded = Configuration(64, 128, 4, 2)
    assert fits("forward", 128, crowded, 99)
    assert crowded not in neighbours("forward", 128, 99, tma=False)
    # 289 KB, where two stages are two of K and two of V.
    entry, *others = neighbours("forward", 256, 227, tma=True)
    assert entry.num_stages == 1
    assert all(config.num_stages == 1 for config in others)


def test_an_entrant_far_behind_leaves_and_the_reference_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    milliseconds = {"reference": 9.0, "good": 1.0, "near": 1.2, "far": 1.3}
    result = _race(monkeypatch, milliseconds, rounds=5, deadline=math.inf)
    assert {name: len(times) for name, times in result.samples.items()} == {
        "reference": 5,
        "good": 5,
        "near": 5,
        "far": 2,
    }


def test_nobody_is_far_behind_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _race(monkeypatch, {"reference": 1.0, "slow": 9.0}, rounds=4, deadline=math.inf)
    assert [len(times) for times in result.samples.values()] == [4, 4]


def test_a_race_ends_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _race(monkeypatch, {"reference": 1.0, "other": 1.0}, rounds=11, deadline=time.monotonic() - 1)
    assert [len(times) for times in result.samples.values()] == [3, 3]


@pytest.mark.parametrize("error", [RuntimeError, AssertionError, KeyError])
def test_what_cannot_run_says_why_and_a_lost_context_is_no_result(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(error: type[Exception]) -> Callable[[], None]:
        def launch() -> None:
            raise error("no\nroom")

        return launch

    monkeypatch.setattr(race, "synchronise", lambda: None)
    monkeypatch.setattr(race, "timed", lambda launch, repeats: 1.0)
    result = race.race({"reference": lambda: None, "other": refuse(error)}, "reference", 2, math.inf)
    assert result.failures["other"].startswith(f"{error.__name__}: ")
    assert set(result.samples) == {"reference"}
    with pytest.raises(torch.AcceleratorError):
        race.race({"other": refuse(torch.AcceleratorError)}, "other", 2, math.inf)


@pytest.mark.parametrize(("deadline", "compiled"), [(math.inf, 5), (-math.inf, 2)])
def test_what_would_compile_too_late_is_left_out(
    deadline: float, compiled: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    launched: list[bool] = []
    assert race.compile_all([lambda: launched.append(compiling_only())] * 5, deadline) == compiled
    assert launched == [True] * compiled


@pytest.mark.skipif(not interpreting(), reason="on a GPU the first call itself is the test")
def test_the_backwards_statistics_are_the_forwards() -> None:
    shape = race.Shape(head_dim=16, causal=True, seqlen=32, tokens=64, hidden=32)
    tensors = race.Tensors(shape, torch.device("cpu"))
    assert torch.equal(tensors.out[:, 0], tensors.v[:, 0])  # the first query sees one key
    assert tensors.q.shape == (2, 32, 2, 16)
    assert torch.isfinite(tensors.lse_log2).all()
    assert torch.isfinite(tensors.delta).all()


@pytest.mark.skipif(not interpreting(), reason="on a GPU the first call itself is the test")
@pytest.mark.parametrize("name", RACED)
def test_a_first_call_races_its_own_pass_on_the_fixed_shape(name: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    for constant in ("_SEQLEN", "_TOKENS", "_HIDDEN"):
        monkeypatch.setattr(choice, constant, 32)
    compiled: list[int] = []
    monkeypatch.setattr(choice, "compile_all", lambda launches, deadline: compiled.append(len(launches)) or 2)
    monkeypatch.setattr(race, "synchronise", lambda: None)
    monkeypatch.setattr(race, "timed", lambda launch, repeats: nullcontext(launch()) and 1.0)
    entrants = (Configuration(32, 16, 1, 1), Configuration(16, 32, 1, 1), Configuration(16, 16, 1, 1))
    state = torch.get_rng_state()
    # Compiling may take all of its time: the rounds have their own.
    result = choice._timed(name, 16, entrants, torch.device("cpu"), -math.inf)
    assert compiled == [3]
    # The third was not compiled in time.
    assert {config: len(times) for config, times in result.samples.items()} == dict.fromkeys(entrants[:2], 11)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("backend", ["native", "cudaMallocAsync"])
def test_a_first_calls_race_is_apart_and_leaves_no_memory(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Memory:
        def __del__(self) -> None:
            seen.append("pool gone")

    @contextmanager
    def within(what: str) -> Iterator[None]:
        seen.append(f"in {what}")
        yield
        seen.append(f"out of {what}")

    def timed(*_: object) -> race.Result[Configuration]:
        seen.append("raced")
        return race.Result({}, {})

    monkeypatch.setattr(torch.cuda, "set_device", lambda device: seen.append(f"on {device}"))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(torch.cuda, "MemPool", Memory)
    monkeypatch.setattr(torch.cuda, "use_mem_pool", lambda pool, device: within(f"pool of {device}"))
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: backend)
    monkeypatch.setattr(choice, "_timed", timed)
    choice._result("forward", 64, (), torch.device("cuda", 1), math.inf)
    pools = [entry for entry in seen if "pool" in entry]
    assert pools == (["in pool of cuda:1", "out of pool of cuda:1", "pool gone"] if backend == "native" else [])
    rest = [entry for entry in seen if "pool" not in entry]
    assert rest == ["on cuda:1", "in stream of cuda:1", "raced", "out of stream of cuda:1"]


def _race(
    monkeypatch: pytest.MonkeyPatch, milliseconds: dict[str, float], rounds: int, deadline: float
) -> race.Result[str]:
    """A race of entrants that take what `milliseconds` says."""
    running: list[str] = []
    monkeypatch.setattr(race, "synchronise", lambda: None)
    entrants = {name: lambda name=name: running.append(name) for name in milliseconds}

    def timed(launch: race.Launch, repeats: int) -> float:
        launch()
        return milliseconds[running[-1]]

    monkeypatch.setattr(race, "timed", timed)
    return race.race(entrants, "reference", rounds, deadline)
