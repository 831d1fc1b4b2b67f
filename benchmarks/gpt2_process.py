"""Trains GPT-2 in a process of its own: `python -m fa2verify.benchmarks.gpt2_process ORDER`.

A memory limit, a compiler's state and a lost context end with the process. It prints a record a line, as soon as it has
it; whoever started it keeps what came when it has to end it.
"""

import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from fa2verify.reports.benchmark_record import LossAgreement, Measurement, Mode, Training, from_json, to_json

_PREFIX = '{"kind":'
_GRACE_SECONDS = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a process is to do, as JSON on its command line.

    attentions  keys of `gpt2_attention.CHOICES`, in this order
    batch       sequences a step; 0: the largest that fits
    seconds     to end within
    twins       0: train and time every attention in every mode; else compare loss curves, with so many twins
    The others are those of `gpt2_training.Setting`.
    """

    model: str
    context: int
    steps: int
    dtype: str
    device: str
    memory: int = 0
    attentions: tuple[str, ...]
    modes: tuple[Mode, ...] = ("compiled", "eager")
    batch: int = 0
    seconds: float
    twins: int = 0


_order: TypeAdapter[Order] = TypeAdapter(Order)


def trained(order: Order) -> Iterator[Measurement]:
    """The records of a process that follows `order`, as they come. Raises RuntimeError if it fails."""
    command = [sys.executable, "-m", "fa2verify.benchmarks.gpt2_process", _order.dump_json(order).decode()]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None, "a pipe"
        assert process.stderr is not None, "a pipe"
        # With its compiler's workers, which would live on.
        guard = threading.Timer(order.seconds + _GRACE_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
        guard.start()
        errors: list[str] = []
        reader = threading.Thread(target=lambda pipe: errors.extend(pipe), args=(process.stderr,))
        reader.start()
        try:
            for line in process.stdout:
                if line.startswith(_PREFIX):
                    record = from_json(line)
                    assert record.kind != "benchmark_run", "a process measures"
                    yield record
            status = process.wait()
        finally:
            guard.cancel()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            reader.join()
    if status:
        why = f"killed by signal {-status}" if status < 0 else "".join(errors).strip().splitlines()[-1:]
        raise RuntimeError(f"training GPT-2 {order.model} at context {order.context} ended early: {why}")


def follow(order: Order) -> Iterator[Training | LossAgreement]:
    """Do what `order` says."""
    import torch

    from fa2verify.benchmarks.gpt2_attention import CHOICES
    from fa2verify.benchmarks.gpt2_training import (
        Setting,
        distance,
        largest_batch,
        limit_memory,
        losses,
        release,
        train,
    )
    from fa2verify.benchmarks.standard import NAME as STANDARD

    deadline = time.monotonic() + order.seconds
    device = torch.device(order.device)
    setting = Setting(order.model, order.context, order.steps, order.dtype, device, order.memory)
    if order.memory:
        limit_memory(order.memory)
    if order.twins:
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
        return
    # One batch for all attentions of linear memory, as their throughput is compared; less for one that does not fit.
    found: dict[bool, tuple[int, str]] = {}
    for attention in order.attentions:
        quadratic = CHOICES[attention].quadratic
        if order.batch:
            found[quadratic] = (order.batch, "given")
        elif quadratic not in found:
            found[quadratic] = (largest_batch(setting, attention), f"largest of {attention}, eager")
        for mode in order.modes:
            batch, source = found[quadratic]
            if time.monotonic() > deadline:
                return
            record = train(setting, attention, mode, max(1, batch), source, deadline)
            while record.outcome == "out_of_memory" and not order.batch and record.batch > 1:
                record = train(setting, attention, mode, record.batch * 7 // 8, f"{source}, then less", deadline)
            yield record
    release(device)


def main(arguments: list[str]) -> None:
    """Follow the order and print its records."""
    warnings.simplefilter("ignore")  # of compilers and kernels; a warning is no outcome
    for record in follow(_order.validate_json(arguments[0])):
        print(to_json(record), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
