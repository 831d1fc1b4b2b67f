"""What is trained of GPT-2: cells, room for lanes, and orders."""

import math
import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401

# isort: on
from fa2verify.benchmarks.gpt2 import plan
from fa2verify.benchmarks.gpt2.plan import Cell, cells, lanes_for, loss_order, orders, selected, together
from fa2verify.benchmarks.gpt2.training import bytes_without_tokens, weight_count
from fa2verify.benchmarks.session import SESSION

GB = 10**9
KERNELS = [SimpleNamespace(name=name) for name in ("standard", "torch-flash", "fa2verify-cuda")]


class Asked:
    """As much of pytest's configuration as the plan asks for."""

    def __init__(self, lanes: int, memories: tuple[float, ...] = (12.0, 0.0), device: str = "cuda") -> None:
        self._options: dict[str, Any] = {
            "--bench-lanes": lanes,
            "--bench-model": ["small"],
            "--bench-context": [256],
            "--bench-memory": list(memories),
            "--bench-steps": 125,
            "--bench-dtype": "float16",
        }
        self.bench = SimpleNamespace(device=torch.device(device), kernels=KERNELS)
        self.stash = {SESSION: self.bench}

    def getoption(self, name: str) -> Any:
        return self._options[name]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=17 * GB))
    monkeypatch.setattr(plan, "available", lambda device: ("torch-flash", "fa2verify-cuda", "standard"))


@pytest.mark.usefixtures("gpu")
def test_in_lanes_all_memory_is_what_the_others_leave() -> None:
    weights = 4 * weight_count("small", 256)
    for lanes, there, name in ((1, 0, "small-c256-all"), (3, 13 * GB - 2 * weights, "small-c256-12.2gb")):
        limited, whole = cells(Asked(lanes))  # type: ignore[arg-type]
        assert (limited.name, limited.memory) == ("small-c256-12gb", 12 * GB)
        assert (whole.name, whole.memory) == (name, there)
    assert cells(Asked(3, device="cpu")) == [Cell("tiny", 32, 0)]  # type: ignore[arg-type]


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("lanes", "memory", "leave", "needed"), [(4, 12.0, "10.8", "12.0"), (13, 0.0, "0.0", "1.6")])
def test_lanes_that_leave_too_little_end_the_run_before_it_begins(
    lanes: int, memory: float, leave: str, needed: str
) -> None:
    message = rf"--bench-lanes={lanes}: .* leave {leave} GB of this GPU to one .*; {needed} GB are asked for"
    with pytest.raises(pytest.Collector.CollectError, match=message):
        cells(Asked(lanes, (memory,)))  # type: ignore[arg-type]
    assert cells(Asked(1, (memory,)))  # type: ignore[arg-type]
    assert bytes_without_tokens("small", 256) == 16 * weight_count("small", 256)


def test_what_is_trained_is_what_the_tests_ask_for() -> None:
    one, other = Cell("small", 256, 0), Cell("large", 256, 0)

    def item(**params: object) -> SimpleNamespace:
        return SimpleNamespace(callspec=SimpleNamespace(params=params))

    items = [
        item(cell=one, attention="torch-flash", mode="compiled"),
        item(cell=one, attention="torch-flash", mode="eager"),
        item(cell=other, attention="standard", mode="eager"),
        item(cell="of another benchmark", kernel="torch-flash"),
        item(model="small"),
        SimpleNamespace(),
    ]
    assert selected(SimpleNamespace(items=items)) == {  # type: ignore[arg-type]
        one: {"torch-flash": ["compiled", "eager"]},
        other: {"standard": ["eager"]},
    }


@pytest.mark.usefixtures("gpu")
def test_an_order_is_for_what_is_asked_with_the_batch_of_all() -> None:
    config: Any = Asked(3)
    asked = {
        Cell("small", 256, 12 * GB): {"fa2verify-cuda": ["eager"], "standard": ["compiled"]},
        Cell("small", 512, 0): {"torch-flash": ["eager"]},
    }
    one, other = orders(config.bench, config, asked, time.monotonic() + 100)
    assert (one.attentions, one.modes) == (("fa2verify-cuda", "standard"), ("compiled", "eager"))
    assert (other.attentions, other.modes) == (("torch-flash",), ("eager",))
    for order, cell in ((one, (256, 12 * GB)), (other, (512, 0))):
        assert (order.context, order.memory) == cell
        assert order.searched == ("torch-flash", "fa2verify-cuda", "standard")
        assert (order.steps, order.dtype, order.batch, order.twins) == (125, "float16", 0, 0)
        # Two cells have twice the time of one.
        assert 199 < order.seconds <= 200


@pytest.mark.usefixtures("gpu")
def test_losses_are_those_of_all_attentions_without_a_limit() -> None:
    config: Any = Asked(3)
    order = loss_order(config.bench, config, "small", math.inf)
    assert (order.attentions, order.context, order.memory) == (("torch-flash", "fa2verify-cuda", "standard"), 1024, 0)
    assert (order.steps, order.twins, order.batch) == (20, 19, 4)


def test_no_limit_is_an_hour_a_cell() -> None:
    assert together(math.inf, 3) - time.monotonic() == pytest.approx(3 * 3600, abs=1)


def test_fewer_lanes_than_asked_for_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    bench: Any = SimpleNamespace(tell=told.append)
    monkeypatch.setattr(plan, "cores_here", lambda: set(range(6)))
    assert lanes_for(bench, 3) == ((0, 1), (2, 3), (4, 5))
    assert told == []
    assert len(lanes_for(bench, 4)) == 3
    assert told == ["GPT-2: 3 of 4 lanes, as 6 CPU cores give 2 to no more"]
