"""GPT-2's optimizer: AdamW, and for the large model AdamW whose moments have 8 bits, as in the published comparison.

In fp32, weights, gradients and both moments of the large model take 11.7 GB: of 12 they leave no room for a sequence.
torch's own AdamW is fused and knows of loss scaling; the one of 8 bits (Dettmers et al., arXiv 2110.02861) is
bitsandbytes', and of loss scaling it knows nothing: in fp16 the host waits once a step to see whether gradients are
finite.
"""

import importlib.util
from collections.abc import Iterable, Iterator
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn, optim

from fa2verify.reports.benchmark_record import Optimizer

LEARNING_RATE = 3e-4
# fp32 weight and gradient, and two moments of fp32, or of 8 bits with an fp32 factor for every 256 of them.
BYTES: dict[Optimizer, float] = {"AdamW": 4 + 4 + 8, "8-bit AdamW": 4 + 4 + 2 * (1 + 4 / 256)}
_LEAST_OF_8_BITS = 4096  # elements: bitsandbytes keeps the moments of smaller weights in fp32
_BUCKET = 1 << 25  # elements, 128 MB: what a step copies is that much at a time


def optimizer_of(model: str) -> Optimizer:
    """What a model, a key of `gpt2.SIZES`, is trained with."""
    return "8-bit AdamW" if model == "large" else "AdamW"


def missing(optimizer: Optimizer) -> str:
    """Why nothing can be trained with `optimizer` here, a sentence; "" if something can."""
    if optimizer == "8-bit AdamW" and importlib.util.find_spec("bitsandbytes") is None:
        return "8-bit AdamW is bitsandbytes'; install fa2verify[bench]"
    return ""


def make_optimizer(optimizer: Optimizer, weights: Iterable[nn.Parameter]) -> optim.Optimizer:
    """The optimizer of these weights. Raises ImportError where it is missing."""
    if reason := missing(optimizer):
        raise ImportError(reason)
    if optimizer == "8-bit AdamW":
        return BucketedAdamW8bit(weights, LEARNING_RATE)
    return optim.AdamW(weights, lr=LEARNING_RATE, fused=True)


class BucketedAdamW8bit(optim.Optimizer):
    """bitsandbytes' AdamW of 8 bits for many weights at a time, which only queues its kernels.

    bitsandbytes updates one weight after the other, GPT-2 large has 219, and waits for the device after each: a step
    took 57 to 115 ms on an H200, and 45 to 65 without waiting, where by the rate of large batches the device needs some
    25 (docs/results). Here weights become views of buckets, and a step copies their gradients into one. Every bit is
    as without: 256 elements share a factor of their moments, and no bucket mixes those of two weights.

    Raises ValueError for a weight of 4096 elements or more which are not a multiple of 256.
    """

    def __init__(self, weights: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(weights, {"lr": lr})
        (group,) = self.param_groups
        if uneven := [weight.numel() for weight in group["params"] if not _is_small(weight) and weight.numel() % 256]:
            raise ValueError(f"a weight has {uneven[0]} elements; they must be a multiple of 256, which share a factor")
        self.buckets = [_Bucket(some, lr) for some in _buckets(group["params"])]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every weight from its gradient, which it must have."""
        from bitsandbytes.optim import optimizer

        loss = None if closure is None else torch.enable_grad()(closure)()
        with patch.object(optimizer, "sync_gpu", lambda weight: None):  # noqa: ARG005 - as that is called
            for bucket in self.buckets:
                bucket.step()
        return loss


class _Bucket:
    """Weights that are updated as one."""

    def __init__(self, weights: list[nn.Parameter], lr: float) -> None:
        from bitsandbytes.optim import AdamW8bit

        self._weights = weights
        self.flat = nn.Parameter(torch.cat([weight.detach().flatten() for weight in weights]))
        for weight, part in zip(weights, self.flat.detach().split([weight.numel() for weight in weights]), strict=True):
            weight.data = part.view_as(weight)
        least = self.flat.numel() + 1 if _is_small(weights[0]) else _LEAST_OF_8_BITS
        self.optimizer = AdamW8bit([self.flat], lr=lr, min_8bit_size=least)  # type: ignore[no-untyped-call]

    def step(self) -> None:
        self.flat.grad = torch.cat([_gradient(weight) for weight in self._weights])
        self.optimizer.step()  # type: ignore[no-untyped-call]
        self.flat.grad = None


def _gradient(weight: nn.Parameter) -> Tensor:
    if weight.grad is None:
        raise ValueError(f"a weight of shape {tuple(weight.shape)} has no gradient; all of a bucket are updated as one")
    return weight.grad.flatten()


def _is_small(weight: nn.Parameter) -> bool:
    return weight.numel() < _LEAST_OF_8_BITS


def _buckets(weights: Iterable[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Weights to be updated as one: those with moments of fp32, and the others until a bucket is full."""
    known = list(weights)
    if small := [weight for weight in known if _is_small(weight)]:
        yield small
    bucket: list[nn.Parameter] = []
    for weight in known:
        if not _is_small(weight):
            bucket.append(weight)
            if sum(one.numel() for one in bucket) >= _BUCKET:
                yield bucket
                bucket = []
    if bucket:
        yield bucket
