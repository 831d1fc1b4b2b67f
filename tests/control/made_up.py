"""Benchmark records that nobody measured, for tests of what is shown of such records. No torch."""

import math
from itertools import product
from typing import Any

from fa2verify.reports.benchmark_record import (
    BenchmarkRun,
    Ceiling,
    FirstCall,
    HostCost,
    LossAgreement,
    Measurement,
    Memory,
    Mode,
    Timing,
    Training,
)
from fa2verify.reports.benchmark_store import Machine
from fa2verify.reports.published import CONTEXTS

KERNELS = (*(f"kernel-{letter}" for letter in "abcdefg"), "torch-flash", "standard")
MODES: tuple[Mode, ...] = ("compiled", "eager")


def machine(*lines: Measurement, text: str = "made up") -> Machine:
    """One run on one machine, with `text` wherever a text may be anything."""
    run = BenchmarkRun(
        id=text,
        started=text,
        device="cuda",
        environment={"gpu": text, text: text, "torch": text},
        options={"against": "torch-flash", text: text},
    )
    return Machine((run,), lines)


def trained(**fields: Any) -> Training:
    """A training of 8 sequences a step, 100 ms each; `fields` are what the test is about."""
    known: dict[str, Any] = {
        "cell": "small-c256",
        "model": "small",
        "context": 256,
        "attention": "ours",
        "mode": "eager",
        "memory": 0,
        "dtype": "float16",
        "outcome": "measured",
        "batch": 8,
        "step_ms": (100.0,),
        "counted": 1,
    }
    return Training(**(known | fields))


def everything() -> tuple[Measurement, ...]:
    """As much as a run of every benchmark leaves: nine kernels on 36 cells, and every other kind."""
    lines: list[Measurement] = []
    for head_dim, causal, power in product((64, 128, 256), (None, "bottom_right"), range(6)):
        seqlen = 512 << power
        cell = f"flash-d{head_dim}-{causal}-s{seqlen}"
        problem = {"head_dim": head_dim, "causal": causal, "lengths": {"seqlen_q": seqlen, "seqlen_k": seqlen}}
        lines.append(Ceiling(cell=cell, name="matmul", ms=(1.0,) * 12, amount=8e11))
        for number, kernel in enumerate(KERNELS):
            full = kernel == "standard" and seqlen > 8192
            lines += (
                Timing(
                    grid="flash",
                    cell=cell,
                    kernel=kernel,
                    direction=direction,
                    problem=problem,
                    outcome="out_of_memory" if full else "measured",
                    ms=() if full else tuple(1 + number / 3 + math.sin(number + turn) / 50 for turn in range(12)),
                    operations=4e11,
                )
                for direction in ("forward", "backward", "both")
            )
    for kernel, power in product(KERNELS, range(6)):
        taken = 1000 * 4**power if kernel == "standard" else 900 * 2**power
        lines += (
            Memory(
                cell=f"memory-s{512 << power}",
                kernel=kernel,
                direction=direction,
                problem={},
                seqlen=512 << power,
                outcome="measured",
                bytes=taken,
            )
            for direction in ("forward", "both")
        )
    lines += one_of_each("kernel-a", "kernel-a")
    for model, context, attention, mode in product(("small", "medium"), CONTEXTS, KERNELS[-3:], MODES):
        lines.append(
            trained(
                cell=f"gpt2-{model}-c{context}-12gb",
                model=model,
                context=context,
                attention=attention,
                mode=mode,
                memory=12_000_000_000,
                step_ms=(100.0, 100.0),
                graphs=13 if mode == "compiled" else 0,
                graph_breaks={"a call": 12} if mode == "compiled" else {},
            )
        )
    return tuple(lines)


def one_of_each(kernel: str, text: str) -> tuple[Measurement, ...]:
    """A line of every kind, once measured and once failed where that can be, with `text` for the rest."""
    return (
        Ceiling(cell=text, name="matmul", ms=(1.0,), amount=8e11),
        Timing(
            grid=text,
            cell=text,
            kernel=kernel,
            direction="forward",
            problem={text: text, "dtype": text, "causal": text},
            outcome="measured",
            ms=(1.0, 2.0),
            operations=4e11,
        ),
        Timing(
            grid=text,
            cell=text,
            kernel=f"{kernel} 2",
            direction="forward",
            problem={text: text},
            outcome="failed",
            message=text,
        ),
        Memory(
            cell=text,
            kernel=kernel,
            direction="both",
            problem={text: text},
            seqlen=64,
            outcome="measured",
            bytes=10**6,
        ),
        Memory(
            cell=text,
            kernel=kernel,
            direction="both",
            problem={},
            seqlen=128,
            outcome="failed",
            message=text,
        ),
        HostCost(subject=kernel, mode="eager", direction="forward", outcome="measured", us=(9.0, 8.0)),
        HostCost(subject=kernel, mode="compiled", direction="forward", outcome="failed", message=text),
        FirstCall(kernel=kernel, cache="cold", direction="both", outcome="measured", first_ms=9.0, second_ms=1.0),
        FirstCall(kernel=kernel, cache="disk", direction="both", outcome="failed", message=text),
        trained(
            cell=text,
            model=text,
            attention=kernel,
            mode="compiled",
            dtype=text,
            batch_from=text,
            graphs=2,
            graph_breaks={text: 1},
        ),
        LossAgreement(cell=text, attention=kernel, mode="eager", steps=20, distance=2.0, noise=(1.0,)),
    )
