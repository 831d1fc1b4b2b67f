"""GPT-2's processes: what they hand over, one or several at a time, and what becomes of those that end early."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up import trained as made_up

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401

# isort: on
from fa2verify.benchmarks import bench_gpt2, gpt2_lanes
from fa2verify.benchmarks.bench_gpt2 import Cell, cells, lanes_for
from fa2verify.benchmarks.gpt2_lanes import ALONE, LEAST_CORES, cores_here, lanes_on, no_room, trained
from fa2verify.benchmarks.gpt2_process import Order
from fa2verify.benchmarks.session import SESSION
from fa2verify.reports.benchmark_record import Measurement, Training, to_json

GB = 10**9
TWO = ((), ())

# A training process that writes down when each of its steps began and ended. Steps begin when two processes are there
# to take them, so that they would meet; torch-math's dies in its second one. Batches are found without a search.
WATCHED = """
import json, os, signal, sys, time
from pathlib import Path

from fa2verify.benchmarks import gpt2_training
from fa2verify.benchmarks.gpt2_process import main

log, order = Path(sys.argv[1]), json.loads(sys.argv[2])
step = gpt2_training.Trainer.step
steps = []

def write(**line):
    with log.open("a") as file:
        file.write(json.dumps({"pid": os.getpid(), "cores": sorted(os.sched_getaffinity(0)), **line}) + "\\n")

def watched(trainer, tokens):
    begin = time.monotonic()
    loss = step(trainer, tokens)
    time.sleep(0.2)
    steps.append(tokens)
    write(attentions=order["attentions"], begin=begin, end=time.monotonic())
    if order["attentions"] == ["torch-math"] and len(steps) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return loss

gpt2_training.Trainer.step = watched
gpt2_training.largest_batch = lambda setting, attention: write(searched=attention) or len(attention)
if order["modes"]:
    log.with_name(f"there-{os.getpid()}").touch()
    while len(list(log.parent.glob("there-*"))) < 2:
        time.sleep(0.01)
main(sys.argv[2:])
"""
# One that says what it is told to, and stays or goes as it is told to.
PUPPET = """
import json, sys, time

order = json.loads(sys.argv[2])
print("not a record", flush=True)
print(sys.argv[1], flush=True)
if order["attentions"] == ["bad"]:
    sys.exit("what went wrong")
time.sleep(600 if order["attentions"] == ["stays"] else 0.3)
"""


def order(**given: Any) -> Order:
    defaults: dict[str, Any] = {
        "model": "tiny",
        "context": 16,
        "steps": 3,
        "dtype": "bfloat16",
        "device": "cpu",
        "attentions": ("standard",),
        "modes": ("eager",),
        "batch": 2,
        "seconds": 120.0,
    }
    return Order(**(defaults | given))


def play(monkeypatch: pytest.MonkeyPatch, script: str, argument: str) -> None:
    monkeypatch.setattr(gpt2_lanes, "_COMMAND", (sys.executable, "-c", script, argument))


def test_a_process_gives_its_records() -> None:
    (record,) = trained(order(steps=2))
    assert isinstance(record, Training)
    assert (record.attention, record.outcome, len(record.losses), record.batch_from) == (
        "standard",
        "measured",
        2,
        "given",
    )


class Run(NamedTuple):
    records: list[Measurement]
    error: str
    log: list[dict[str, Any]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two lanes, of which the first dies in its turn."""
    log = tmp_path_factory.mktemp("lanes") / "log"
    records: list[Measurement] = []
    lanes = [(min(cores_here()),), tuple(cores_here())]
    with pytest.MonkeyPatch.context() as patch:
        play(patch, WATCHED, str(log))
        patch.setenv("OMP_NUM_THREADS", "1")
        with pytest.raises(RuntimeError) as caught:
            collect(trained(order(attentions=("torch-math", "fa2verify-triton"), batch=0), lanes), records)
    return Run(records, str(caught.value), [json.loads(line) for line in log.read_text().splitlines()])


def collect(lines: Iterator[Measurement], records: list[Measurement]) -> None:
    """What came before an error."""
    for line in lines:
        records.append(line)  # noqa: PERF402 - `extend` need not add what came


def test_a_lane_that_dies_leaves_the_others_their_records(run: Run) -> None:
    (record,) = run.records
    assert isinstance(record, Training)
    assert (record.attention, record.outcome, len(record.losses)) == ("fa2verify-triton", "measured", 3)
    assert run.error == "training GPT-2 tiny at context 16 ended early (torch-math): killed by signal 9"


def test_trainings_in_lanes_do_not_meet(run: Run) -> None:
    spans: dict[int, tuple[float, float]] = {}
    for line in run.log:
        if "begin" in line:
            begin, end = spans.get(line["pid"], (line["begin"], line["end"]))
            spans[line["pid"]] = min(begin, line["begin"]), max(end, line["end"])
    one, other = sorted(spans.values())
    assert one[1] <= other[0], spans


