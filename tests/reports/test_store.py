import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fa2verify.reports.record import KernelEntry, OutputError, Record, Run, from_json, to_json
from fa2verify.reports.store import Writer, clear, load, merge

Make = Callable[..., Any]

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | INTEGERS | st.floats() | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
SENTENCES = st.lists(TEXT, max_size=3).map(tuple)

errors = st.builds(
    OutputError,
    output=st.sampled_from(["out", "lse", "dq", "dk", "dv"]),
    elements=INTEGERS,
    max_abs=st.floats(),
    baseline=st.none() | st.floats(),
    bound_units=st.floats(),
    limit=st.floats(),
    rmse=st.floats(),
    reference_rms=st.floats(),
    bias=st.floats(),
    ulps=st.lists(INTEGERS, max_size=4).map(tuple),
    worst_index=st.lists(INTEGERS, max_size=4).map(tuple),
    observed=st.floats(),
    expected=st.floats(),
)
records = st.builds(
    Record,
    kernel=TEXT,
    problem=st.dictionaries(TEXT, JSON, max_size=3),
    features=SENTENCES,
    verdict=st.sampled_from(["passed", "failed", "unsupported", "crashed", "timed_out"]),
    rule=st.none() | TEXT,
    message=TEXT,
    reasons=SENTENCES,
    errors=st.lists(errors, max_size=2).map(tuple),
    decoys=st.dictionaries(TEXT, st.sampled_from(["caught", "missed", "too_close"]), max_size=3),
    phase=st.sampled_from(["drawn", "shrunk"]),
    reference=st.sampled_from(["fp64", "fp32"]),
    seconds=st.floats(),
    test=TEXT,
)
kernels = st.builds(
    KernelEntry,
    name=TEXT,
    lineage=TEXT,
    origin=TEXT,
    unavailable=SENTENCES,
    unsupported=st.dictionaries(TEXT, SENTENCES, max_size=3),
)
runs = st.builds(
    Run,
    id=TEXT,
    started=TEXT,
    profile=TEXT,
    seed=INTEGERS,
    device=TEXT,
    environment=st.dictionaries(TEXT, TEXT, max_size=3),
    features=SENTENCES,
)


def write(path: Path, *lines: Run | KernelEntry | Record) -> Path:
    with Writer(path) as writer:
        for line in lines:
            writer.write(line)
    return path


@given(records | kernels | runs)
def test_every_line_survives_the_round_trip(line: Run | KernelEntry | Record) -> None:
    text = to_json(line)
    assert "\n" not in text
    assert repr(from_json(text)) == repr(line)  # by text: NaN is not equal to itself, and -0.0 is to 0.0


@given(run=runs, kernel=kernels, seen=st.lists(records, max_size=4))
def test_load_reads_what_the_writer_wrote(
    tmp_path_factory: pytest.TempPathFactory, run: Run, kernel: KernelEntry, seen: list[Record]
) -> None:
    path = write(tmp_path_factory.mktemp("run") / "records.jsonl", run, kernel, *seen)
    loaded = load([path])
    assert loaded.losses == ()
    assert loaded.runs == (run,)
    assert loaded.kernels == (kernel,)
    assert repr(loaded.records) == repr(tuple(seen))


def test_every_cut_of_the_last_line_keeps_the_others(tmp_path: Path, make_run: Make, make_record: Make) -> None:
    kept = make_record(message="kept")
    path = write(tmp_path / "records.jsonl", make_run(), kept, make_record(message="cut off"))
    content = path.read_bytes()
    last = content.rindex(b"\n", 0, -1) + 1
    for end in range(last + 1, len(content) - 1):
        path.write_bytes(content[:end])
        loaded = load([path])
        assert loaded.records == (kept,), end
        assert loaded.losses == (
            f"records.jsonl, line 3: cut off, its process ended while writing it (in {tmp_path.resolve()})",
        )


def test_a_last_line_that_lacks_only_its_end_is_whole(tmp_path: Path, make_run: Make, make_record: Make) -> None:
    path = write(tmp_path / "records.jsonl", make_run(), make_record())
    path.write_bytes(path.read_bytes().removesuffix(b"\n"))
    loaded = load([path])
    assert (len(loaded.records), loaded.losses) == (1, ())


