"""Whose turn it is on a GPU that several trainings share: one process holds it, and lets go while its compiler works.

Compiling takes up to a minute of one CPU core's time, and the GPU is idle meanwhile; a training's steps must not meet
another's. So a process has the turn, a file lock, for all that it does there, its first step, warm-up and release of
memory included: one step of somebody else's would slow 25 that are timed by several percent. The operating system ends
the turn of a process that dies.

While steps are timed that count, others do not even compile: beside seven of them one training in 25 was 6 % slower
than its own median step. They are stopped meanwhile, and a compilation takes as much longer.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from filelock import FileLock
from torch._dynamo.callback import CallbackArgs, callback_handler


class Turn:
    """The turn on `device`; entered, it is held. `waited` counts the seconds that it was waited for.

    path  of the lock, the same for all who take turns; "": the device is this process' alone
    """

    def __init__(self, path: str, device: torch.device) -> None:
        # Not a lock for each thread: the compiler may end in another one than it began in.
        self._lock = FileLock(path, thread_local=False) if path else None
        self._path = path
        self._device = device
        self.waited = 0.0

    def __enter__(self) -> Self:
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give()

    @contextmanager
    def left_to_compile(self) -> Iterator[None]:
        """Whenever torch.compile works in here, others may have the turn. `torch._dynamo.reset` would end that."""
        if self._lock is None:
            yield
            return

        def begin(_: CallbackArgs) -> None:
            self._give()

        def end(_: CallbackArgs) -> None:
            self._take()

        callback_handler.register_start_callback(begin)
        callback_handler.register_end_callback(end)
        try:
            yield
        finally:
            callback_handler.remove_start_callback(begin)
            callback_handler.remove_end_callback(end)

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """All others who take turns by now stand still in here, their compilers too."""
        path = Path(self._path)
        taking = (int(file.suffix[1:]) for file in path.parent.glob(f"{path.name}.*")) if self._path else ()
        others = [pid for pid in taking if pid != os.getpid()]
        try:
            for pid in others:
                signal_group(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in others:
                signal_group(pid, signal.SIGCONT)

    def _take(self) -> None:
        if self._lock is not None:
            begin = time.monotonic()
            self._lock.acquire()
            self.waited += time.monotonic() - begin

    def _give(self) -> None:
        if self._lock is None:
            return
        try:
            if self._device.type == "cuda":
                # What was queued would run in the turn of the next.
                torch.cuda.synchronize(self._device)
        finally:
            self._lock.release()


def member(path: str, pid: int) -> Path:
    """The file that says of a process that it takes turns; whoever starts and ends processes keeps it."""
    return Path(f"{path}.{pid}")


def signal_group(pid: int, number: int) -> None:
    """Send a signal to a process and its compiler's workers, which are one group, if it is still there."""
    with suppress(ProcessLookupError):
        os.killpg(pid, number)
