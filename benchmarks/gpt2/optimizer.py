"""GPT-2's optimizer: AdamW, and for the large model AdamW whose moments have 8 bits, as in the published comparison.

In fp32, weights, gradients and both moments of the large model take 11.7 GB: of 12 they leave no room for a sequence.
torch's own AdamW is fused and knows of loss scaling; the one of 8 bits (Dettmers et al., arXiv 2110.02861) is
bitsandbytes', a kernel for each weight, and of loss scaling it knows nothing: in fp16 the host waits once a step to see
whether gradients are finite.
"""

import importlib.util
from collections.abc import Iterable
from typing import Any
from unittest.mock import patch

from torch import nn, optim

from fa2verify.reports.benchmark_record import Optimizer

LEARNING_RATE = 3e-4
# fp32 weight and gradient, and two moments of fp32, or of 8 bits with an fp32 factor for every 256 of them.
BYTES: dict[Optimizer, float] = {"AdamW": 4 + 4 + 8, "8-bit AdamW": 4 + 4 + 2 * (1 + 4 / 256)}


def optimizer_of(model: str) -> Optimizer:
    """What a model, a key of `gpt2.model.SIZES`, is trained with."""
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
        return _queued(weights)
    return optim.AdamW(weights, lr=LEARNING_RATE, fused=True)


def _queued(weights: Iterable[nn.Parameter]) -> optim.Optimizer:
    """AdamW of 8 bits that only queues its kernels.

    bitsandbytes' own waits for the device after each weight: with it a compiled step of GPT-2 large at 12 GB took 60 to
    90 ms on an H200, without 46 to 73 (docs/results).
    """
    from bitsandbytes.optim import optimizer
    from bitsandbytes.optim.adamw import AdamW8bit

    class Queued(AdamW8bit):
        def step(self, closure: Any = None) -> Any:
            with patch.object(optimizer, "sync_gpu", lambda weight: None):  # noqa: ARG005 - as that is called
                return super().step(closure)  # type: ignore[no-untyped-call]

    made: optim.Optimizer = Queued(weights, lr=LEARNING_RATE)  # type: ignore[no-untyped-call]
    return made
