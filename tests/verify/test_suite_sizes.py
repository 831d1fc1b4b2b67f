"""A run of the whole suite tries large problems, here in small; where it leaves them out is in test_suite_passes.py."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import strategies as st

from fa2verify.kernels.registry import Registered
from fa2verify.verify.run.plan import Part
from fa2verify.verify.suite.worker import Worker


def test_a_wrapped_index_fails_the_run(suite: Any) -> None:
    done = suite.run("-n", "2", "-p", "small_limits", "-k", "test_sizes", kernels=["right", "wraps"])
    assert done.returncode == 1, done.stdout + done.stderr
    assert "foreign:wraps: failed, R0 out finite" in done.stdout
    assert '"values":"sampled"' in done.stdout, "one line runs it again"
    verdicts = {record.kernel: record.verdict for record in suite.loaded().records}
    assert verdicts == {"foreign:right": "passed", "foreign:wraps": "failed"}


def test_a_full_gpu_fails_the_run_and_no_kernel(suite: Any) -> None:
    done = suite.run("-n", "0", "-p", "full_gpu", "-k", "test_forward", kernels=["right"])
    assert done.returncode == 1, done.stdout + done.stderr
    assert "others hold all of it" in done.stdout
    assert "campaign.py" not in done.stdout, "a sentence, no traceback"
    assert suite.loaded().records == ()


def test_they_come_first() -> None:
    """Whoever comes to them late would wait for the others, at the end of a run, and be waited for."""
    items = [SimpleNamespace(name=name, fixturenames=[name]) for name in ("part", "known", "large", "part")]
    assert ordered(items) == ["large", "part", "known", "part"]


@pytest.mark.parametrize(
    ("budgets", "after"),
    [
        ((1.0, 1.0, 1.0, 0.2, 0.2), ["3", "0", "4", "1", "2"]),
        ((0.2, 1.0, 0.2, 0.2), ["0", "1", "2", "3"]),
        ((1.0, 1.0), ["0", "1"]),
    ],
)
def test_what_compiles_often_begins_early_and_on_many_workers(budgets: tuple[float, ...], after: list[str]) -> None:
    """xdist gives a worker two neighbours to begin with: a slow part and a quick one, while there are both."""
    items = [
        SimpleNamespace(
            name=str(position),
            fixturenames=["part"],
            callspec=SimpleNamespace(params={"part": part_of(budget)}),
        )
        for position, budget in enumerate(budgets)
    ]
    assert ordered(items) == after


def part_of(budget: float) -> Part:
    kernel: Any = SimpleNamespace(name="made", budget=budget)
    return Part(Registered(kernel, "here"), st.nothing(), 1, 0)


def ordered(items: list[SimpleNamespace]) -> list[str]:
    """Names in the order in which a worker tells xdist of them."""
    config: Any = SimpleNamespace(
        getoption=lambda name: None, hook=SimpleNamespace(pytest_deselected=lambda items: None)
    )
    collected: Any = items
    Worker.pytest_collection_modifyitems(SimpleNamespace(), config, collected)  # type: ignore[arg-type]
    return [item.name for item in collected]
