"""Runs GPT-2's trainings in processes, several at a time if asked to: in lanes, which share a GPU but no CPU core.

What takes a training's time is its compiler, which works on one core and leaves the GPU idle. In lanes compilers work
beside each other, and the GPU is used in turn (`gpt2_turn`), so that no steps are timed beside another training's. The
batch, which attentions share, is found first, by a process that is alone.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue

from fa2verify.benchmarks.gpt2_attention import CHOICES
from fa2verify.benchmarks.gpt2_process import BATCH, ORDER, Batch, Order
from fa2verify.reports.benchmark_record import Measurement, from_json

Cores = tuple[int, ...]
ALONE: tuple[Cores, ...] = ((),)
# A compiler keeps one core busy and its workers another; with less it would take others' time on the CPU.
LEAST_CORES = 2
# What a process takes beside the memory that it may use, in bytes: a CUDA context and the kernels of its libraries are
# some hundred MB.
CONTEXT = 10**9
_GRACE_SECONDS = 30.0
_COMMAND = (sys.executable, "-m", "fa2verify.benchmarks.gpt2_process")


def lanes_on(cores: Iterable[int], asked: int) -> tuple[Cores, ...]:
    """As many lanes as are asked for, each with its part of `cores`; fewer where a part would be less than two.

    A trainer that launches kernels is thus never slowed by a compiler beside it. A single lane, and lanes on a system
    that cannot keep a process to cores (`cores` is empty there), have the parts (): they are kept to nothing.
    """
    known = sorted(cores)
    if not known:
        return ALONE * asked
    number = min(asked, max(1, len(known) // LEAST_CORES))
    if number == 1:
        return ALONE
    ends = [len(known) * end // number for end in range(number + 1)]
    return tuple(tuple(known[begin:end]) for begin, end in pairwise(ends))


def cores_here() -> set[int]:
    """The cores that this process may use; none where the system does not say."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def no_room(lanes: int, memory: int, total: int) -> str:
    """Why as many processes with so many bytes each do not fit on a GPU that has `total`; "" if they do."""
    # The process that starts the others has a context, too.
    most = max(1, (total - CONTEXT) // (memory + CONTEXT))
    if lanes <= most:
        return ""
    return (
        f"--bench-lanes={lanes}: as many processes with {memory / 1e9:g} GB each, beside {CONTEXT / 1e9:g} GB for each "
        f"CUDA context, do not fit into this GPU's {total / 1e9:.1f} GB; at most {most} can be"
    )


def trained(order: Order, lanes: Sequence[Cores] = ALONE) -> Iterator[Measurement]:
    """The records of processes that follow `order`, as they come. Raises RuntimeError at the end if one failed.

    lanes  the cores of each process that runs at a time. A single one does everything in one process; of several, each
           process trains one attention, and what it does not live to train is all that is lost with it
    """
    deadline = time.monotonic() + order.seconds
    if len(lanes) == 1:
        yield from _measured([order], lanes, deadline)
        return
    found = {}
    if not order.batch:
        for line in _lines([replace(order, modes=())], ALONE, deadline):
            assert isinstance(line, Batch), "nothing was to be trained"
            found[line.quadratic] = line
    with tempfile.TemporaryDirectory() as folder:
        orders = [
            replace(order, attentions=(attention,), turn=str(Path(folder) / "turn")) for attention in order.attentions
        ]
        if found:
            batches = [found[CHOICES[attention].quadratic] for attention in order.attentions]
            orders = [
                replace(one, batch=batch.size, batch_from=batch.source)
                for one, batch in zip(orders, batches, strict=True)
            ]
        yield from _measured(orders, lanes, deadline)


def _measured(orders: Iterable[Order], lanes: Sequence[Cores], deadline: float) -> Iterator[Measurement]:
    return (line for line in _lines(orders, lanes, deadline) if not isinstance(line, Batch))


def _lines(orders: Iterable[Order], lanes: Sequence[Cores], deadline: float) -> Iterator[Measurement | Batch]:
    """What the processes say, each order's beginning as soon as a lane is free, none after the deadline."""
    waiting, free = deque(orders), deque(lanes)
    said: SimpleQueue[tuple[_Process, str | None]] = SimpleQueue()
    running: set[_Process] = set()
    errors: list[str] = []
    try:
        while True:
            if time.monotonic() > deadline:
                waiting.clear()
            while free and waiting:
                seconds = max(1.0, deadline - time.monotonic())
                running.add(_Process(replace(waiting.popleft(), cores=free.popleft(), seconds=seconds), said))
            if not running:
                break
            process, line = said.get()
            if line is None:
                running.remove(process)
                free.append(process.order.cores)
                errors.extend(process.ended())
            elif line.startswith('{"kind":"batch"'):
                yield BATCH.validate_json(line)
            elif line.startswith('{"kind":'):
                record = from_json(line)
                assert record.kind != "benchmark_run", "a process measures"
                yield record
    finally:
        for process in running:
            process.kill()
    if errors:
        raise RuntimeError("; ".join(errors))


class _Process:
    """One that follows `order`; what it prints is put into `said`, a line at a time, and None when it ends."""

    def __init__(self, order: Order, said: "SimpleQueue[tuple[_Process, str | None]]") -> None:
        self.order = order
        self._errors = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115 - closed when it ended
        self._process = subprocess.Popen(
            [*_COMMAND, ORDER.dump_json(order).decode()],
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._guard = threading.Timer(order.seconds + _GRACE_SECONDS, self._kill_group)
        self._guard.start()
        self._reader = threading.Thread(target=self._read, args=(said,))
        self._reader.start()

    def ended(self) -> Iterator[str]:
        """Wait for the end; why it came early, if it did."""
        status = self._process.wait()
        self._guard.cancel()
        self._reader.join()
        assert self._process.stdout is not None, "a pipe"
        self._process.stdout.close()
        with self._errors as errors:
            errors.seek(0)
            last = errors.read().strip().splitlines()[-1:] or [f"exit status {status}"]
        if status:
            why = f"killed by signal {-status}" if status < 0 else last[0]
            order = self.order
            yield (
                f"training GPT-2 {order.model} at context {order.context} ended early ({', '.join(order.attentions)}): "
                f"{why}"
            )

    def kill(self) -> None:
        """End it now."""
        self._kill_group()
        list(self.ended())

    def _kill_group(self) -> None:
        # With its compiler's workers, which would live on, even after it, and keep its output open.
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read(self, said: "SimpleQueue[tuple[_Process, str | None]]") -> None:
        assert self._process.stdout is not None, "a pipe"
        for line in self._process.stdout:
            said.put((self, line))
        said.put((self, None))
