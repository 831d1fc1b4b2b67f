"""GPT-2's optimizer: its moments, its memory, and what becomes of the large model without it."""

import pytest
import torch
from torch import Tensor, nn

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401

# isort: on
from fa2verify.benchmarks import gpt2_optimizer, gpt2_training
from fa2verify.benchmarks.gpt2_optimizer import (
    BYTES,
    LEARNING_RATE,
    BucketedAdamW8bit,
    make_optimizer,
    optimizer_of,
)
from fa2verify.benchmarks.gpt2_process import Order, follow
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
    assert isinstance(optimizer, BucketedAdamW8bit)
    (bucket,) = optimizer.buckets
    state = bucket.optimizer.state[bucket.flat]
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


def test_buckets_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    from bitsandbytes.optim import AdamW8bit

    monkeypatch.setattr(gpt2_optimizer, "_BUCKET", 12_000)
    shapes = [(64, 128), (100,), (4096,), (32, 512), (7,), (16, 512)]
    torch.manual_seed(0)
    alone = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    together = [nn.Parameter(weight.detach().clone()) for weight in alone]
    reference = AdamW8bit(alone, lr=LEARNING_RATE)
    bucketed = make_optimizer("8-bit AdamW", together)
    assert isinstance(bucketed, BucketedAdamW8bit)
    # Those of fp32 moments; the others until 12,000 elements are there.
    assert [bucket.flat.numel() for bucket in bucketed.buckets] == [107, 64 * 128 + 4096, 32 * 512, 16 * 512]
    for _ in range(5):
        for weight, other in zip(alone, together, strict=True):
            weight.grad = torch.randn_like(weight) * 10 ** torch.randint(-4, 1, (1,))
            other.grad = weight.grad.clone()
        reference.step()
        bucketed.step()
        bucketed.zero_grad(set_to_none=True)
    assert all(torch.equal(weight, other) for weight, other in zip(alone, together, strict=True))


def test_the_weights_of_a_bucket_are_whole_blocks_and_have_gradients() -> None:
    with pytest.raises(ValueError, match="a weight has 4100 elements; they must be a multiple of 256"):
        make_optimizer("8-bit AdamW", [nn.Parameter(torch.ones(4100))])
    weights = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2, 4))]
    optimizer = make_optimizer("8-bit AdamW", weights)
    weights[0].sum().backward()
    with pytest.raises(ValueError, match=r"a weight of shape \(2, 4\) has no gradient"):
        optimizer.step()


def test_without_bitsandbytes_the_large_model_is_not_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpt2_optimizer, "optimizer_of", lambda model: "8-bit AdamW")
    monkeypatch.setattr(gpt2_training, "optimizer_of", lambda model: "8-bit AdamW")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(gpt2_training, "largest_batch", lambda *given: pytest.fail("a batch was searched for"))
    (record,) = (line for line in follow(ORDER) if isinstance(line, Training))
    assert (record.outcome, record.optimizer) == ("unsupported", "8-bit AdamW")
    assert record.message == "8-bit AdamW is bitsandbytes'; install fa2verify[bench]"
    with pytest.raises(ImportError, match="install fa2verify"):
        make_optimizer("8-bit AdamW", [])
