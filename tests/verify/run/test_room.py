"""Room on a GPU: one large problem at a time, when there is enough, and a sentence when there is not."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from filelock import FileLock, Timeout

from fa2verify.verify.run import room as module
from fa2verify.verify.run.room import Crowded, clear, room, wait_for_room

GIB = 2**30
CUDA = torch.device("cuda")


class Device:
    """A GPU as torch tells of it, whose neighbours give back some memory each time that one looks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, total: int, free: list[int], kept: int = 0) -> None:
        self.total, self.free, self.emptied, self.clock = total, free, 0, 0.0
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: kept * GIB)
        monkeypatch.setattr(torch.cuda, "mem_get_info", self._mem_get_info)
        monkeypatch.setattr(torch.cuda, "empty_cache", self._empty_cache)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="a-b"))
        monkeypatch.setattr(module.time, "monotonic", lambda: self.clock)
        monkeypatch.setattr(module.time, "sleep", self._sleep)

    def _mem_get_info(self, device: torch.device) -> tuple[int, int]:
        now = self.free.pop(0) if len(self.free) > 1 else self.free[0]
        return now * GIB, self.total * GIB

    def _empty_cache(self) -> None:
        self.emptied += 1

    def _sleep(self, seconds: float) -> None:
        self.clock += seconds


def test_there_is_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, total=139, free=[100])
    with room(tmp_path, CUDA, 50 * GIB) as wanting:
        assert wanting == ()
        assert device.emptied == 1, "what this worker keeps is no room"
    assert device.emptied == 2, "nor is it for others"
    assert device.clock == 0


def test_nobody_else_has_it_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Device(monkeypatch, total=139, free=[100])
    with room(tmp_path, CUDA, 50 * GIB):
        (lock,) = tmp_path.iterdir()
        with pytest.raises(Timeout):
            FileLock(lock, timeout=0, is_singleton=False).acquire()
    with FileLock(lock, timeout=0, is_singleton=False):
        pass
    clear(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_it_waits_for_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, total=139, free=[10, 20, 60])
    with room(tmp_path, CUDA, 50 * GIB) as wanting:
        assert wanting == ()
    assert 0 < device.clock < module._PATIENCE


def test_others_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, total=139, free=[10])
    with room(tmp_path, CUDA, 50 * GIB) as wanting:
        pass
    assert wanting == (
        "It takes 50 GiB of GPU memory at once, and 10 of 139 were free for 10 s: others hold the rest. Fewer workers "
        "(-n) leave more.",
    )
    assert device.clock == module._PATIENCE


def test_the_device_is_too_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, total=40, free=[39])
    with room(tmp_path, CUDA, 50 * GIB) as wanting:
        pass
    assert wanting == ("It takes 50 GiB of GPU memory at once, and this GPU has 40.",)
    assert device.clock == 0, "it never will"


def test_a_cpu_has_no_such_limit(tmp_path: Path) -> None:
    with room(tmp_path, torch.device("cpu"), 2**60) as wanting:
        assert wanting == ()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("total", "free"), [(139, 8), (24, 2)])
def test_drawn_problems_do_not_wait_where_there_is_room(monkeypatch: pytest.MonkeyPatch, total: int, free: int) -> None:
    device = Device(monkeypatch, total=total, free=[free])
    wait_for_room(CUDA)
    assert (device.clock, device.emptied) == (0, 0)


def test_drawn_problems_wait_for_room_and_give_theirs_back(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, total=139, free=[7, 7, 8])
    wait_for_room(CUDA)
    assert device.clock > 0
    assert device.emptied == 1


def test_a_device_that_stays_full_is_no_kernel_s_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, total=139, free=[7])
    with pytest.raises(Crowded) as full:
        wait_for_room(CUDA)
    assert str(full.value) == (
        "nothing was tried: problems are begun only where 8.0 GiB of a GPU's 139.0 are free, and 7.0 were for 60 s. "
        "Others hold the rest; fewer workers (-n) hold less"
    )
    assert device.clock == module._LONG_PATIENCE


@pytest.mark.parametrize(("kept", "emptied"), [(2, 0), (3, 1)])
def test_nobody_keeps_much(monkeypatch: pytest.MonkeyPatch, kept: int, emptied: int) -> None:
    device = Device(monkeypatch, total=139, free=[100], kept=kept)
    wait_for_room(CUDA)
    assert device.emptied == emptied


def test_a_cpu_is_never_full() -> None:
    wait_for_room(torch.device("cpu"))
