"""A kernel that takes its process down has a verdict, and this process goes on."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fa2verify.kernels.problem import Dense, Problem
from fa2verify.kernels.registry import select
from fa2verify.reports.record import Record
from fa2verify.verify.run.quarantine import Quarantine
from fa2verify.verify.trial.isolation import Isolation

CALL = Problem(lengths=Dense(seqlen_q=3, seqlen_k=4), head_dim=8, direction="forward_backward")

KERNELS = """
import ctypes, os, signal, sys, threading, time, torch

def right(q, k, v):
    scores = torch.einsum("bihd,bjhd->bhij", q, k).float() * q.shape[-1] ** -0.5
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1).to(q.dtype), v)

def wrong(q, k, v):
    return 2 * right(q, k, v)

def raises(q, k, v):
    raise ValueError("not today")

def segfaults(q, k, v):
    ctypes.string_at(0)

def leaves(q, k, v):
    os._exit(3)

def exits(q, k, v):
    sys.exit(0)

def aborts(q, k, v):
    os.abort()

def unnamed_signal(q, k, v):
    os.kill(os.getpid(), signal.SIGRTMIN + 1)

def hangs(q, k, v):
    while True:
        pass

def hangs_with_the_lock(q, k, v):
    ctypes.PyDLL(None).sleep(60)

def leaves_a_thread(q, k, v):
    threading.Thread(target=time.sleep, args=(60,)).start()
    return right(q, k, v)

def writes_to_stdout(q, k, v):
    os.write(1, b"noise")
    return right(q, k, v)
"""


@pytest.fixture
def isolated(tmp_path: Path) -> Callable[..., Record]:
    module = tmp_path / "foreign.py"
    module.write_text(KERNELS)

    def isolated(function: str, timeout: float = 60.0, problem: Problem = CALL) -> Record:
        spec = f"{module}:{function}"
        kernel = select([spec])[0].kernel
        return Isolation((spec,), "cpu", "fp64", timeout).attempt(kernel, problem, "a test")

    return isolated


Isolated = Callable[..., Record]


def test_an_ordinary_verdict_is_as_in_this_process(isolated: Isolated) -> None:
    record = isolated("right")
    assert record.verdict == "passed", record.message
    assert [error.output for error in record.errors] == ["out", "dq", "dk", "dv"]
    assert record.decoys["no D term"] == "caught"
    assert (record.test, record.problem) == ("a test", CALL.to_dict())
    assert isolated("wrong").rule == "R1 out"
    raised = isolated("raises")
    assert (raised.verdict, raised.rule) == ("crashed", "raised ValueError")
    assert raised.message.startswith("ValueError: not today (foreign.py:")
    assert isolated("right", problem=Problem(softcap=1.0)).verdict == "unsupported"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("segfaults", "the process died of signal 11 (SIGSEGV) during the call"),
        ("aborts", "the process died of signal 6 (SIGABRT) during the call"),
        ("unnamed_signal", "the process died of signal 35 during the call"),
        ("leaves", "the process left with status 3 during the call"),
    ],
)
def test_a_process_that_dies(isolated: Isolated, function: str, message: str) -> None:
    record = isolated(function)
    assert (record.verdict, record.rule, record.message) == ("crashed", "process died", message)
    assert (record.test, record.problem, record.features[0]) == ("a test", CALL.to_dict(), "float16")


def test_sys_exit_is_an_exception_like_any_other(isolated: Isolated) -> None:
    record = isolated("exits")
    assert (record.verdict, record.rule) == ("crashed", "raised SystemExit")


@pytest.mark.parametrize("function", ["hangs", "hangs_with_the_lock"])
def test_a_hang(isolated: Isolated, function: str) -> None:
    started = time.monotonic()
    record = isolated(function, timeout=1.0)
    assert (record.verdict, record.rule) == ("timed_out", "timeout")
    assert record.message == "no answer after 1 s; the process was ended"
    assert time.monotonic() - started < 30


def test_a_thread_that_never_ends_keeps_nobody(isolated: Isolated) -> None:
    """The verdict is there; the process that reached it is not waited for."""
    started = time.monotonic()
    assert isolated("leaves_a_thread").verdict == "passed"
    assert time.monotonic() - started < 30


def test_what_a_kernel_prints_is_not_the_verdict(isolated: Isolated) -> None:
    assert isolated("writes_to_stdout").verdict == "passed"


def test_only_the_call_is_timed(tmp_path: Path) -> None:
    """A module that takes long to import is not a kernel that hangs."""
    module = tmp_path / "slow.py"
    slow = "import time\nfrom pathlib import Path\nif Path(__file__).with_name('slow').exists():\n    time.sleep(3)\n"
    module.write_text(slow + KERNELS)
    spec = f"{module}:right"
    kernel = select([spec])[0].kernel
    (tmp_path / "slow").touch()
    started = time.monotonic()
    record = Isolation((spec,), "cpu", "fp64", 2.0).attempt(kernel, CALL)
    assert time.monotonic() - started > 3
    assert record.verdict == "passed", record.message


def test_quarantine_is_known_to_every_process_and_kernel_names_may_be_anything(tmp_path: Path) -> None:
    one, other = Quarantine(tmp_path), Quarantine(tmp_path)
    name = "../..//ker nel:π\n" + "x" * 300
    assert name not in one
    one.add(name)
    one.add(name)
    assert name in other
    assert "another" not in other
    other.clear()
    assert name not in one
    assert list(tmp_path.iterdir()) == []


def test_what_children_are_forked_from_has_not_asked_for_cuda() -> None:
    """torch.cuda.is_available() starts CUDA, and no process that is forked later can: every child would die."""
    program = """
import torch
def started(*_):
    raise AssertionError("CUDA is started")
torch.cuda.is_available = torch.cuda.init = started
import fa2verify.verify.trial.isolation, sys
assert "fa2verify.kernels.registry" in sys.modules
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
