import json
import shlex
import subprocess
from collections.abc import Callable
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from fa2verify.reports.failures import compact, failures, rerun
from fa2verify.reports.store import Loaded, RunRecords

Make = Callable[..., Any]


def test_shrunk_stands_for_the_drawn_of_its_way(make_record: Make, one_run: Make) -> None:
    found = failures(
        one_run(
            make_record("failed", rule="R2", problem={"head_dim": 64, "heads_q": 8}),
            make_record("failed", rule="R2", problem={"head_dim": 128}),
            make_record("failed", rule="R0", problem={"head_dim": 32, "heads_q": 2}),
            make_record("failed", rule="R0", problem={"head_dim": 32}),
            make_record("passed"),
            make_record("failed", rule="R2", problem={"head_dim": 1}, phase="shrunk", message="first"),
            make_record("failed", rule="R2", problem={"head_dim": 1}, phase="shrunk", message="again"),
            make_record("crashed", "other"),
        )
    )
    assert [(one.record.kernel, one.record.rule, one.record.problem, one.times) for one in found] == [
        ("ours", "R2", {"head_dim": 1}, 2),
        ("ours", "R0", {"head_dim": 32}, 2),
        ("other", None, {"head_dim": 32}, 1),
    ]
    assert found[0].record.message == "first"


def test_several_tests_find_one_defect(make_record: Make, one_run: Make) -> None:
    shrunk = [
        make_record("failed", rule="R2", problem={"seed": 10**size}, phase="shrunk", test=f"test_{size}")
        for size in (5, 1, 2, 3, 1)
    ]
    found = failures(one_run(*shrunk))
    assert [one.record.problem["seed"] for one in found] == [10, 100, 1000]
    assert found[0].tests == ("test_5", "test_1", "test_2", "test_3")


def test_one_failure_on_two_machines_is_told_once(make_run: Make, make_record: Make) -> None:
    record = make_record("failed", phase="shrunk")
    loaded = Loaded(tuple(RunRecords(make_run(name), (), (record,)) for name in ("cpu", "gpu")))
    (found,) = failures(loaded)
    assert ([run.id for run in found.runs], found.times) == (["cpu", "gpu"], 1)


def test_a_kernel_from_the_command_line_is_rerun_from_there(
    make_kernel: Make, make_record: Make, one_run: Make
) -> None:
    kernels = (make_kernel("mine", origin="--kernel=mod:attn"), make_kernel("ours"))
    found = failures(one_run(make_record("failed", "mine"), make_record("failed", "ours"), kernels=kernels))
    assert [one.rerun for one in found] == [
        "fa2verify check mod:attn '{\"head_dim\":32}'",
        "fa2verify check ours '{\"head_dim\":32}'",
    ]


def test_fields_are_flat(make_record: Make, one_run: Make) -> None:
    problem = {"lengths": {"seqlens_q": [1, 2]}, "causal": "top_left", "scale": 0.5}
    (found,) = failures(one_run(make_record("failed", problem=problem)))
    assert found.fields == (("seqlens_q", "[1, 2]"), ("causal", "top_left"), ("scale", "0.5"))


TEXT = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1)


@given(TEXT, st.dictionaries(TEXT, TEXT | st.integers() | st.floats(allow_nan=False), max_size=3))
def test_the_rerun_line_says_the_same_to_a_shell(kernel: str, problem: dict[str, Any]) -> None:
    words = shlex.split(rerun(kernel, problem, "R1 out"))
    assert words[:2] == ["fa2verify", "check"]
    assert words[2:-2] == (["--"] if kernel.startswith("-") else [])
    assert words[-2] == kernel
    assert json.loads(words[-1]) == problem


@settings(max_examples=10, deadline=None)  # each example starts a shell
@given(TEXT)
def test_the_rerun_line_survives_a_real_shell(kernel: str) -> None:
    line = rerun(kernel, {"note": 'it\'s $HOME `x` \\ "q"'}, None).removeprefix("fa2verify")
    shell = subprocess.run(["sh", "-c", f"printf '%s\\0' {line}"], capture_output=True, check=True)
    assert shell.stdout.decode().split("\0")[-3:-1] == [kernel, compact({"note": 'it\'s $HOME `x` \\ "q"'})]
