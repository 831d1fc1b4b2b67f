"""Runs GPT-2's trainings in processes, several at a time if asked to: in lanes, which share a GPU but no CPU core.

What takes a training's time is its compiler, which works on one core and leaves the GPU idle. In lanes compilers work
beside each other, and the GPU is used in turn (`turn`), so that no steps are timed beside another training's. A
lane that is free takes what comes next, be it of another model or context, so that the GPU seldom waits. The batch,
which attentions share, is found before them, by a process of its own.
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
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias

from fa2verify.benchmarks.gpt2.attention import CHOICES
from fa2verify.benchmarks.gpt2.process import BATCH, ORDER, Batch, Order
from fa2verify.benchmarks.gpt2.turn import member, signal_group
from fa2verify.reports.benchmark_record import Measurement, from_json

Cores = tuple[int, ...]
Said: TypeAlias = "SimpleQueue[tuple[_Process, str | None]]"
ALONE: tuple[Cores, ...] = ((),)
# A compiler keeps one core busy and its workers another; with less it would take others' time on the CPU.
LEAST_CORES = 2
# What a process takes beside what it allocates, in bytes: a CUDA context and the kernels of its libraries are some
# hundred MB.
CONTEXT = 10**9
_GRACE_SECONDS = 30.0
_COMMAND = (sys.executable, "-m", "fa2verify.benchmarks.gpt2.process")


class Late(RuntimeError):
    """Processes were still at it some time after their deadline, and were ended; nothing else was wrong."""


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


def room(lanes: int, weights: int, total: int) -> int:
    """Bytes that the process whose turn it is may allocate on a GPU that has `total`.

    weights  bytes of the largest model's: all that the processes which are not at their turn hold, beside contexts
    """
    # The process that starts the others has a context, too.
    return max(0, total - (lanes + 1) * CONTEXT - (lanes - 1) * weights)


def trained(orders: Iterable[Order], lanes: Sequence[Cores] = ALONE) -> Iterator[Measurement]:
    """The records of processes that follow `orders`, as they come.

    Raises RuntimeError at the end if one failed; Late if all that did were ended for their time.

    lanes  the cores of each process that runs at a time. A single one follows order after order, each in one process;
           of several, each process trains one attention, and what it does not live to train is all that is lost with it
    """
    with tempfile.TemporaryDirectory() as folder:
        turn = str(Path(folder) / "turn")
        if len(lanes) > 1:
            tasks = [task for order in orders for task in _parts(replace(order, turn=turn))]
        else:
            tasks = [_Task(order) for order in orders]
        yield from _records(tasks, lanes)


@dataclass(eq=False, slots=True)
class _Task:
    """What one process is to do.

    search  the task that finds its batch; None: it needs none
    found   the batches that this task has found: whether for attentions of quadratic memory
    """

    order: Order
    search: "_Task | None" = None
    found: dict[bool, Batch] = field(default_factory=dict)
    deadline: float = field(init=False)
    over: bool = False

    def __post_init__(self) -> None:
        self.deadline = time.monotonic() + self.order.seconds

    @property
    def batch(self) -> Batch | None:
        """What was found for it by now."""
        return self.search.found.get(CHOICES[self.order.attentions[0]].quadratic) if self.search else None

    @property
    def is_ready(self) -> bool:
        """Whether it can begin."""
        return self.search is None or self.batch is not None

    @property
    def is_lost(self) -> bool:
        """Whether it can never begin."""
        waits_in_vain = self.search is not None and self.search.over and self.batch is None
        return waits_in_vain or time.monotonic() > self.deadline

    def begin(self, cores: Cores, said: "Said") -> "_Process":
        """Start its process."""
        order = replace(self.order, cores=cores, seconds=max(1.0, self.deadline - time.monotonic()))
        if self.batch is not None:
            order = replace(order, batch=self.batch.size, batch_from=self.batch.source)
        return _Process(self, order, said)


def _parts(order: Order) -> Iterator[_Task]:
    """A task for each attention, after one that finds their batches."""
    search = None
    if not order.batch:
        search = _Task(replace(order, modes=()))
        yield search
    for attention in order.attentions:
        yield _Task(replace(order, attentions=(attention,)), search)


def _records(tasks: Iterable[_Task], lanes: Sequence[Cores]) -> Iterator[Measurement]:
    """What the processes measure. A lane that is free takes the first task that can begin."""
    waiting, free = list(tasks), deque(lanes)
    said: Said = SimpleQueue()
    running: set[_Process] = set()
    errors: list[str] = []
    failed = False
    try:
        while True:
            waiting = [task for task in waiting if not task.is_lost]
            while free and (task := next((task for task in waiting if task.is_ready), None)):
                waiting.remove(task)
                running.add(task.begin(free.popleft(), said))
            if not running:
                break
            process, line = said.get()
            if line is None:
                running.remove(process)
                free.append(process.order.cores)
                process.task.over = True
                errors.extend(process.ended())
                failed = failed or (process.failed and not process.late)
                if process.killed:
                    # While it had stopped the others, perhaps.
                    for other in running:
                        other.wake()
            elif line.startswith('{"kind":"batch"'):
                batch = BATCH.validate_json(line)
                process.task.found[batch.quadratic] = batch
            elif line.startswith('{"kind":'):
                record = from_json(line)
                assert record.kind != "benchmark_run", "a process measures"
                yield record
    finally:
        for process in running:
            process.kill()
    if errors:
        raise (RuntimeError if failed else Late)("; ".join(errors))


class _Process:
    """One that follows `order`; what it prints is put into `said`, a line at a time, and None when it ends."""

    def __init__(self, task: _Task, order: Order, said: "Said") -> None:
        self.task = task
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
        self._member = member(order.turn, self._process.pid) if order.turn else None
        if self._member is not None:
            self._member.touch()
        self.late = False
        self._guard = threading.Timer(order.seconds + _GRACE_SECONDS, self._end_late)
        self._guard.start()
        self._reader = threading.Thread(target=self._read, args=(said,))
        self._reader.start()

    def ended(self) -> Iterator[str]:
        """Wait for the end; why it came early, if it did."""
        status = self._process.wait()
        if self._member is not None:
            self._member.unlink()
        self._guard.cancel()
        self._reader.join()
        assert self._process.stdout is not None, "a pipe"
        self._process.stdout.close()
        with self._errors as errors:
            errors.seek(0)
            last = errors.read().strip().splitlines()[-1:] or [f"exit status {status}"]
        if status:
            order = self.order
            training = f"training GPT-2 {order.model} at context {order.context}"
            attentions = ", ".join(order.attentions)
            why = f"killed by signal {-status}" if status < 0 else last[0]
            if self.late:
                yield f"{training} was ended ({attentions}): still at it {_GRACE_SECONDS:.0f} s after its time"
            else:
                yield f"{training} ended early ({attentions}): {why}"

    @property
    def failed(self) -> bool:
        """Whether it ended otherwise than by doing what was ordered."""
        return bool(self._process.returncode)

    @property
    def killed(self) -> bool:
        """Whether a signal ended it."""
        return (self._process.returncode or 0) < 0

    def wake(self) -> None:
        """Let it go on if it was stopped."""
        signal_group(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        """End it now."""
        self._kill_group()
        list(self.ended())

    def _end_late(self) -> None:
        self.late = True
        self._kill_group()

    def _kill_group(self) -> None:
        # With its compiler's workers, which would live on, even after it, and keep its output open.
        signal_group(self._process.pid, signal.SIGKILL)

    def _read(self, said: "Said") -> None:
        assert self._process.stdout is not None, "a pipe"
        for line in self._process.stdout:
            said.put((self, line))
        said.put((self, None))
