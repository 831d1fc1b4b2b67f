"""What is trained of GPT-2: the cells that the options select, and the orders to the processes that train them."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch

from fa2verify.benchmarks.gpt2.attention import available
from fa2verify.benchmarks.gpt2.lanes import LEAST_CORES, Cores, cores_here, lanes_on, room
from fa2verify.benchmarks.gpt2.process import Order
from fa2verify.benchmarks.gpt2.training import bytes_without_tokens, cell_name, weight_count
from fa2verify.benchmarks.session import BenchmarkSession, session_of
from fa2verify.reports.benchmark_record import Mode

CONTEXTS = (256, 512, 768, 1024, 1536, 2048, 3072, 4096)
LOSS_STEPS = 20
LOSS_CONTEXT = 1024
# With 19 an attention that is one of them lies outside with chance 1 / 20.
TWINS = 19
_LOSS_BATCH = 4
_LONGEST_SECONDS = 3600.0  # of a cell

Trainings = Mapping[str, Sequence[Mode]]  # the modes of each attention


@dataclass(frozen=True, slots=True)
class Cell:
    """A model at a context in a memory of so many bytes, 0 for all."""

    model: str
    context: int
    memory: int

    @property
    def name(self) -> str:
        """In short."""
        return cell_name(self.model, self.context, self.memory)


def cells(config: pytest.Config) -> list[Cell]:
    """What the options select; on a CPU only the tiny model. In lanes, all memory is what the others leave.

    Raises pytest.Collector.CollectError for more lanes than have room on the GPU.
    """
    if session_of(config).device.type == "cpu":
        return [Cell("tiny", 32, 0)]
    models = config.getoption("--bench-model") or ("small", "medium", "large")
    contexts = config.getoption("--bench-context") or CONTEXTS
    memories = [int(gb * 1e9) for gb in config.getoption("--bench-memory") or (12.0, 0.0)]
    asked = list(product(memories, models, contexts))
    lanes = config.getoption("--bench-lanes")
    weights = max(4 * weight_count(model, context) for _, model, context in asked)
    there = room(lanes, weights, torch.cuda.get_device_properties(0).total_memory)
    needed = max(max(memories), *(bytes_without_tokens(model, context) for _, model, context in asked))
    if lanes > 1 and needed > there:
        raise pytest.Collector.CollectError(
            f"--bench-lanes={lanes}: as many processes leave {there / 1e9:.1f} GB of this GPU to one of them, as each "
            f"holds a CUDA context and its weights while it is compiled; {needed / 1e9:.1f} GB are asked for by "
            "--bench-memory, or are the least that a training takes. Fewer lanes leave more"
        )
    return [Cell(model, context, memory or (0 if lanes == 1 else there)) for memory, model, context in asked]


def attentions(session: BenchmarkSession) -> tuple[str, ...]:
    """The attentions that run here and that `--kernel` does not leave out."""
    selected = {kernel.name for kernel in session.kernels}
    return tuple(name for name in available(session.device) if name in selected)


def modes(session: BenchmarkSession) -> tuple[Mode, ...]:
    """Compiled and eager; on a CPU, where compiling takes longer than all else, eager."""
    return ("eager",) if session.device.type == "cpu" else ("compiled", "eager")


def selected(session: pytest.Session) -> dict[Cell, dict[str, list[Mode]]]:
    """The trainings of the tests that run: the modes of each attention of each cell."""
    found: dict[Cell, dict[str, list[Mode]]] = {}
    for item in session.items:
        given = item.callspec.params if hasattr(item, "callspec") else {}
        if isinstance(given.get("cell"), Cell):
            found.setdefault(given["cell"], {}).setdefault(given["attention"], []).append(given["mode"])
    return found


def lanes_for(bench: BenchmarkSession, asked: int) -> tuple[Cores, ...]:
    """The lanes, told where they are fewer than asked for."""
    cores = cores_here()
    lanes = lanes_on(cores, asked)
    if len(lanes) < asked:
        bench.tell(f"GPT-2: {len(lanes)} of {asked} lanes, as {len(cores)} CPU cores give {LEAST_CORES} to no more")
    return lanes


def orders(
    bench: BenchmarkSession, config: pytest.Config, asked: Mapping[Cell, Trainings], deadline: float
) -> list[Order]:
    """An order for each cell: to train what is asked for, with the batch that all attentions share.

    deadline  of time.monotonic(), for one cell; what is ordered together has as many times as long
    """
    end = together(deadline, len(asked))
    return [
        replace(
            _order(bench, config, cell, end),
            attentions=tuple(trainings),
            modes=tuple(mode for mode in modes(bench) if any(mode in of_one for of_one in trainings.values())),
            batch=_LOSS_BATCH if bench.device.type == "cpu" else 0,
        )
        for cell, trainings in asked.items()
    ]


def together(deadline: float, number: int) -> float:
    """The deadline of as many cells as one, if `deadline` is that of a single one; an hour for each at most."""
    now = time.monotonic()
    return now + min(deadline - now, _LONGEST_SECONDS) * number


def loss_order(bench: BenchmarkSession, config: pytest.Config, model: str, deadline: float) -> Order:
    """The order to compare the loss curves of all attentions."""
    context = 32 if bench.device.type == "cpu" else LOSS_CONTEXT
    order = _order(bench, config, Cell(model, context, 0), together(deadline, 1))
    return replace(order, steps=LOSS_STEPS, batch=_LOSS_BATCH, twins=TWINS)


def _order(bench: BenchmarkSession, config: pytest.Config, cell: Cell, end: float) -> Order:
    on_cpu = bench.device.type == "cpu"
    return Order(
        model=cell.model,
        context=cell.context,
        # A CPU has no fp16 to speak of, and its steps are no measurement.
        steps=6 if on_cpu else config.getoption("--bench-steps"),
        dtype="bfloat16" if on_cpu else config.getoption("--bench-dtype"),
        device=bench.device.type,
        memory=cell.memory,
        attentions=attentions(bench),
        searched=attentions(bench),
        modes=modes(bench),
        seconds=max(1.0, end - time.monotonic()),
    )
