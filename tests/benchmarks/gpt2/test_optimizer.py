"""GPT-2's optimizer: its moments, its memory, and what becomes of the large model without it."""

import pytest
import torch
from torch import Tensor, nn

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401

# isort: on
from fa2verify.benchmarks.gpt2 import training
from fa2verify.benchmarks.gpt2.optimizer import BYTES, LEARNING_RATE, make_optimizer, optimizer_of
from fa2verify.benchmarks.gpt2.process import Order, follow
from fa2verify.reports.benchmark_record import Training

ORDER = Order(
    model="tiny",
    context=16,
    steps=2,
    dtype="bfloat16",
    device="cpu",
    attentions=("standard",),
    modes=("eager",),
    seconds=60.0,
)


def test_the_large_model_has_moments_of_8_bits() -> None:
    assert [optimizer_of(model) for model in ("small", "medium", "large")] == ["AdamW", "AdamW", "8-bit AdamW"]
    weight = nn.Parameter(torch.ones(64, 128))
    optimizer = make_optimizer("8-bit AdamW", [weight])
    weight.sum().backward()
    optimizer.step()
    state = optimizer.state[weight]
    assert [state[name].dtype for name in ("state1", "state2")] == [torch.uint8] * 2
    moments = sum(state[name].nbytes for name in ("state1", "state2", "absmax1", "absmax2"))
    assert BYTES["8-bit AdamW"] == (2 * weight.nbytes + moments) / weight.numel()
    # Adam's first step is the learning rate; decay takes a hundredth of that.
    assert bool(((1 - weight) / LEARNING_RATE - 1.01).abs().max() < 1e-3)


def test_the_optimizer_of_8_bits_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes.optim import AdamW8bit, optimizer

    waited: list[Tensor] = []
    monkeypatch.setattr(optimizer, "sync_gpu", waited.append)
    weight = nn.Parameter(torch.ones(64, 128))
    weight.sum().backward()
    AdamW8bit([weight]).step()
    assert len(waited) == 1  # or there is nothing left to keep it from
    make_optimizer("8-bit AdamW", [weight]).step()
    assert len(waited) == 1


def test_without_bitsandbytes_the_large_model_is_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "optimizer_of", lambda model: "8-bit AdamW")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(training, "largest_batch", lambda *given: pytest.fail("a batch was searched for"))
    (record,) = (line for line in follow(ORDER) if isinstance(line, Training))
    assert (record.outcome, record.optimizer) == ("unsupported", "8-bit AdamW")
    assert record.message == "8-bit AdamW is bitsandbytes'; install fa2verify[bench]"
    with pytest.raises(ImportError, match="install fa2verify"):
        make_optimizer("8-bit AdamW", [])
