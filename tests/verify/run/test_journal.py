"""A note outlives the process that wrote it, and tells how that process ended."""

import faulthandler
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fa2verify.reports.record import Record
from fa2verify.verify.run.journal import Journal

NOTE = Record(
    kernel="k",
    problem={"head_dim": 8},
    features=("float16",),
    verdict="crashed",
    rule="process died",
    message="the process died during the call",
    test="a test",
)

# A process that dies in a guarded call: without torch, so that it starts at once.
SCRIPT = """
import ctypes, os, re, sys, time
from pathlib import Path
from fa2verify.reports.record import from_json
from fa2verify.verify.run.journal import Journal

def lock_held():
    ctypes.PyDLL(None).sleep(60)  # PyDLL keeps the interpreter's lock

def backtrack():
    re.match("(a*)*(a*)*(a*)*b", "a" * 40)

def busy():
    while True:
        pass

deaths = dict(
    segfault=lambda: ctypes.string_at(0),
    leaves=lambda: os._exit(3),
    killed=lambda: os.kill(os.getpid(), 9),
    sleeps=lambda: time.sleep(60),
    busy=busy,
    lock_held=lock_held,
    backtrack=backtrack,
)
with Journal(Path(sys.argv[1]), "gw0").call(from_json(sys.argv[3]), timeout=float(sys.argv[4])):
    deaths[sys.argv[2]]()
"""


@pytest.fixture
def dies(tmp_path: Path) -> Callable[..., int]:
    from fa2verify.reports.record import to_json

    def dies(how: str, timeout: float = 60.0) -> int:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), how, to_json(NOTE), str(timeout)]
        return subprocess.run(command, timeout=30, capture_output=True).returncode

    return dies


Dies = Callable[..., int]


def test_nothing_is_left_of_a_call_that_returned(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "gw0")
    with journal.call(NOTE, timeout=60):
        assert len(list(tmp_path.glob(".running-gw0.*"))) == 2
    assert list(tmp_path.iterdir()) == []
    assert journal.last_words(60) is None


@pytest.mark.parametrize(("how", "status"), [("segfault", -11), ("leaves", 3), ("killed", -9)])
def test_the_note_of_a_process_that_died(tmp_path: Path, dies: Dies, how: str, status: int) -> None:
    assert dies(how) == status
    journal = Journal(tmp_path, "gw0")
    assert journal.last_words(60) == NOTE
    assert journal.last_words(60) is None, "read once"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ["sleeps", "busy", "lock_held", "backtrack"])
def test_a_call_that_takes_too_long(tmp_path: Path, dies: Dies, how: str) -> None:
    """Also one that never gives the interpreter's lock back."""
    assert dies(how, timeout=0.5) == 1
    record = Journal(tmp_path, "gw0").last_words(0.5)
    assert record is not None
    assert (record.verdict, record.rule) == ("timed_out", "timeout")
    assert record.message == "no answer after 0.5 s; the process was ended"
    assert (record.kernel, record.problem, record.test) == (NOTE.kernel, NOTE.problem, NOTE.test)
    assert list(tmp_path.iterdir()) == []


def test_no_alarm_is_left_when_a_call_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The note stays for the process that must leave because of it; the alarm must not ring in what comes after."""
    cancelled: list[bool] = []
    monkeypatch.setattr(faulthandler, "cancel_dump_traceback_later", lambda: cancelled.append(True))
    journal = Journal(tmp_path, "main")

    def fail() -> None:
        with journal.call(NOTE, timeout=60):
            raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        fail()
    assert cancelled == [True]
    monkeypatch.undo()
    faulthandler.cancel_dump_traceback_later()
    journal.amend("the CUDA context is lost")
    record = journal.last_words(60)
    assert record is not None
    assert (record.verdict, record.message) == ("crashed", "the CUDA context is lost")


def test_workers_have_notes_of_their_own(tmp_path: Path) -> None:
    one, other = Journal(tmp_path, "gw0"), Journal(tmp_path, "gw1")
    with one.call(NOTE, timeout=60):
        assert other.last_words(60) is None
        with other.call(NOTE, timeout=60):
            pass
        assert one.last_words(60) == NOTE
        with one.call(NOTE, timeout=60):
            pass
        # `last_words` took the outer call's files: put something back for it to remove.
        for name in (".running-gw0.json", ".running-gw0.trace"):
            (tmp_path / name).touch()


def test_forget(tmp_path: Path, dies: Dies) -> None:
    assert dies("leaves") == 3
    journal = Journal(tmp_path, "gw0")
    journal.forget()
    assert journal.last_words(60) is None
    journal.forget()


def test_half_a_note_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process killed while it writes the note has not called the kernel yet."""
    write_text = Path.write_text

    def interrupted(path: Path, text: str) -> None:
        write_text(path, text[:24])
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", interrupted)
    journal = Journal(tmp_path, "gw0")
    with pytest.raises(KeyboardInterrupt), journal.call(NOTE, timeout=60):
        pass
    assert journal.last_words(60) is None
    assert list(tmp_path.iterdir()) == []
