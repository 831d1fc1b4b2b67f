"""Trying a kernel in a process of its own, for kernels that take their process down.

Once a kernel has cost a worker its life, the suite tries it in children: each is forked from a server that has torch
loaded but has not touched CUDA, so that a child costs milliseconds and always starts clean. A crash is then an ordinary
verdict, and Hypothesis can shrink it.
"""

import multiprocessing
import signal
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import torch

from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.reference import Precision
from fa2verify.kernels.registry import select
from fa2verify.reports.record import Record, from_json, to_json
from fa2verify.verify.relations.catalogue import RELATIONS
from fa2verify.verify.trial.attempt import Bench, ContextLost, attempt
from fa2verify.verify.trial.crash import crash

_READY = b"ready"


@dataclass(frozen=True, slots=True)
class Isolation:
    """How to try kernels in children.

    specs      what `--kernel` named, so that a child finds the same kernels
    device     of the tensors
    precision  of the reference
    timeout    seconds after which a child has hung
    related    whether further calls are asked for `RELATIONS`
    """

    specs: tuple[str, ...]
    device: str
    precision: Precision
    timeout: float
    related: bool = False

    def attempt(self, kernel: Kernel, problem: Problem, test: str = "") -> Record:
        """As `fa2verify.verify.trial.attempt`, but nothing that the kernel does reaches this process."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["fa2verify.verify.trial.isolation"])
        receiver, sender = context.Pipe(duplex=False)
        child = context.Process(
            target=_child,
            args=(sender, kernel.name, problem.to_json(), self, test),
            daemon=True,
        )
        child.start()
        sender.close()
        blank = crash(kernel.name, problem, precision=self.precision, test=test)
        try:
            # What comes before the call, such as importing the kernel, is as long as it is in this process.
            assert receiver.recv_bytes() == _READY
            if not receiver.poll(self.timeout):
                child.kill()
                child.join()
                message = f"no answer after {self.timeout:g} s; the process was ended"
                return replace(blank, verdict="timed_out", rule="timeout", message=message)
            record = from_json(receiver.recv_bytes())
        except EOFError:
            child.join()
            return replace(blank, rule="process died", message=_cause_of_death(child.exitcode))
        finally:
            receiver.close()
        child.kill()  # it has nothing more to say, and a thread that the kernel left behind would keep it
        child.join()
        assert isinstance(record, Record)
        return record


def _child(sender: Connection, name: str, problem: str, asked: Isolation, test: str) -> None:
    torch.set_num_threads(1)
    kernel = next(registered.kernel for registered in select(asked.specs) if registered.kernel.name == name)
    relations = RELATIONS if asked.related else ()
    bench = Bench(torch.device(asked.device), asked.precision, relations=relations)
    drawn = Problem.from_json(problem)
    sender.send_bytes(_READY)
    try:
        record = attempt(kernel, drawn, bench, test)
    except ContextLost as lost:
        record = crash(name, drawn, "CUDA context lost", str(lost), precision=asked.precision, test=test)
    sender.send_bytes(to_json(record).encode())
    sender.close()


def _cause_of_death(exitcode: int | None) -> str:
    if exitcode is not None and exitcode < 0:
        known = -exitcode in set(signal.Signals)  # not every real-time signal has a name
        name = f" ({signal.Signals(-exitcode).name})" if known else ""
        return f"the process died of signal {-exitcode}{name} during the call"
    return f"the process left with status {exitcode} during the call"
