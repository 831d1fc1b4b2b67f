"""Workers are spread over the caller's devices, by the names that the caller gave them."""

import os

import pytest
import torch

from fa2verify.verify.suite import devices


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("0,1,2", ("0", "1", "2")),
        ("3", ("3",)),
        (" 2 , 0 ", ("2", "0")),
        ("GPU-8f6a,MIG-1/2/3", ("GPU-8f6a", "MIG-1/2/3")),
        ("", ()),
        (",", ()),
    ],
)
def test_what_the_caller_made_visible(
    monkeypatch: pytest.MonkeyPatch, variable: str, expected: tuple[str, ...]
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    assert devices.visible_devices() == expected


@pytest.mark.parametrize("count", [0, 1, 4])
def test_without_the_variable_every_device_is(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    assert devices.visible_devices() == tuple(map(str, range(count)))


def test_workers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "unset")
    seen = []
    for worker in range(5):
        devices.pin(worker, ("7", "GPU-8f6a"))
        seen.append(os.environ["CUDA_VISIBLE_DEVICES"])
    assert seen == ["7", "GPU-8f6a", "7", "GPU-8f6a", "7"]


def test_nothing_to_pin_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty variable would hide the devices from a kernel that looks for them later."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    devices.pin(3, ())
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


@pytest.mark.parametrize(
    ("gpus", "cores", "expected"), [(1, 4, 4), (1, 64, 12), (2, 64, 24), (8, 16, 16), (1, 1, 1), (0, 8, 1)]
)
def test_worker_count(gpus: int, cores: int, expected: int) -> None:
    assert devices.worker_count(tuple(map(str, range(gpus))), cores) == expected


def test_cores_are_those_that_this_process_may_use() -> None:
    assert devices.cores() == len(os.sched_getaffinity(0))