def test_batches_are_found_once_before_the_lanes_begin(run: Run) -> None:
    (record,) = run.records
    assert isinstance(record, Training)
    assert (record.batch, record.batch_from) == (len("fa2verify-triton"), "largest of fa2verify-triton, eager")
    assert [line.get("searched") for line in run.log] == ["torch-math", "fa2verify-triton", *[None] * 5]


def test_a_lane_keeps_to_its_cores(run: Run) -> None:
    everything = sorted(cores_here())
    found = {str(line.get("attentions", "search")): line["cores"] for line in run.log}
    assert found == {
        "search": everything,
        "['fa2verify-triton']": everything,
        "['torch-math']": everything[:1],
    }


def test_a_process_that_fails_says_why_when_the_others_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, PUPPET, to_json(made_up()))
    lines = trained(order(attentions=("bad", "good", "good")), TWO)
    assert list(zip(range(3), lines, strict=False)) == [(number, made_up()) for number in range(3)]
    with pytest.raises(RuntimeError, match=r"^training GPT-2 tiny at context 16 ended early \(bad\): what went wrong$"):
        next(lines)


def test_nothing_begins_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, PUPPET, to_json(made_up()))
    assert list(trained(order(attentions=("good",) * 3, seconds=0.1), TWO)) == [made_up()] * 2


def test_whoever_stops_listening_ends_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    play(monkeypatch, PUPPET, to_json(made_up()))
    others = children()  # of other tests, as a library's that lives on
    lines = trained(order(attentions=("stays", "stays", "stays")), TWO)
    begin = time.monotonic()
    next(lines)
    assert len(children() - others) >= 2
    lines.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begin < 60
    assert not children() - others


def test_a_process_that_stays_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, PUPPET, to_json(made_up()))
    monkeypatch.setattr(gpt2_lanes, "_GRACE_SECONDS", 0.0)
    with pytest.raises(RuntimeError, match=r"\(stays\): killed by signal 9$"):
        list(trained(order(attentions=("stays",), seconds=0.1)))


@given(st.sets(st.integers(0, 255)), st.integers(1, 20))
def test_lanes_share_the_cores_evenly(cores: set[int], asked: int) -> None:
    lanes = lanes_on(cores, asked)
    if not cores:
        assert lanes == ((),) * asked
    elif asked == 1 or len(cores) < 2 * LEAST_CORES:
        assert lanes == ALONE
    else:
        assert len(lanes) == min(asked, len(cores) // LEAST_CORES)
        assert sorted(core for lane in lanes for core in lane) == sorted(cores)
        assert max(map(len, lanes)) - min(map(len, lanes)) <= 1


def test_lanes_need_room_on_the_gpu() -> None:
    assert no_room(10, 12 * GB, 131 * GB) == ""
    assert no_room(1, 12 * GB, 12 * GB) == ""
    assert no_room(11, 12 * GB, 131 * GB) == (
        "--bench-lanes=11: as many processes with 12 GB each, beside 1 GB for each CUDA context, do not fit into this "
        "GPU's 131.0 GB; at most 10 can be"
    )
    assert no_room(2, 12 * GB, 12 * GB).endswith("at most 1 can be")


class Asked:
    """As much of pytest's configuration as the choice of cells and lanes asks for."""

    def __init__(self, lanes: int, **session: Any) -> None:
        self._options = {
            "--bench-lanes": lanes,
            "--bench-model": ["small"],
            "--bench-context": [256],
            "--bench-memory": [12.0, 0.0],
        }
        self.stash = {SESSION: SimpleNamespace(device=torch.device("cuda"), **session)}

    def getoption(self, name: str) -> Any:
        return self._options[name]


def test_too_many_lanes_end_the_run_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=27 * GB))
    assert [cell.name for cell in cells(Asked(2))] == ["small-c256-12gb", "small-c256-all"]  # type: ignore[arg-type]
    with pytest.raises(pytest.Collector.CollectError, match=r"--bench-lanes=3: .* at most 2 can be"):
        cells(Asked(3))  # type: ignore[arg-type]


def test_fewer_lanes_than_asked_for_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    bench: Any = SimpleNamespace(device=torch.device("cuda"), tell=told.append)
    monkeypatch.setattr(bench_gpt2, "cores_here", lambda: set(range(6)))
    assert lanes_for(bench, 3, Cell("small", 256, 12 * GB)) == ((0, 1), (2, 3), (4, 5))
    assert told == []
    assert len(lanes_for(bench, 4, Cell("small", 256, 12 * GB))) == 3
    assert lanes_for(bench, 4, Cell("small", 256, 0)) == ALONE
    assert told == [
        "GPT-2 small-c256-12gb: 3 of 4 lanes, as 6 CPU cores give 2 to no more",
        "GPT-2 small-c256-all: 1 of 4 lanes, as one process has all the memory",
    ]
