"""The attentions that GPT-2 is trained with, each as a user would call it: no adapter's work is timed.

A backend of scaled_dot_product_attention is chosen around the whole training, not around the call, so that a compiled
model contains the bare operator.
"""

import importlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from fa2verify.benchmarks.gpt2.model import Attend
from fa2verify.benchmarks.standard import NAME as STANDARD
from fa2verify.benchmarks.standard import causal_mask, standard_attention
from fa2verify.kernels.registry import select


@dataclass(frozen=True, slots=True)
class Choice:
    """One attention.

    make       given context and device, the causal attention
    around     what the training is wrapped in
    quadratic  whether it keeps every score: then less fits in memory
    """

    make: Callable[[int, torch.device], Attend]
    around: Callable[[], AbstractContextManager[None]] = nullcontext
    quadratic: bool = False


def _standard(context: int, device: torch.device) -> Attend:
    hidden = causal_mask(context, device)
    return lambda q, k, v: standard_attention(q, k, v, q.shape[-1] ** -0.5, hidden)


def _sdpa(context: int, device: torch.device) -> Attend:  # noqa: ARG001 - as the others
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2)

    return attend


def _backend(backend: SDPBackend, quadratic: bool = False) -> Choice:
    return Choice(_sdpa, lambda: sdpa_kernel(backend), quadratic)


def _triton(context: int, device: torch.device) -> Attend:  # noqa: ARG001
    from fa2verify.kernels.triton import flash_attn_func

    return lambda q, k, v: flash_attn_func(q, k, v, causal=True)


def _cuda(context: int, device: torch.device) -> Attend:  # noqa: ARG001
    from fa2verify.kernels.cuda import flash_attn_func

    return lambda q, k, v: flash_attn_func(q, k, v, causal=True)


def _flash_attn(context: int, device: torch.device) -> Attend:  # noqa: ARG001
    package = importlib.import_module("flash_attn")
    return lambda q, k, v: package.flash_attn_func(q, k, v, causal=True)


# In the order of what is trained first: where time is short, the others are left out.
CHOICES: dict[str, Choice] = {
    "torch-flash": _backend(SDPBackend.FLASH_ATTENTION),
    "fa2verify-triton": Choice(_triton),
    "fa2verify-cuda": Choice(_cuda),
    "flash-attn": Choice(_flash_attn),
    "torch-cudnn": _backend(SDPBackend.CUDNN_ATTENTION),
    "torch-efficient": _backend(SDPBackend.EFFICIENT_ATTENTION),
    STANDARD: Choice(_standard, quadratic=True),
    "torch-math": _backend(SDPBackend.MATH, quadratic=True),
}


def available(device: torch.device) -> tuple[str, ...]:
    """The attentions that run on `device`."""
    return tuple(name for name in CHOICES if name == STANDARD or not select([name])[0].kernel.unavailable(device))