@pytest.mark.parametrize(
    ("garbage", "said"),
    [
        (b"\xff\xfe\x00", "not a record, Invalid JSON"),
        (b"[]", "not a record, Input should be an object"),
        (b'{"kind":"sonnet"}', "'sonnet'"),
        (b'{"kind":"verdict","kernel":"k"}', "not a record, verdict.problem: Field required"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_garbage_in_the_middle_is_said_and_passed_over(
    tmp_path: Path, make_run: Make, make_record: Make, garbage: bytes, said: str
) -> None:
    path = write(tmp_path / "records.jsonl", make_run(), make_record(message="before"))
    with path.open("ab") as file:
        file.write(garbage + b"\n")
    write(path, make_record(message="after"))
    loaded = load([path])
    assert [record.message for record in loaded.records] == ["before", "after"]
    (loss,) = loaded.losses
    assert loss.startswith("records.jsonl, line 3: ")
    assert said in loss


def test_a_killed_process_loses_nothing_that_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    program = f"""
import os, pathlib, signal
from fa2verify.reports.record import Run
from fa2verify.reports.store import Writer
with Writer(pathlib.Path({str(path)!r})) as writer:
    writer.write(Run(id="killed", started="", profile="", seed=0, device="", environment={{}}, features=()))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = subprocess.run([sys.executable, "-c", program], check=False, cwd=tmp_path)
    assert ended.returncode == -signal.SIGKILL
    assert [run.id for run in load([path]).runs] == ["killed"]


def test_writing_after_a_cut_off_line_does_not_lose_the_next(tmp_path: Path, make_run: Make, make_record: Make) -> None:
    path = write(tmp_path / "records.jsonl", make_run(), make_record())
    path.write_bytes(path.read_bytes()[:-5])
    write(path, make_record(message="next"))
    assert [record.message for record in load([path]).records] == ["next"]


def test_a_message_that_is_no_unicode_is_still_recorded(tmp_path: Path, make_run: Make, make_record: Make) -> None:
    record = make_record("failed", message="cannot open a\udcffb", reasons=("\ud800",))
    (read,) = load([write(tmp_path / "records.jsonl", make_run(), record)]).records
    assert (read.message, read.reasons) == (r"cannot open a\udcffb", (r"\ud800",))


def test_a_folder_means_its_records_and_what_was_not_merged(tmp_path: Path, make_run: Make, make_record: Make) -> None:
    for name in ("records.jsonl", "records-gw0.jsonl", "records-gw1.jsonl", "other.jsonl"):
        write(tmp_path / name, make_run(), make_record(message=name))
    loaded = load([tmp_path, tmp_path / "records-gw1.jsonl"])
    assert len(loaded.runs) == 1
    assert [record.message for record in loaded.records] == ["records.jsonl", "records-gw0.jsonl", "records-gw1.jsonl"]


def test_records_keep_their_run_and_equal_kernels_are_one(
    tmp_path: Path, make_run: Make, make_kernel: Make, make_record: Make
) -> None:
    entry = make_kernel(unsupported={"dropout": ("No dropout.",)})
    for name in ("a", "b"):
        write(tmp_path / name / "records.jsonl", make_run(name), entry, entry, make_record(message=name))
    loaded = load([tmp_path / "b", tmp_path / "a"])
    assert [(part.run.id, part.kernels, part.records[0].message) for part in loaded.parts if part.run] == [
        ("b", (entry,), "b"),
        ("a", (entry,), "a"),
    ]
    assert loaded.kernels == (entry,)


def test_two_descriptions_of_one_run_are_said(tmp_path: Path, make_run: Make) -> None:
    write(tmp_path / "records-0.jsonl", make_run())
    write(tmp_path / "records-1.jsonl", make_run(device="cuda"))
    loaded = load([tmp_path])
    assert [run.device for run in loaded.runs] == ["cpu"]
    assert "records-1.jsonl, line 1: describes run 'run-1' differently" in loaded.losses[0]


def test_records_without_a_run_are_kept_and_said(tmp_path: Path, make_record: Make) -> None:
    loaded = load([write(tmp_path / "records.jsonl", make_record())])
    assert [part.run for part in loaded.parts] == [None]
    assert len(loaded.records) == 1
    assert "records.jsonl: does not begin with a run" in loaded.losses[0]


def test_an_empty_file_is_a_run_that_left_nothing(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").touch()
    assert load([tmp_path]).parts == ()


def test_missing_paths_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere: does not exist; give a folder"):
        load([tmp_path / "nowhere"])
    with pytest.raises(FileNotFoundError, match=r"holds neither records\.jsonl nor records-\*\.jsonl"):
        load([tmp_path])


@pytest.fixture
def parts(tmp_path: Path, make_run: Make, make_record: Make) -> Path:
    """A folder with an earlier `records.jsonl`, two parts, and a line that was cut off."""
    write(tmp_path / "records.jsonl", make_run(), make_record(message="merged"))
    write(tmp_path / "records-gw0.jsonl", make_run(), make_record(message="gw0"))
    write(tmp_path / "records-gw1.jsonl", make_run(), make_record(message="gw1"))
    with (tmp_path / "records-gw0.jsonl").open("ab") as file:
        file.write(b'{"kind":"verd')
    return tmp_path


ALL = ["merged", "gw0", "gw1"]


def messages(directory: Path) -> list[str]:
    return [record.message for record in load([directory]).records]


def test_merge_joins_the_parts_and_goes_on_reporting_what_is_lost(parts: Path) -> None:
    assert messages(parts) == ALL
    assert merge(parts) == parts / "records.jsonl"
    assert [path.name for path in parts.iterdir()] == ["records.jsonl"]
    loaded = load([parts])
    assert [record.message for record in loaded.records] == ALL
    (loss,) = loaded.losses
    assert loss.startswith("records.jsonl, line 5: not a record, Invalid JSON")
    assert merge(parts) == parts / "records.jsonl"
    assert messages(parts) == ALL


def test_a_merge_that_dies_before_removing_parts_counts_nothing_twice(
    parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(path: Path, **_: object) -> None:
        if path.name == "records-gw1.jsonl":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", die)
        with pytest.raises(KeyboardInterrupt):
            merge(parts)
    assert (parts / "records-gw0.jsonl").exists()
    assert messages(parts) == ALL
    merge(parts)
    assert not list(parts.glob("records-*"))
    assert messages(parts) == ALL


def test_a_merge_that_cannot_write_changes_nothing(parts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    before = {path.name: path.read_bytes() for path in parts.iterdir()}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left"):
            merge(parts)
    assert {path.name: path.read_bytes() for path in parts.iterdir()} == before


def test_clear_leaves_other_files(parts: Path) -> None:
    (parts / "index.html").touch()
    clear(parts)
    assert [path.name for path in parts.iterdir()] == ["index.html"]
