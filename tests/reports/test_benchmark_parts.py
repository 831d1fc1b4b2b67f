"""What a report says of measurements that are made up here: each figure, and nothing of what was not measured."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from fa2verify.reports.benchmark_parts import parts
from fa2verify.reports.benchmark_record import (
    Ceiling,
    FirstCall,
    HostCost,
    LossAgreement,
    Measurement,
    Memory,
    Timing,
    Training,
)
from fa2verify.reports.figures import Panel, Part, Row

NOTHING = "\N{EN DASH}"
PROBLEM = {
    "dtype": "bfloat16",
    "lengths": {"batch": 4, "seqlen_q": 4096, "seqlen_k": 4096},
    "head_dim": 128,
    "heads_q": 16,
    "heads_kv": 16,
    "causal": "bottom_right",
}


def timing(kernel: str, ms: float, seqlen: int = 4096, **fields: Any) -> Timing:
    problem = PROBLEM | {"lengths": {"batch": 4, "seqlen_q": seqlen, "seqlen_k": seqlen}}
    known: dict[str, Any] = {
        "grid": "flash",
        "cell": f"flash-s{seqlen}",
        "direction": "forward",
        "problem": problem,
        "outcome": "measured",
        "ms": (ms / 2, *[ms] * 9, 2 * ms),  # of eleven all but the ends hold the median: it is sure
        "operations": 4e11,
    }
    return Timing(kernel=kernel, **(known | fields))


def lost(line: Any, outcome: str, message: str = "") -> Any:
    gone: dict[str, Any] = {"ms": ()} if isinstance(line, Timing) else {}
    return replace(line, outcome=outcome, message=message, **gone)


def memory(kernel: str, taken: int, seqlen: int = 2048) -> Memory:
    return Memory(
        cell="m", kernel=kernel, direction="both", problem={}, seqlen=seqlen, outcome="measured", bytes=taken, inputs=1
    )


def trained(attention: str, ms: float, context: int = 256, **fields: Any) -> Training:
    known: dict[str, Any] = {
        "cell": f"gpt2-small-c{context}-12gb",
        "model": "small",
        "mode": "compiled",
        "memory": 12_000_000_000,
        "dtype": "float16",
        "outcome": "measured",
        "batch": 64,
        "step_ms": (999.0, ms),
        "counted": 1,
        "graphs": 1,
    }
    return Training(attention=attention, context=context, **(known | fields))


TIMINGS = (
    timing("torch-flash", 2.0),
    timing("mine", 1.0),
    lost(timing("standard", 1.0), "out_of_memory", "CUDA out of memory."),
    lost(timing("packed", 1.0), "unsupported", "It takes packed sequences alone."),
    Ceiling(cell="flash-s4096", name="matmul", ms=(1.0,), amount=8e11),
    Ceiling(cell="flash-s4096", name="copy", ms=(1.0,), amount=4e9),
)
MEMORIES = (memory("mine", 3_000_000), memory("standard", 45_000_000), memory("plain", 45_100_000))
HOSTS = (
    HostCost(subject="mine", mode="eager", direction="forward", outcome="measured", us=(9.0, 30.0, 10.0), calls=1),
    HostCost(subject="mine", mode="compiled", direction="forward", outcome="failed", message="the graph broke"),
)
FIRSTS = (
    FirstCall(
        kernel="mine",
        cache="cold",
        direction="both",
        outcome="measured",
        first_ms=812.4,
        second_ms=0.25,
        others_ms=(9.0, 3.0),
    ),
)
TRAININGS = (
    trained("torch-flash", 200.0),
    trained("mine", 100.0),
    trained("breaker", 400.0, graphs=13, graph_breaks={"a call": 12}),
    lost(trained("standard", 1.0, 4096), "out_of_memory"),
    trained("mine", 100.0, 4096),
)
LOSSES = (
    LossAgreement(
        cell="gpt2-small-c1024-all", attention="mine", mode="eager", steps=20, distance=1e-4, noise=(2e-4, 5e-5)
    ),
    LossAgreement(
        cell="gpt2-small-c1024-all", attention="breaker", mode="eager", steps=20, distance=3e-4, noise=(2e-4, 5e-5)
    ),
)
KINDS: dict[str, tuple[Measurement, ...]] = {
    "Speed: flash": TIMINGS,
    "Peak memory": MEMORIES,
    "Host cost, µs a call": HOSTS,
    "First call, ms": FIRSTS,
    "GPT-2 training, tokens/s": TRAININGS,
    "Loss curves": LOSSES,
}
ALL = tuple(line for lines in KINDS.values() for line in lines)


def of(lines: Sequence[Measurement], title: str, only: Sequence[str] = ()) -> Part:
    return next(part for part in parts(lines, "torch-flash", only) if part.title == title)


def told(panel: Panel) -> dict[str, list[tuple[str, ...]]]:
    """Name to its cells, each the figure and its notes."""
    return {row.name: [(cell.text, *cell.notes) for cell in row.cells] for row in panel.table.rows}


@pytest.mark.parametrize("title", KINDS)
def test_each_kind_has_its_part_and_no_other(title: str) -> None:
    assert [part.title for part in parts(KINDS[title], "torch-flash")] == [title]


def test_the_whole_has_every_part_in_order() -> None:
    assert [part.title for part in parts(ALL, "torch-flash")] == list(KINDS)
    assert parts((), "torch-flash") == ()
    assert parts(ALL, "torch-flash", ("nobody",)) == ()


def test_speed_is_told_with_its_ratio_its_share_and_its_time() -> None:
    (panel,) = of(TIMINGS, "Speed: flash").panels
    assert panel.title == "forward, head_dim 128, causal"
    assert panel.table.head == ("kernel", "4096")
    assert told(panel) == {
        "torch-flash": [("200", "1.00x, 25 %", "2.00 ms")],
        "mine": [("400", "2.00x, 50 %", "1.00 ms")],
        "standard": [("OOM",)],
        "matrix product": [("800",)],
        "copy": [("4.00 TB/s",)],
    }
    assert panel.table.rows[1].cells[0].share == 0.5
    assert [row.aside for row in panel.table.rows] == [False, False, False, True, True]


def test_speeds_are_drawn_beside_each_other_and_over_the_reference() -> None:
    tflops, over = of(TIMINGS, "Speed: flash").panels[0].charts
    assert (tflops.unit, over.unit) == ("TFLOP/s", "speed, torch-flash = 1")
    for chart in (tflops, over):
        assert [series.name for series in chart.series] == ["torch-flash", "mine"]
    assert [tick.text for tick in tflops.ticks][-1] == "800"
    assert tflops.limit
    assert [tick.text for tick in over.ticks][-1] == "2"


def test_without_the_reference_there_is_no_ratio() -> None:
    (panel,) = of((timing("mine", 1.0), timing("other", 2.0)), "Speed: flash").panels
    assert told(panel) == {"mine": [("400", "1.00 ms")], "other": [("200", "2.00 ms")]}
    assert len(panel.charts) == 1


def test_a_panel_holds_what_has_head_dim_mask_and_direction_in_common() -> None:
    full = {key: value for key, value in PROBLEM.items() if key != "causal"}
    lines = (
        timing("mine", 1.0, 8192),
        timing("mine", 1.0, 512),
        timing("mine", 1.0, cell="b", direction="both"),
        timing("mine", 1.0, cell="full", problem=full),
        timing("mine", 1.0, cell="d64", problem=full | {"head_dim": 64}),
    )
    assert [(panel.title, panel.table.head[1:]) for panel in of(lines, "Speed: flash").panels] == [
        ("forward, head_dim 128, causal", ("512", "8192")),
        ("forward, head_dim 128, full", ("4096",)),
        ("forward, head_dim 64, full", ("4096",)),
        ("forward and backward, head_dim 128, causal", ("4096",)),
    ]


def test_what_tells_cells_of_one_grid_apart_is_said() -> None:
    packed = {"lengths": {"seqlens_q": [5, 7], "seqlens_k": [5, 7]}, "causal": "bottom_right"}
    lines = (
        timing("mine", 1.0, grid="g", cell="g-a", problem=PROBLEM | {"heads_kv": 2}),
        timing("mine", 1.0, grid="g", cell="g-chat", problem=packed),
        timing("mine", 1.0, grid="g", cell="g-odd", problem={"head_dim": "many"}),
    )
    assert [(panel.title, panel.table.head[1]) for panel in of(lines, "Speed: g").panels] == [
        ("forward, head_dim 128, causal, 16/2 heads, bfloat16", "4096"),
        ("forward, head_dim 64, causal, float16, packed", "chat"),
        ("forward, other problems", "odd"),
    ]


def test_a_failure_is_told_once_with_its_places() -> None:
    lines = [lost(timing("mine", 1.0, 512 << power), "failed", "RuntimeError: no") for power in range(5)]
    part = of(lines, "Speed: flash")
    assert part.remarks == (
        "mine failed (flash-s512 forward, flash-s1024 forward, flash-s2048 forward and 2 more): RuntimeError: no",
    )
    assert all(cell.bad and cell.text == "failed" for row in part.panels[0].table.rows for cell in row.cells)
    assert part.panels[0].charts == ()


def test_a_grid_that_no_kernel_takes_has_no_part() -> None:
    ceiling = Ceiling(cell="flash-s4096", name="matmul", ms=(1.0,), amount=8e11)
    assert parts((lost(timing("packed", 1.0), "unsupported"), ceiling), "torch-flash") == ()


def test_kernels_are_shown_in_the_order_asked_for() -> None:
    (panel,) = of(TIMINGS, "Speed: flash", ("mine", "torch-flash")).panels
    assert [row.name for row in panel.table.rows if not row.aside] == ["mine", "torch-flash"]
    assert [series.name for series in panel.charts[0].series] == ["mine", "torch-flash"]


def test_memory_is_told_in_units_of_standard_attention() -> None:
    (panel,) = of(MEMORIES, "Peak memory").panels
    assert panel.title == "forward and backward"
    assert told(panel) == {"mine": [("3.00", "15.0x less")], "standard": [("45.0",)], "plain": [("45.1", "as much")]}
    assert panel.charts[0].kind == "lines"


def test_more_memory_than_standard_attention_is_told_as_more() -> None:
    (panel,) = of((memory("mine", 90_000_000), MEMORIES[1]), "Peak memory").panels
    assert told(panel)["mine"] == [("90.0", "2.00x more")]


def test_host_costs_and_first_calls() -> None:
    host = of(HOSTS, "Host cost, µs a call")
    assert told(host.panels[0]) == {"mine": [("10.0", "9.00 to 30.0"), ("failed",), (NOTHING,)]}
    assert host.remarks == ("mine failed (forward, compiled): the graph broke",)
    assert told(of(FIRSTS, "First call, ms").panels[0]) == {"mine": [("812", "then 0.250", "others 3.00 to 9.00")]}


def test_trainings_stand_beside_the_published_ones() -> None:
    part = of((*TRAININGS, *LOSSES), "GPT-2 training, tokens/s")
    (panel,) = part.panels
    assert panel.title == "GPT-2 small, 12 GB, compiled, float16"
    assert panel.table.head == ("attention", "256", "4096", "losses")
    rows = told(panel)
    assert rows["mine"] == [
        ("163,840", "2.00x, batch 64", "1 graph"),
        ("2,621,440", "batch 64", "1 graph"),
        ("agree",),
    ]
    assert rows["breaker"] == [("40,960", "0.50x, batch 64", "13 graphs, 12 breaks"), (NOTHING,), ("differ",)]
    assert rows["standard"] == [(NOTHING,), ("OOM",), (NOTHING,)]
    assert rows["plain PyTorch"] == [("63,820", "0.88x, batch 52"), ("OOM",), (NOTHING,)]
    assert rows["FlashAttention-2, graph breaks"] == [
        ("71,628", "0.98x, batch 64"),
        ("53,791", "1.43x, batch 4"),
        (NOTHING,),
    ]
    published = [row for row in panel.table.rows if row.aside]
    assert len(published) == 3
    assert all(row.note == "published: RTX 3080 Ti, PyTorch 2.0.1" for row in published)
    assert part.remarks == ("breaker breaks the graph (gpt2-small-c256-12gb, 12 times): a call",)
    assert [series.name for series in panel.charts[0].series] == ["torch-flash", "mine", "breaker"]


def test_what_was_not_published_is_no_lack_of_memory() -> None:
    eager = {"mode": "eager", "model": "medium", "graphs": 0}
    part = of((trained("mine", 100.0, 768, **eager), trained("mine", 100.0, 512, **eager)), "GPT-2 training, tokens/s")
    rows = told(part.panels[0])
    assert rows["FlashAttention-2"] == [("18,195", "1.04x"), (NOTHING,), (NOTHING,)]
    part = of((trained("mine", 1.0, 2048, model="large"), trained("mine", 1.0, 4096, model="large")), part.title)
    assert told(part.panels[0])["SDPA, FlashAttention"] == [("5,103", "1.00x, batch 1"), (NOTHING,), (NOTHING,)]


def test_nothing_published_stands_beside_a_model_that_nothing_is_published_of() -> None:
    part = of((trained("mine", 100.0, model="tiny"),), "GPT-2 training, tokens/s")
    assert [row.name for row in part.panels[0].table.rows] == ["mine"]
    assert "ublished" not in part.note


def test_trainings_with_another_optimizer_are_shown_apart() -> None:
    large = {"model": "large", "cell": "gpt2-large-c256-12gb"}
    part = of(
        (trained("mine", 100.0, **large), trained("mine", 50.0, **large, optimizer="8-bit AdamW")),
        "GPT-2 training, tokens/s",
    )
    assert [(panel.title, told(panel)["mine"][0][0]) for panel in part.panels] == [
        ("GPT-2 large, 12 GB, compiled, float16", "163,840"),
        ("GPT-2 large, 12 GB, compiled, float16, 8-bit AdamW", "327,680"),
    ]


def test_small_models_stand_first_and_all_memory_last() -> None:
    given = [("tiny", 0), ("large", 0), ("small", 0), ("large", 12), ("medium", 12), ("small", 12)]
    part = of(
        [trained("mine", 100.0, model=model, memory=memory * 10**9) for model, memory in given],
        "GPT-2 training, tokens/s",
    )
    assert [panel.title.partition(", compiled")[0].removeprefix("GPT-2 ") for panel in part.panels] == [
        "small, 12 GB",
        "small, all memory",
        "medium, 12 GB",
        "large, 12 GB",
        "large, all memory",
        "tiny, all memory",
    ]


def test_a_median_that_is_not_sure_says_so() -> None:
    rounds = {
        "mine": (0.9, *[1.0] * 9, 1.1, 1.2),
        "other": (0.9, *[1.0] * 4, 1.1),
        "few": (1.0, 1.0, 1.0),
        "one": (1.0,),
    }
    part = of([replace(timing(name, 1.0), ms=ms) for name, ms in rounds.items()], "Speed: flash")
    ends = {name: cells[0][-1] for name, cells in told(part.panels[0]).items()}
    assert ends == {
        "mine": "1.00 ms",
        "other": "1.00 ms ± 10 %",
        "few": "1.00 ms of 3 rounds",
        "one": "1.00 ms of 1 round",
    }


def test_losses_say_who_agrees() -> None:
    (panel,) = of(LOSSES, "Loss curves").panels
    assert told(panel) == {
        "mine": [("1.00e-04",), ("2.00e-04",), ("yes",)],
        "breaker": [("3.00e-04",), ("2.00e-04",), ("no",)],
    }
    rows: tuple[Row, ...] = panel.table.rows
    assert [cell.bad for cell in rows[1].cells] == [True, False, True]
