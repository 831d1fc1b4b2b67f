"""GPT-2's benchmark where time is up: what was not trained is skipped, and what failed has failed."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from made_up import trained as made_up

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401

# isort: on
from fa2verify.benchmarks import bench_gpt2
from fa2verify.benchmarks.gpt2.lanes import Late
from fa2verify.benchmarks.gpt2.plan import Cell
from fa2verify.benchmarks.session import BenchmarkSession
from fa2verify.reports.benchmark_record import Measurement

CELL = Cell("tiny", 32, 0)
OTHER = replace(made_up(), cell=f"gpt2-{CELL.name}", attention="torch-math", mode="eager")


@dataclass
class Session:
    """What a benchmark's test asks of a run."""

    is_limited: bool
    left: set[Any] = field(default_factory=set)
    errors: dict[Any, Exception] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)

    def tell(self, line: str) -> None:
        self.told.append(line)

    def once(self, key: Any, name: str, measure: Callable[[float], Iterable[Measurement]]) -> tuple[Measurement, ...]:
        made = []
        try:
            for line in measure(0.0):
                made.append(line)  # noqa: PERF402 - what comes before an error is kept
        except Exception as error:  # noqa: BLE001 - as a run keeps it
            self.errors[key] = error
        return tuple(made)


def run(monkeypatch: pytest.MonkeyPatch, session: Session, error: Exception | None) -> None:
    """The test of standard attention, of which nothing comes: another's record does, and `error`."""

    def trained(*given: object) -> Iterator[Measurement]:
        yield OTHER
        if error is not None:
            raise error

    monkeypatch.setattr(bench_gpt2, "trained", trained)
    monkeypatch.setattr(bench_gpt2, "selected", lambda session: {CELL: {}})
    monkeypatch.setattr(bench_gpt2, "orders", lambda *given: [])
    request = SimpleNamespace(config=SimpleNamespace(getoption=lambda name: 2), session=None)
    monkeypatch.setattr(bench_gpt2, "lanes_for", lambda *given: ())
    bench_gpt2.test_throughput(CELL, "standard", "eager", cast(BenchmarkSession, session), cast(Any, request))


@pytest.mark.parametrize("error", [None, Late("standard was still at it")])
def test_what_there_was_no_time_for_is_skipped(monkeypatch: pytest.MonkeyPatch, error: Exception | None) -> None:
    session = Session(is_limited=True)
    with pytest.raises(pytest.skip.Exception, match="the time of tiny-c32-all was over before standard, eager"):
        run(monkeypatch, session, error)
    assert session.told[1:] == ([] if error is None else ["standard was still at it"])


@pytest.mark.parametrize(("is_limited", "outcome"), [(True, pytest.skip.Exception), (False, AssertionError)])
def test_losses_that_there_was_no_time_for_are_skipped(
    monkeypatch: pytest.MonkeyPatch, is_limited: bool, outcome: type[BaseException]
) -> None:
    def trained(orders: object) -> Iterator[Measurement]:
        yield from ()
        raise Late("still at it")

    monkeypatch.setattr(bench_gpt2, "trained", trained)
    monkeypatch.setattr(bench_gpt2, "loss_order", lambda *given: None)
    monkeypatch.setattr(bench_gpt2, "attentions", lambda session: ("standard", "torch-math"))
    request = SimpleNamespace(config=None)
    with pytest.raises(outcome, match="before torch-math" if is_limited else "still at it"):
        bench_gpt2.test_losses("tiny", cast(BenchmarkSession, Session(is_limited)), cast(Any, request))


def test_who_is_late_without_a_limit_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.fail.Exception, match="standard was still at it"):
        run(monkeypatch, Session(is_limited=False), Late("standard was still at it"))


def test_a_process_that_fails_is_no_lack_of_time(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(pytest.fail.Exception, match="what went wrong"):
        run(monkeypatch, Session(is_limited=True), RuntimeError("what went wrong"))
