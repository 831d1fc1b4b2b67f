"""GPT-2's training throughput by attention, and whether its loss curves agree.

    tox run -e bench -- benchmarks/bench_gpt2.py --bench-model=small --bench-context=1024 --bench-memory=12 \
        --bench-steps=60 --bench-seconds=600

After a published comparison of PyTorch's attention with FlashAttention-2 under torch.compile: small, medium and large,
vocabulary 16,384, no biases, no dropout, mixed precision, AdamW, the largest batch that fits, tokens a second as the
mean of the last 25 of 125 steps. Each model and context is a process; with `--bench-lanes` each attention of it is one,
and several run at a time. `-k` and `--kernel` select, too.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import pytest
import torch

from fa2verify.benchmarks.gpt2_attention import available
from fa2verify.benchmarks.gpt2_lanes import LEAST_CORES, Cores, cores_here, lanes_on, room, trained
from fa2verify.benchmarks.gpt2_process import Order
from fa2verify.benchmarks.gpt2_training import weight_count
from fa2verify.benchmarks.replay import CLOCK, benchmark_mark
from fa2verify.benchmarks.session import BenchmarkSession, measured_or_skipped, session_of
from fa2verify.benchmarks.standard import NAME as STANDARD
from fa2verify.reports.benchmark_record import LossAgreement, Measurement, Mode, Training

CONTEXTS = (256, 512, 768, 1024, 1536, 2048, 3072, 4096)
LOSS_STEPS = 20
# With 19 an attention that is one of them lies outside with chance 1 / 20.
TWINS = 19
_LOSS_BATCH = 4
_LONGEST_SECONDS = 3600.0  # of a cell
TOGETHER = ("gpt2",)


@dataclass(frozen=True, slots=True)
class Cell:
    """A model at a context in a memory of so many bytes, 0 for all."""

    model: str
    context: int
    memory: int

    @property
    def name(self) -> str:
        """In short."""
        return f"{self.model}-c{self.context}-{f'{self.memory / 1e9:.0f}gb' if self.memory else 'all'}"


def cells(config: pytest.Config) -> list[Cell]:
    """What the options select; on a CPU only the tiny model.

    Raises pytest.Collector.CollectError for more lanes than have room on the GPU.
    """
    if session_of(config).device.type == "cpu":
        return [Cell("tiny", 32, 0)]
    models = config.getoption("--bench-model") or ("small", "medium", "large")
    contexts = config.getoption("--bench-context") or CONTEXTS
    memories = [int(gb * 1e9) for gb in config.getoption("--bench-memory") or (12.0, 0.0)]
    found = [Cell(model, context, memory) for memory, model, context in product(memories, models, contexts)]
    lanes = config.getoption("--bench-lanes")
    if lanes > 1 and (most := max(memories)) > (there := _room(config, found)):
        raise pytest.Collector.CollectError(
            f"--bench-memory={most / 1e9:g}: {lanes} processes leave {there / 1e9:.1f} GB of this GPU to one of them, "
            "as each holds a CUDA context and its weights while it is compiled; ask for less, or fewer --bench-lanes"
        )
    return found


def limit_of(config: pytest.Config, cell: Cell) -> int:
    """Bytes that a training may allocate, 0 for all there are: in lanes, all that the others leave."""
    if cell.memory or config.getoption("--bench-lanes") == 1 or session_of(config).device.type == "cpu":
        return cell.memory
    return _room(config, cells(config))


def _room(config: pytest.Config, of: Sequence[Cell]) -> int:
    """Bytes of the GPU that one process may allocate at its turn."""
    weights = max(4 * weight_count(cell.model, cell.context) for cell in of)
    return room(config.getoption("--bench-lanes"), weights, torch.cuda.get_device_properties(0).total_memory)


def attentions(session: BenchmarkSession) -> tuple[str, ...]:
    """The attentions that run here and that `--kernel` does not leave out."""
    selected = {kernel.name for kernel in session.kernels}
    return tuple(name for name in available(session.device) if name in selected)


def modes(session: BenchmarkSession) -> tuple[Mode, ...]:
    """Compiled and eager; on a CPU, where compiling takes longer than all else, eager."""
    return ("eager",) if session.device.type == "cpu" else ("compiled", "eager")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each cell, attention and mode; one of losses for each model."""
    session = session_of(metafunc.config)
    found = cells(metafunc.config)
    if "mode" in metafunc.fixturenames:
        metafunc.parametrize(
            ("cell", "attention", "mode"),
            [
                pytest.param(
                    cell,
                    attention,
                    mode,
                    id=f"{cell.name}-{attention}-{mode}",
                    marks=(
                        benchmark_mark(f"GPT-2 {cell.name} {mode}"),
                        pytest.mark.cell(_key(metafunc.config, cell)),
                    ),
                )
                for cell in found
                for attention in attentions(session)
                for mode in modes(session)
            ],
        )
    else:
        models = dict.fromkeys(cell.model for cell in found)
        metafunc.parametrize(
            "model", [pytest.param(model, id=model, marks=pytest.mark.cell(("losses", model))) for model in models]
        )


