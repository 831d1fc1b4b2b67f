"""GPT-2's processes: what they hand over, one or several at a time, and what becomes of those that end early."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import trained as made_up

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401

# isort: on
from fa2verify.benchmarks.gpt2 import lanes as lanes_module
from fa2verify.benchmarks.gpt2.lanes import ALONE, LEAST_CORES, Late, cores_here, lanes_on, room, trained
from fa2verify.benchmarks.gpt2.process import Order
from fa2verify.reports.benchmark_record import Measurement, Training, to_json

GB = 10**9
TWO = ((), ())

# A training process that writes down when each of its steps began and ended. Steps begin when two processes are there
# to take them, so that they would meet; torch-math's dies in its second one. Batches are found without a search.
WATCHED = """
import json, os, signal, sys, time
from pathlib import Path

from fa2verify.benchmarks.gpt2 import training
from fa2verify.benchmarks.gpt2.process import main

log, order = Path(sys.argv[1]), json.loads(sys.argv[2])
step = training.Trainer.step
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

training.Trainer.step = watched
training.largest_batch = lambda setting, attention, limit: write(searched=attention) or len(attention)
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

# One that stops the others when there is another one, and dies; and the other.
STOPS = """
import json, os, signal, sys, time
from pathlib import Path

from fa2verify.benchmarks.gpt2.turn import Turn

order = json.loads(sys.argv[2])
turn = Path(order["turn"])
if order["attentions"] == ["stops"]:
    while not turn.with_name("there").exists():
        time.sleep(0.01)
    with Turn(str(turn), "cpu").quiet():
        os.kill(os.getpid(), signal.SIGKILL)
turn.with_name("there").touch()
time.sleep(1)
print(sys.argv[1], flush=True)
"""
# One that says when it began, and finds a batch of ten times the context, or at context 9 none.
SEARCHED = """
import json, sys, time
from pathlib import Path

order = json.loads(sys.argv[2])
with Path(sys.argv[1]).open("a") as file:
    searches = not order["modes"]
    line = {key: order[key] for key in ("context", "attentions", "batch")} | {"searches": searches}
    file.write(json.dumps(line) + "\\n")
if searches:
    if order["context"] == 9:
        sys.exit("nothing fits")
    time.sleep(1.5 if order["context"] == 8 else 0)
    batch = {"kind": "batch", "quadratic": True, "size": 10 * order["context"], "source": "here"}
    print(json.dumps(batch, separators=(",", ":")))
else:
    print(RECORD)
""".replace("RECORD", repr(to_json(made_up())))


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
    monkeypatch.setattr(lanes_module, "_COMMAND", (sys.executable, "-c", script, argument))


def test_a_process_gives_its_records() -> None:
    (record,) = trained([order(steps=2)])
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
            collect(trained([order(attentions=("torch-math", "fa2verify-triton"), batch=0)], lanes), records)
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
    assert found.pop("search") == everything[:1]  # it comes first, and takes the first lane
    assert sorted(found) == ["['fa2verify-triton']", "['torch-math']"]
    assert sorted(found.values()) == [everything[:1], everything]


def test_a_process_that_fails_says_why_when_the_others_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, PUPPET, to_json(made_up()))
    lines = trained([order(attentions=("bad", "good", "good"))], TWO)
    assert list(zip(range(3), lines, strict=False)) == [(number, made_up()) for number in range(3)]
    with pytest.raises(RuntimeError, match=r"^training GPT-2 tiny at context 16 ended early \(bad\): what went wrong$"):
        next(lines)


def test_a_lane_takes_what_can_begin(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of three cells whose batches are searched for, and one of them in vain."""
    log = tmp_path / "log"
    play(monkeypatch, SEARCHED, str(log))
    orders = [order(context=context, attentions=("torch-math", "standard"), batch=0) for context in (8, 9, 10)]
    records = []
    with pytest.raises(RuntimeError, match=r"^training GPT-2 tiny at context 9 ended early .*: nothing fits$"):
        collect(trained(orders, TWO), records)
    began = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted((line["context"], line["searches"]) for line in began[:2]) == [(8, True), (9, True)]
    # Context 10's search is begun while both of context 8's wait for theirs, which takes longest.
    assert [line["context"] for line in began if line["searches"]][2:] == [10]
    found = [(line["context"], *line["attentions"], line["batch"]) for line in began if not line["searches"]]
    assert sorted(found) == [(8, "standard", 80), (8, "torch-math", 80), (10, "standard", 100), (10, "torch-math", 100)]
    assert len(records) == 4


def test_nothing_begins_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, PUPPET, to_json(made_up()))
    assert list(trained([order(attentions=("good",) * 3, seconds=0.1)], TWO)) == [made_up()] * 2


def test_whoever_stops_listening_ends_the_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    def children() -> set[str]:
        return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())

    play(monkeypatch, PUPPET, to_json(made_up()))
    others = children()  # of other tests, as a library's that lives on
    lines = trained([order(attentions=("stays", "stays", "stays"))], TWO)
    begin = time.monotonic()
    next(lines)
    assert len(children() - others) >= 2
    lines.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begin < 60
    assert not children() - others


def test_who_was_stopped_by_one_that_died_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    play(monkeypatch, STOPS, to_json(made_up()))
    lines = trained([order(attentions=("stops", "stopped"), seconds=60.0)], TWO)
    assert next(lines) == made_up()
    with pytest.raises(
        RuntimeError, match=r"^training GPT-2 tiny at context 16 ended early \(stops\): killed by signal 9$"
    ):
        next(lines)


def test_a_process_that_stays_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, PUPPET, to_json(made_up()))
    monkeypatch.setattr(lanes_module, "_GRACE_SECONDS", 0.0)
    with pytest.raises(Late, match=r"was ended \(stays\): still at it 0 s after its time$"):
        list(trained([order(attentions=("stays",), seconds=0.1)]))


def test_one_that_fails_beside_one_that_is_late_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    play(monkeypatch, PUPPET, to_json(made_up()))
    monkeypatch.setattr(lanes_module, "_GRACE_SECONDS", 0.0)
    with pytest.raises(RuntimeError, match="ended early") as raised:
        list(trained([order(attentions=("stays", "bad"), seconds=2.0)], TWO))
    assert raised.type is RuntimeError


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


def test_whose_turn_it_is_has_what_contexts_and_waiting_weights_leave() -> None:
    assert room(1, 3 * GB, 20 * GB) == 18 * GB  # this process' context, and its own
    assert room(4, 3 * GB, 20 * GB) == 6 * GB
    assert room(9, 3 * GB, 20 * GB) == 0
