"""A GPU that is not there, on which our Triton kernels may race for their tiles: what it finds is made up."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from fa2verify.kernels.triton import choice
from fa2verify.kernels.triton.candidates import neighbours
from fa2verify.kernels.triton.choice import Gpu, configuration
from fa2verify.kernels.triton.configuration import Configuration, Pass, compiled_configuration
from fa2verify.kernels.triton.race import Result

DEVICE = torch.device("cuda", 0)
UNKNOWN = Gpu("NVIDIA Something (TM)", (8, 6), 99, tma=False)
# Of the forward at head_dim 64: the table's, and two of its challengers.
ENTRY, FASTER, FASTEST = neighbours("forward", 64, 99, tma=False)[:3]
SLOW, FAST = [2.0] * 11, [1.0] * 11


class Machine:
    """A GPU that is not there, the races that were run on it, and what they find."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
        self.gpu = UNKNOWN
        self.races: list[tuple[Pass, int]] = []
        self.samples = {ENTRY: SLOW, FASTER: FAST}
        self.run: Callable[[], None] = lambda: None
        monkeypatch.setenv("FA2VERIFY_CACHE", str(folder))
        monkeypatch.delenv(choice.VARIABLE, raising=False)
        monkeypatch.setattr(choice, "_taken", {})
        monkeypatch.setattr(choice, "_gpu", lambda device: self.gpu)
        monkeypatch.setattr(choice, "table_entry", self._entry)
        monkeypatch.setattr(choice, "interpreting", lambda: False)
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
        monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
        monkeypatch.setattr(choice, "_wait_until_idle", lambda device: None)
        monkeypatch.setattr(choice, "_result", self._result)

    def _entry(self, name: Pass, block_d: int, device: torch.device) -> Configuration:
        return compiled_configuration(name, block_d, self.gpu.shared_memory)

    def _result(
        self, name: Pass, block_d: int, entrants: tuple[Configuration, ...], device: torch.device, deadline: float
    ) -> Result[Configuration]:
        self.races.append((name, block_d))
        self.run()
        return Result(dict(self.samples), {})

    def later_process(self) -> None:
        """Forget what this process took."""
        choice._taken.clear()


def taken() -> Configuration:
    """What the forward takes at head_dim 64."""
    return configuration("forward", 64, DEVICE)
