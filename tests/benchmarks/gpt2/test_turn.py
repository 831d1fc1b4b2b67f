"""The turn on a GPU: held for all that a training does, but not while it is compiled."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch._dynamo.callback import CallbackTrigger, callback_handler

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401

# isort: on
from fa2verify.benchmarks.gpt2.attention import CHOICES, Choice
from fa2verify.benchmarks.gpt2.training import Setting, Trainer, train
from fa2verify.benchmarks.gpt2.turn import Turn, member

CPU = torch.device("cpu")
TINY = Setting(model="tiny", context=16, steps=3, dtype="bfloat16", device=CPU)
COMPILED = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning", "ignore:dynamo_pgo force disabled:UserWarning"
)
Seen = list[tuple[str, bool]]


@pytest.fixture
def lock(tmp_path: Path) -> str:
    return str(tmp_path / "turn")


def held(path: str) -> bool:
    try:
        with FileLock(path, timeout=0, is_singleton=False):
            return False
    except Timeout:
        return True


@pytest.fixture
def seen(lock: str, monkeypatch: pytest.MonkeyPatch) -> Seen:
    """Whether the turn is held: in each compilation, in what it made, and before each step."""
    found: Seen = []
    compile_whole, step = torch.compile, Trainer.step

    def backend(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        found.append(("compiling", held(lock)))

        def compiled(*arguments: Any) -> Any:
            found.append(("running", held(lock)))
            return module(*arguments)

        return compiled

    def watched(self: Trainer, tokens: Tensor) -> Tensor:
        found.append(("step", held(lock)))
        return step(self, tokens)

    monkeypatch.setattr(torch, "compile", lambda model: compile_whole(model, backend=backend))
    monkeypatch.setattr(Trainer, "step", watched)
    return found


@COMPILED
def test_the_turn_is_held_but_for_compiling(lock: str, seen: Seen) -> None:
    with Turn(lock, CPU) as turn:
        for _ in range(2):  # the second after dynamo forgot the first, and who listened to it
            record = train(TINY, "standard", "compiled", 2, "given", float("inf"), turn)
            assert (record.outcome, record.graphs) == ("measured", 1), record.message
    once = [("step", True), ("compiling", False), ("running", True), *[("step", True), ("running", True)] * 2]
    assert seen == once * 2
    assert not held(lock)


@COMPILED
def test_forward_and_backward_are_compiled_before_anything_runs(lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compile_whole = torch.compile
    found: list[str] = []
    monkeypatch.setattr(torch, "compile", lambda model: compile_whole(model, backend="aot_eager"))
    with Turn(lock, CPU) as turn:
        give, take = turn._give, turn._take
        monkeypatch.setattr(turn, "_give", lambda: (found.append("given"), give()))
        monkeypatch.setattr(turn, "_take", lambda: (found.append("taken"), take()))
        assert train(TINY, "standard", "compiled", 2, "given", float("inf"), turn).outcome == "measured"
        assert found == ["given", "taken"]


def test_a_device_that_fails_does_not_keep_the_turn(lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: torch.device) -> None:
        raise RuntimeError("it is gone")

    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    with pytest.raises(RuntimeError, match="it is gone"), Turn(lock, torch.device("cuda")):
        assert held(lock)
    assert not held(lock)


@COMPILED
def test_a_compilation_that_fails_ends_in_the_turn(lock: str, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return q @ k

    monkeypatch.setitem(CHOICES, "mine", Choice(lambda context, device: broken))
    with Turn(lock, CPU) as turn:
        record = train(TINY, "mine", "compiled", 2, "given", float("inf"), turn)
        assert record.outcome == "failed"
        assert held(lock)
    assert not held(lock)


@COMPILED
def test_waiting_is_no_part_of_compiling(lock: str, seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the first step, an hour of waiting for the turn after its compilation."""
    with Turn(lock, CPU) as turn:
        take = turn._take

        def take_long() -> None:
            take()
            turn.waited += 3600

        monkeypatch.setattr(turn, "_take", take_long)
        record = train(TINY, "standard", "compiled", 2, "given", float("inf"), turn)
    assert turn.waited >= 3600
    assert -3600 < record.compile_s < -3500


def test_the_wait_for_others_is_counted(lock: str) -> None:
    taken = threading.Event()

    def other() -> None:
        with FileLock(lock, is_singleton=False):
            taken.set()
            time.sleep(0.5)

    thread = threading.Thread(target=other)
    thread.start()
    taken.wait()
    begin = time.monotonic()
    with Turn(lock, CPU) as turn:
        whole = time.monotonic() - begin
    thread.join()
    assert 0 < turn.waited <= whole


def test_a_compiler_may_work_in_another_thread(lock: str) -> None:
    """As it does for a backward, in autograd's thread for the GPU."""
    found: list[bool] = []

    def backward() -> None:
        with callback_handler.install_callbacks(CallbackTrigger.LAZY_BACKWARD, "0/0"):
            found.append(held(lock))
        found.append(held(lock))

    for _ in range(2):
        with Turn(lock, CPU) as turn, turn.left_to_compile():
            thread = threading.Thread(target=backward)
            thread.start()
            thread.join()
            found.append(held(lock))
        found.append(held(lock))
    assert found == [False, True, True, False] * 2


COUNTS = """
import os, sys, time
if not os.fork():
    while True:  # a compiler's worker
        with open(sys.argv[1], "a") as file:
            file.write("x")
        time.sleep(0.01)
time.sleep(600)
"""


def test_others_stand_still_while_it_is_quiet(lock: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.touch()
    process = subprocess.Popen([sys.executable, "-c", COUNTS, str(log)], start_new_session=True)

    def grows() -> bool:
        before = log.stat().st_size
        time.sleep(0.3)
        return log.stat().st_size > before

    try:
        deadline = time.monotonic() + 60
        while not log.stat().st_size and time.monotonic() < deadline:
            time.sleep(0.01)
        gone = subprocess.Popen(["true"], start_new_session=True)
        gone.wait()
        for pid in (process.pid, gone.pid, os.getpid()):
            member(lock, pid).touch()
        with Turn(lock, CPU) as turn:
            assert grows()
            with turn.quiet():
                assert not grows()
            assert grows()
            with pytest.raises(KeyError), turn.quiet():
                raise KeyError
            assert grows()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_it_is_quiet_for_the_steps_that_count_and_two_more(lock: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[str] = []
    step = Trainer.step

    @contextmanager
    def quiet() -> Iterator[None]:
        found.append("quiet")
        yield
        found.append("loud")

    def watched(trainer: Trainer, tokens: Tensor) -> Tensor:
        found.append("step")
        return step(trainer, tokens)

    monkeypatch.setattr(Trainer, "step", watched)
    for steps, loud, counted in ((60, 33, 25), (12, 4, 6), (3, 1, 1)):
        found.clear()
        with Turn(lock, CPU) as turn:
            monkeypatch.setattr(turn, "quiet", quiet)
            record = train(replace(TINY, steps=steps), "standard", "eager", 1, "given", float("inf"), turn)
        assert record.counted == counted
        assert found == [*["step"] * loud, "quiet", *["step"] * (steps - loud), "loud"]


def test_without_others_no_lock_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Turn("", CPU) as turn, turn.left_to_compile(), turn.quiet():
        assert turn.waited == 0
    assert not list(tmp_path.iterdir())
