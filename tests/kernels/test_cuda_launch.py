"""How a launch reaches the driver: device, stream, context and refusal, with a driver that only writes down."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import pytest
import torch

from fa2verify.kernels.cuda import gpu
from fa2verify.kernels.cuda.call import CallStructure
from fa2verify.kernels.cuda.configuration import Feature, variant

CHOSEN = variant("forward", "bfloat16", 64, Feature(0), 227)


class Status(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_INVALID_CONTEXT = 201


class Driver:
    """Answers launches with `statuses`, one after the other, on a machine whose current device is 0."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.statuses: list[Status] = []
        self.seen: list[Any] = []
        self._device = 0

        @contextmanager
        def entered(device: torch.device) -> Iterator[None]:
            self._device, before = device.index, self._device
            yield
            self._device = before

        def start(*given: Any) -> tuple[Status]:
            self.seen.append(("launch", self._device, *given[:-2]))
            return (self.statuses.pop(0),)

        def kernel(chosen: Any, index: int) -> gpu._Kernel:
            return gpu._Kernel(start, f"function on {index}", chosen.threads, chosen.shared_bytes)

        patch.setattr(torch.cuda, "device", entered)
        patch.setattr(torch.cuda, "current_device", lambda: self._device)
        patch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: 70 + index, raising=False)
        patch.setattr(gpu, "_kernel", kernel)
        patch.setattr(gpu, "_enter_context", lambda index: self.seen.append(("enter", index)))

    def launch(self, index: int, *statuses: Status, blocks: int = 5) -> list[Any]:
        """What the driver saw of a launch on device `index`."""
        self.statuses, self.seen = list(statuses), []
        gpu.launch(CHOSEN, blocks, CallStructure(), torch.device("cuda", index))
        return self.seen


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(monkeypatch)


def launched(index: int) -> tuple[Any, ...]:
    return "launch", index, f"function on {index}", 5, 1, 1, CHOSEN.threads, 1, 1, CHOSEN.shared_bytes, 70 + index


def test_a_launch_is_on_the_tensors_device_and_its_stream(driver: Driver) -> None:
    assert driver.launch(0, Status.CUDA_SUCCESS) == [launched(0)]
    assert driver.launch(1, Status.CUDA_SUCCESS) == [launched(1)]
    assert torch.cuda.current_device() == 0


def test_a_thread_without_a_context_gets_the_devices(driver: Driver) -> None:
    statuses = Status.CUDA_ERROR_INVALID_CONTEXT, Status.CUDA_SUCCESS
    assert driver.launch(1, *statuses) == [launched(1), ("enter", 1), launched(1)]


def test_a_refusal_is_an_error_with_the_drivers_name_for_it(driver: Driver) -> None:
    with pytest.raises(gpu.LaunchError, match=r"fa2::forward<.*>: CUDA_ERROR_INVALID_VALUE"):
        driver.launch(0, Status.CUDA_ERROR_INVALID_VALUE)


def test_a_launch_of_no_blocks_is_none(driver: Driver) -> None:
    assert driver.launch(0, blocks=0) == []
