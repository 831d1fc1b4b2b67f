"""GPT-2's training: its steps, the tokens, the batch search, and what becomes of runs that fail."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401

# isort: on
from fa2verify.benchmarks.gpt2 import training
from fa2verify.benchmarks.gpt2.attention import CHOICES, Choice, available
from fa2verify.benchmarks.gpt2.model import SIZES, Attend, Size
from fa2verify.benchmarks.gpt2.training import (
    OutOfTime,
    Setting,
    Trainer,
    bytes_without_tokens,
    distance,
    draw_tokens,
    extrapolated,
    largest_batch,
    losses,
    search,
    train,
)
from fa2verify.benchmarks.gpt2.turn import Turn

CPU = torch.device("cpu")
TINY = Setting(model="tiny", context=16, steps=4, dtype="bfloat16", device=CPU)
FOREVER = math.inf
ALONE = Turn("", CPU)
# What torch says of its own doing: dynamo looks at every tensor's gradient, and is told to keep nothing.
COMPILED = pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor:UserWarning", "ignore:dynamo_pgo force disabled:UserWarning"
)


def choose(monkeypatch: pytest.MonkeyPatch, attend: Callable[..., Tensor]) -> None:
    """Make `attend` the attention "mine"."""
    monkeypatch.setitem(CHOICES, "mine", Choice(lambda context, device: attend))


def test_a_fresh_model_knows_nothing() -> None:
    trainer = Trainer(TINY, "standard", "eager")
    (tokens, *_) = draw_tokens(TINY, 8)
    with torch.no_grad():
        loss = trainer.forward(tokens[:, :-1], tokens[:, 1:])
    # Logits of variance v shift the mean cross entropy of uniform guessing by about v / 2; tied embeddings of 0.02 make
    # logits of variance width * 0.02^2.
    assert abs(float(loss) - math.log(SIZES["tiny"].vocabulary)) < SIZES["tiny"].width * 0.02**2 * 6


def test_a_step_changes_every_weight_and_leaves_no_gradient() -> None:
    trainer = Trainer(TINY, "standard", "eager")
    before = [weight.detach().clone() for weight in trainer.model.parameters()]
    trainer.step(draw_tokens(TINY, 2)[0])
    for old, weight in zip(before, trainer.model.parameters(), strict=True):
        assert not torch.equal(old, weight)
        assert weight.grad is None


def test_tokens_repeat_and_are_the_same_every_time() -> None:
    setting = Setting(model="tiny", context=9, steps=3, dtype="bfloat16", device=CPU)
    drawn = draw_tokens(setting, 5)
    assert [tokens.shape for tokens in drawn] == [(5, 10)] * 3
    for tokens, again in zip(drawn, draw_tokens(setting, 5), strict=True):
        assert torch.equal(tokens, again)
        assert torch.equal(tokens[:, :5], tokens[:, 5:])
        assert int(tokens.min()) >= 0
        assert int(tokens.max()) < SIZES["tiny"].vocabulary
    assert not torch.equal(drawn[0], drawn[1])


def test_the_loss_falls() -> None:
    found = losses(Setting(model="tiny", context=16, steps=48, dtype="bfloat16", device=CPU), "standard", 8)
    assert sum(found[-8:]) < sum(found[:8])
    # More than all the ways of rounding explain: each step's loss falls on average.
    assert found[-1] < min(found[:8])


def test_a_twin_differs_by_one_rounding_of_every_weight() -> None:
    plain, twin = (Trainer(TINY, "standard", "eager") for _ in range(2))
    twin.perturb(0)
    unit = 2.0**-8  # of bf16
    for before, after in zip(plain.model.parameters(), twin.model.parameters(), strict=True):
        up, down = after == before * (1 + unit), after == before * (1 - unit)
        assert bool((up | down).all())
        assert bool(up.any())
        assert bool(down.any())


def test_a_training_is_recorded() -> None:
    record = train(TINY, "standard", "eager", 2, "given", FOREVER, ALONE)
    assert record.outcome == "measured", record.message
    assert (len(record.step_ms), len(record.losses), record.counted) == (4, 4, 2)
    assert (record.graphs, record.graph_breaks, record.batch) == (0, {}, 2)
    assert record.losses == losses(TINY, "standard", 2)
    assert record.tokens_per_second == pytest.approx(2 * 16 * 2 / sum(record.step_ms[-2:]) * 1e3)


class Bare(nn.Module):
    """In place of GPT-2, only operators that Inductor calls: what it writes itself takes long to compile."""

    def __init__(self, size: Size, context: int, attend: Attend) -> None:
        super().__init__()
        self.rows = nn.Parameter(torch.randn(1, context, 1, 32, dtype=torch.bfloat16))
        self.register_buffer("ones", torch.ones(context * 32, 1, dtype=torch.bfloat16))
        self.attend = attend

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        out = self.attend(self.rows, self.rows, self.rows)
        return (out.reshape(1, -1) @ self.ones).view(())


@COMPILED
def test_a_training_runs_no_other_attentions_code(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of two that differ only in the backend of one operator; the caches hold the first one's code by then."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(training, "Gpt2", Bare)
    monkeypatch.setitem(
        CHOICES, "flash", Choice(CHOICES["torch-math"].make, lambda: sdpa_kernel(SDPBackend.FLASH_ATTENTION))
    )

    def runs_flash(attention: str) -> bool:
        with torch.profiler.profile(acc_events=True) as profile:
            record = train(TINY, attention, "compiled", 2, "given", FOREVER, ALONE)
        assert (record.outcome, record.graphs) == ("measured", 1), record.message
        return any("scaled_dot_product_flash" in event.key for event in profile.key_averages())

    assert [runs_flash(attention) for attention in ("flash", "torch-math")] == [True, False]


@COMPILED
def test_graphs_and_their_breaks_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """By dynamo alone: Inductor takes ten seconds to load."""
    compile_whole = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model: compile_whole(model, backend="eager"))

    def breaks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        torch._dynamo.graph_break()
        return v

    choose(monkeypatch, breaks)
    whole = train(TINY, "standard", "compiled", 2, "given", FOREVER, ALONE)
    assert (whole.outcome, whole.graphs, whole.graph_breaks) == ("measured", 1, {}), whole.message
    broken = train(TINY, "mine", "compiled", 2, "given", FOREVER, ALONE)
    assert broken.outcome == "measured", broken.message
    assert broken.graphs > 1
    assert sum(broken.graph_breaks.values()) >= 1
    again = train(TINY, "standard", "compiled", 2, "given", FOREVER, ALONE)
    assert (again.graphs, again.graph_breaks) == (1, {})  # counted anew


def test_a_run_that_is_cut_short_counts_the_later_half_of_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = count()
    clock = SimpleNamespace(monotonic=lambda: float(next(moments)), perf_counter=time.perf_counter)
    monkeypatch.setattr(training, "time", clock)
    record = train(TINY, "standard", "eager", 2, "given", 3.5, ALONE)
    assert (record.outcome, record.counted, len(record.step_ms)) == ("measured", 1, 3)
    with pytest.raises(OutOfTime, match="time was up after 1 steps"):
        train(TINY, "standard", "eager", 2, "given", 0.0, ALONE)


def test_running_out_of_memory_and_failing_are_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    def hungry(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    choose(monkeypatch, hungry)
    assert train(TINY, "mine", "eager", 2, "given", FOREVER, ALONE).outcome == "out_of_memory"
    choose(monkeypatch, lambda q, k, v: q @ v)
    record = train(TINY, "mine", "eager", 2, "given", FOREVER, ALONE)
    assert record.outcome == "failed"
    assert record.message.startswith("RuntimeError: ")


def test_a_model_whose_weights_alone_do_not_fit_is_not_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = list(Trainer(TINY, "standard", "eager").model.parameters())
    assert bytes_without_tokens(TINY.model, TINY.context) == 4 * sum(weight.nbytes for weight in weights)
    monkeypatch.setattr(torch, "compile", lambda model: pytest.fail("it was compiled"))
    record = train(
        replace(TINY, memory=bytes_without_tokens(TINY.model, TINY.context) - 1),
        "standard",
        "compiled",
        1,
        "given",
        FOREVER,
        ALONE,
    )
    assert record.outcome == "out_of_memory"
    assert record.message.endswith("GB without any token")
    assert (
        train(
            replace(TINY, memory=bytes_without_tokens(TINY.model, TINY.context)),
            "standard",
            "eager",
            1,
            "given",
            FOREVER,
            ALONE,
        ).outcome
        == "measured"
    )


@given(st.integers(0, 3000), st.integers(1, 2000), st.integers(-10, 5000))
def test_the_search_finds_the_largest_that_fits_to_one_part_in_32(limit: int, most: int, guess: int) -> None:
    probed = []

    def fits(number: int) -> bool:
        assert 1 <= number <= most
        probed.append(number)
        return number <= limit

    found, largest = search(fits, most, guess), min(limit, most)
    assert found <= largest <= found + max(0, found // 32 - 1)
    assert len(probed) == len(set(probed))


def test_a_search_that_begins_near_the_answer_is_short() -> None:
    for limit in range(235, 265):  # 6 % to either side
        probed: list[int] = []
        search(lambda number, limit=limit, probed=probed: probed.append(number) or number <= limit, 4096, 250)
        assert len(probed) <= 6


@given(st.integers(0, 10**9), st.integers(1, 10**8), st.integers(1, 10**11))
def test_memory_is_extrapolated_along_a_line(fixed: int, sequence: int, limit: int) -> None:
    def peak(batch: int) -> int:
        return min(limit, fixed + batch * sequence)  # what does not fit, takes all

    found = extrapolated(peak, limit)
    assert found >= 1
    if fixed + 4 * sequence <= limit:
        assert fixed + (found - 1) * sequence <= 0.95 * limit or found == 1
        # The next would be beyond; doubles are of 53 bits.
        assert fixed + (found + 1) * sequence > 0.95 * limit * (1 - 2**-50)
    else:
        assert found <= 4


def test_the_largest_batch_is_the_last_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    def up_to_five(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if q.shape[0] > 5:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return v

    choose(monkeypatch, up_to_five)
    assert largest_batch(TINY, "mine") == 5


def test_the_search_is_told_how_much_memory_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU that is made up: 10 bytes, and 7 for each sequence."""
    searched: list[tuple[int, int]] = []
    taken: list[int] = []

    def takes(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        taken.append(10 + 7 * q.shape[0])
        return v

    choose(monkeypatch, takes)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", taken.clear)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: max(taken))
    monkeypatch.setattr(training, "search", lambda fits, most, guess: searched.append((most, guess)) or guess)
    assert largest_batch(TINY, "mine", limit=1000) == 1 + (950 - 17) // 7
    assert searched == [(4096, 134)]


def test_the_distance_of_curves() -> None:
    assert distance((1.0, 2.0), (4.0, 6.0)) == pytest.approx(math.sqrt(12.5))
    with pytest.raises(ValueError, match="argument 2 is longer"):
        distance((1.0,), (1.0, 2.0))


def test_what_runs_here() -> None:
    assert set(available(CPU)) == {"standard", "torch-math", "fa2verify-triton"}
