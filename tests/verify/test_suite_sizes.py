"""A run of the whole suite tries large problems, here in small; where it leaves them out is in test_suite_passes.py."""

from types import SimpleNamespace
from typing import Any

from fa2verify.verify.suite.worker import Worker


def test_a_wrapped_index_fails_the_run(suite: Any) -> None:
    done = suite.run("-n", "2", "-p", "small_limits", "-k", "test_sizes", kernels=["right", "wraps"])
    assert done.returncode == 1, done.stdout + done.stderr
    assert "foreign:wraps: failed, R0 out finite" in done.stdout
    assert '"values":"sampled"' in done.stdout, "one line runs it again"
    verdicts = {record.kernel: record.verdict for record in suite.loaded().records}
    assert verdicts == {"foreign:right": "passed", "foreign:wraps": "failed"}


def test_they_come_first() -> None:
    """Whoever comes to them late would wait for the others, at the end of a run, and be waited for."""
    items: Any = [SimpleNamespace(name=name, fixturenames=[name]) for name in ("part", "known", "large", "part")]
    config: Any = SimpleNamespace(
        getoption=lambda name: None, hook=SimpleNamespace(pytest_deselected=lambda items: None)
    )
    Worker.pytest_collection_modifyitems(SimpleNamespace(), config, items)  # type: ignore[arg-type]
    assert [item.name for item in items] == ["large", "part", "known", "part"]
