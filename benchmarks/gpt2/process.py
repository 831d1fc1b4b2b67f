"""Trains GPT-2 in a process of its own: `python -m fa2verify.benchmarks.gpt2.process ORDER`.

A memory limit, a compiler's state and a lost context end with the process. It prints a record a line, as soon as it has
it; whoever started it (`lanes`) keeps what came when it has to end it.
"""

import os
import sys
import time
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from fa2verify.reports.benchmark_record import LossAgreement, Mode, Training, to_json

if TYPE_CHECKING:
    from fa2verify.benchmarks.gpt2.training import Setting
    from fa2verify.benchmarks.gpt2.turn import Turn

GIVEN = "given"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a process is to do, as JSON on its command line.

    attentions  keys of `attention.CHOICES`, in this order
    searched    the first of linear memory, and of quadratic, gives all alike their batch; none: the same attentions
    modes       none: find the batches, and train nothing
    batch       sequences a step; 0: the largest that fits
    batch_from  "given", or how the batch was found: then less will do where it does not fit
    seconds     to end within
    twins       0: train and time every attention in every mode; else compare loss curves, with so many twins
    cores       of the CPU, to keep to; none: touch nothing
    turn        path of the lock that says whose turn it is on the GPU; "": it is this process' alone
    The others are those of `training.Setting`.
    """

    model: str
    context: int
    steps: int
    dtype: str
    device: str
    memory: int = 0
    attentions: tuple[str, ...]
    searched: tuple[str, ...] = ()
    modes: tuple[Mode, ...] = ("compiled", "eager")
    batch: int = 0
    batch_from: str = GIVEN
    seconds: float
    twins: int = 0
    cores: tuple[int, ...] = ()
    turn: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What the search found: for which attentions, how many sequences a step, and of which it is the largest."""

    kind: Literal["batch"] = "batch"
    quadratic: bool
    size: int
    source: str


ORDER: TypeAdapter[Order] = TypeAdapter(Order)
BATCH: TypeAdapter[Batch] = TypeAdapter(Batch)


def follow(order: Order) -> Iterator[Training | LossAgreement | Batch]:
    """Do what `order` says. A batch that was searched for comes before what was trained with it."""
    import torch

    from fa2verify.benchmarks.gpt2.training import Setting, limit_memory, release
    from fa2verify.benchmarks.gpt2.turn import Turn

    deadline = time.monotonic() + order.seconds
    device = torch.device(order.device)
    setting = Setting(order.model, order.context, order.steps, order.dtype, device, order.memory)
    with Turn(order.turn, device) as turn:
        if order.memory:
            limit_memory(order.memory)
        if order.twins:
            yield from _compared(order, setting)
        else:
            yield from _timed(order, setting, turn, deadline)
        release(device)


def _compared(order: Order, setting: "Setting") -> Iterator[LossAgreement]:
    from fa2verify.benchmarks.gpt2.training import distance, losses
    from fa2verify.benchmarks.standard import NAME as STANDARD

    plain = losses(setting, STANDARD, order.batch)
    noise = tuple(distance(plain, losses(setting, STANDARD, order.batch, twin)) for twin in range(order.twins))
    for attention in order.attentions:
        if attention != STANDARD:
            yield LossAgreement(
                cell=setting.cell,
                attention=attention,
                mode="eager",
                steps=order.steps,
                distance=distance(plain, losses(setting, attention, order.batch)),
                noise=noise,
            )


def _timed(order: Order, setting: "Setting", turn: "Turn", deadline: float) -> Iterator[Training | Batch]:
    from fa2verify.benchmarks.gpt2.attention import CHOICES
    from fa2verify.benchmarks.gpt2.optimizer import missing
    from fa2verify.benchmarks.gpt2.training import OutOfTime, largest_batch, release, train

    # One batch for all attentions of linear memory, as their throughput is compared; less for one that does not fit.
    found: dict[bool, Batch] = {}
    for attention in order.attentions:
        quadratic = CHOICES[attention].quadratic
        if order.batch:
            found[quadratic] = Batch(quadratic=quadratic, size=order.batch, source=order.batch_from)
        elif quadratic not in found:
            release(setting.device)
            subjects = (name for name in (*order.searched, attention) if CHOICES[name].quadratic == quadratic)
            subject = next(subjects)
            size = 1 if missing(setting.optimizer) else max(1, largest_batch(setting, subject, _bytes_there(order)))
            found[quadratic] = Batch(quadratic=quadratic, size=size, source=f"largest of {subject}, eager")
            yield found[quadratic]
        batch = found[quadratic]
        for mode in order.modes:
            if time.monotonic() > deadline:
                return
            try:
                record = train(setting, attention, mode, batch.size, batch.source, deadline, turn)
                while record.outcome == "out_of_memory" and batch.source != GIVEN and record.batch > 1:
                    source = f"{batch.source}, then less"
                    record = train(setting, attention, mode, record.batch * 7 // 8, source, deadline, turn)
            except OutOfTime:
                return  # also with an attention that did not fit: less, which might, has not been tried
            yield record


def _bytes_there(order: Order) -> int:
    """Bytes that the process may allocate; 0 on a CPU, where nobody counts them."""
    import torch

    if order.device != "cuda":
        return 0
    return order.memory or torch.cuda.mem_get_info()[0]


def main(arguments: list[str]) -> None:
    """Follow the order and print its records."""
    order = ORDER.validate_json(arguments[0])
    if order.cores:
        # Before torch is there: threads and the compiler's workers inherit it, and are as many as the cores are.
        os.sched_setaffinity(0, order.cores)
    warnings.simplefilter("ignore")  # of compilers and kernels; a warning is no outcome
    for record in follow(order):
        print(BATCH.dump_json(record).decode() if isinstance(record, Batch) else to_json(record), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
