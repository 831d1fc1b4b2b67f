from collections.abc import Callable
from typing import Any

from fa2verify.reports.slices import Choice, choices, place, slices

Make = Callable[..., Any]


def test_every_setting_leaves_its_records(make_record: Make, one_run: Make) -> None:
    half = make_record(problem={"head_dim": 8})
    brain = make_record(problem={"dtype": "bfloat16", "head_dim": 8})
    both = make_record(problem={"dtype": "bfloat16", "direction": "forward_backward"})
    strange = make_record(problem={"head_dim": "many"})
    loaded = one_run(brain, half, both, strange)
    assert [choice.labels for choice in choices(loaded)] == [
        ("all", "float16", "bfloat16"),
        ("all", "forward", "forward + backward"),
    ]
    found = {(part.dtype, part.direction, part.label): part.loaded.records for part in slices(loaded)}
    assert found == {
        (0, 0, "all"): (brain, half, both, strange),
        (0, 1, "forward"): (brain, half),
        (0, 2, "forward + backward"): (both,),
        (1, 0, "float16"): (half,),
        (1, 1, "float16, forward"): (half,),
        (1, 2, "float16, forward + backward"): (),
        (2, 0, "bfloat16"): (brain, both),
        (2, 1, "bfloat16, forward"): (brain,),
        (2, 2, "bfloat16, forward + backward"): (both,),
    }
    assert [place(record, *choices(loaded)) for record in (half, both, strange)] == [(1, 1), (2, 2), (0, 0)]


def test_one_value_is_no_choice(make_record: Make, one_run: Make) -> None:
    loaded = one_run(make_record(), make_record(problem={"head_dim": 8}))
    assert choices(loaded) == (Choice("dtype", ()), Choice("direction", ()))
    (whole,) = slices(loaded)
    assert whole.loaded.records == loaded.records


def test_a_file_of_strange_dtypes_does_not_blow_up_the_page(make_record: Make, one_run: Make) -> None:
    loaded = one_run(*(make_record(problem={"dtype": f"float{number}"}) for number in range(100)))
    assert len(slices(loaded)) == 5


def test_a_shrunk_problem_stands_beside_its_drawn_one_in_no_slice(make_record: Make, one_run: Make) -> None:
    drawn = make_record("failed")
    other = make_record(problem={"dtype": "bfloat16"})
    for part in slices(one_run(drawn, make_record("failed", phase="shrunk"), other)):
        assert sum(record.verdict == "failed" for record in part.loaded.records) <= 1