def test_losses(model: str, bench: BenchmarkSession, request: pytest.FixtureRequest) -> None:
    """The first steps' loss curve of every attention is as near to standard attention's as one rounding makes it."""
    context = 32 if bench.device.type == "cpu" else 1024

    def measure(deadline: float) -> Iterable[Measurement]:
        deadline = min(deadline, time.monotonic() + _LONGEST_SECONDS)
        return trained([_order(bench, request.config, Cell(model, context, 0), deadline, twins=TWINS)])

    made = measured_or_skipped(bench, ("losses", model), f"losses of {model}", measure)
    lines = [line for line in made if isinstance(line, LossAgreement)]
    ended = bench.errors.get(("losses", model), "its time was over")
    assert {line.attention for line in lines} == set(attentions(bench)) - {STANDARD}, ended
    if apart := [line for line in lines if not line.within_noise]:
        pytest.fail(
            "; ".join(
                f"{line.attention}: its losses lie {line.distance:.3g} from standard attention's (root mean square of "
                f"{line.steps} steps), and of {len(line.noise)} twins none beyond {max(line.noise):.3g}"
                for line in apart
            )
        )


def test_throughput(
    cell: Cell, attention: str, mode: Mode, bench: BenchmarkSession, request: pytest.FixtureRequest
) -> None:
    """Tokens a second of one attention."""
    key = _key(request.config, cell)

    def measure(deadline: float) -> Iterable[Measurement]:
        asked = selected(request.session)
        together = asked if key == TOGETHER else {cell: asked[cell]}
        deadline = min(deadline, time.monotonic() + _LONGEST_SECONDS * len(together))
        orders = [
            replace(
                _order(bench, request.config, one, deadline),
                attentions=tuple(trainings),
                modes=tuple(mode for mode in modes(bench) if any(mode in of_one for of_one in trainings.values())),
            )
            for one, trainings in together.items()
        ]
        for line in trained(orders, lanes_for(bench, request.config.getoption("--bench-lanes"))):
            if isinstance(line, Training):
                rate = f"{line.tokens_per_second:,.0f} tokens/s" if line.outcome == "measured" else line.outcome
                bench.tell(f"{line.cell}, {line.attention}, {line.mode}: {rate}")
            yield line

    made = measured_or_skipped(bench, key, " ".join(("GPT-2", *key[1:])), measure)
    runs = [
        line
        for line in made
        if isinstance(line, Training)
        and (line.cell, line.attention, line.mode) == (f"gpt2-{cell.name}", attention, mode)
    ]
    if not runs and key in bench.errors:
        pytest.fail(str(bench.errors[key]))
    if not runs:
        pytest.skip(f"the time of {cell.name} was over before {attention}, {mode}")
    (run,) = runs
    if run.outcome == "failed":
        pytest.fail(f"{attention}, {mode}: {run.message}")
    if run.outcome == "measured":
        benchmark: Any = request.getfixturevalue("benchmark")
        benchmark.extra_info.update(
            tokens_per_second=run.tokens_per_second, batch=run.batch, graphs=run.graphs, graph_breaks=run.graph_breaks
        )
        CLOCK.play(benchmark, [ms / 1e3 for ms in run.step_ms[-run.counted :]])
    if mode == "compiled" and attention.startswith("fa2verify-") and run.graph_breaks:
        pytest.fail(f"{attention} breaks the graph: {run.graph_breaks}")


def _key(config: pytest.Config, cell: Cell) -> tuple[str, ...]:
    """What a cell is measured as: by itself, or in lanes with all others, so that each lane has something to do."""
    return TOGETHER if config.getoption("--bench-lanes") > 1 else (*TOGETHER, cell.name)


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


def _order(bench: BenchmarkSession, config: pytest.Config, cell: Cell, deadline: float, twins: int = 0) -> Order:
    on_cpu = bench.device.type == "cpu"
    return Order(
        model=cell.model,
        context=cell.context,
        # A CPU has no fp16 to speak of, and its steps are no measurement.
        steps=LOSS_STEPS if twins else (6 if on_cpu else config.getoption("--bench-steps")),
        dtype="bfloat16" if on_cpu else config.getoption("--bench-dtype"),
        device=bench.device.type,
        memory=cell.memory,
        limit=0 if twins else limit_of(config, cell),
        attentions=attentions(bench),
        searched=attentions(bench),
        modes=modes(bench),
        batch=_LOSS_BATCH if twins or on_cpu else 0,
        seconds=max(1.0, deadline - time.monotonic()),
        twins=twins,
    )
