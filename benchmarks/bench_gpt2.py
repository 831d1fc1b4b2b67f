"""GPT-2's training throughput by attention, and whether its loss curves agree.

    tox run -e bench -- benchmarks/bench_gpt2.py --bench-model=small --bench-context=1024 --bench-memory=12 \
        --bench-steps=60 --bench-seconds=600

After a published comparison of PyTorch's attention with FlashAttention-2 under torch.compile: small, medium and large,
vocabulary 16,384, no biases, no dropout, mixed precision, AdamW, the largest batch that fits, tokens a second as the
mean of the last 25 of 125 steps. Each model and context is a process; with `--bench-lanes` each attention of it is one,
and several run at a time. `-k` and `--kernel` select, too.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from fa2verify.benchmarks.gpt2.lanes import Late, trained
from fa2verify.benchmarks.gpt2.plan import Cell, attentions, cells, lanes_for, loss_order, modes, orders, selected
from fa2verify.benchmarks.replay import CLOCK, benchmark_mark
from fa2verify.benchmarks.session import BenchmarkSession, measured_or_skipped, session_of
from fa2verify.benchmarks.standard import NAME as STANDARD
from fa2verify.reports.benchmark_record import LossAgreement, Measurement, Mode, Training

TOGETHER = ("gpt2",)


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
                        pytest.mark.cell(_key(cell)),
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

    def measure(deadline: float) -> Iterable[Measurement]:
        return _on_time(bench, trained([loss_order(bench, request.config, model, deadline)]))

    made = measured_or_skipped(bench, ("losses", model), f"losses of {model}", measure)
    lines = [line for line in made if isinstance(line, LossAgreement)]
    lacking = set(attentions(bench)) - {STANDARD} - {line.attention for line in lines}
    error = bench.errors.get(("losses", model))
    if lacking and error is None and bench.is_limited:
        pytest.skip(f"the time of losses of {model} was over before {', '.join(sorted(lacking))}")
    assert not lacking, error
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
    # In lanes all cells are measured as one, so that each lane has something to do.
    lanes = request.config.getoption("--bench-lanes")
    key = TOGETHER if lanes > 1 else _key(cell)

    def measure(deadline: float) -> Iterable[Measurement]:
        asked = selected(request.session)
        if key != TOGETHER:
            asked = {cell: asked[cell]}
        bench.left -= {_key(one) for one in asked}
        ordered = orders(bench, request.config, asked, deadline)
        for line in _on_time(bench, trained(ordered, lanes_for(bench, lanes))):
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


def _on_time(bench: BenchmarkSession, lines: Iterable[Measurement]) -> Iterator[Measurement]:
    """What was measured by the end of the run's time: what was not is no failure then, and only told."""
    try:
        yield from lines
    except Late as late:
        if not bench.is_limited:
            raise
        bench.tell(str(late))


def _key(cell: Cell) -> tuple[str, ...]:
    return (*TOGETHER, cell.name)
