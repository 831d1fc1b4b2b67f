"""The flash-attn package, version 2.6 or later, where it is installed: `flash_attn_func` and `flash_attn_varlen_func`.

2.6 brought softcap and the packed (heads, total_q) log-sum-exp of the contract. Facts of that code that the adapter
translates or states:
- The diagonal is bottom-right; a row that sees no key has out = 0 and lse = +inf.
- Causal without a window, ALiBi is added as slope * j instead of -slope * |i + offset - j|: the same probabilities, as
  the two differ by slope * (i + offset) along a row, and an lse that is larger by just that. The adapter subtracts it.
"""

import importlib
import importlib.metadata
import importlib.util
from typing import Any

import torch
from torch import Tensor

from fa2verify.kernels.autograd import AutogradKernel, Forward
from fa2verify.kernels.peers import lineages
from fa2verify.kernels.peers.alignment import misaligned
from fa2verify.kernels.peers.cuda_device import lacks_cuda
from fa2verify.kernels.peers.packed_tail import tail_faults
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.sequences import join_rows
from fa2verify.kernels.tensors import Tensors

_MINIMUM = (2, 6)


class FlashAttnKernel(AutogradKernel):
    """Tri Dao's package, through its public functions."""

    name = "flash-attn"
    lineage = lineages.FLASH_ATTENTION_2
    gives_lse = True
    empty_lse = float("inf")

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Without a CUDA device of compute capability 8.0, or the package in version 2.6 or later."""
        missing = lacks_cuda(device, (8, 0))
        return missing or _package()

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        """Dropout, head_dim above 256, rows past the last sequence, and top-left where it differs from bottom-right."""
        reasons = [*misaligned(problem, "bottom_right"), *tail_faults(problem)]
        if problem.head_dim > 256:
            reasons.append(f"flash-attn takes head_dim up to 256, not {problem.head_dim}.")
        if problem.dropout:
            reasons.append("Its dropout mask is drawn by flash-attn and cannot be reproduced.")
        return tuple(reasons)

    def forward_of(self, problem: Problem, tensors: Tensors) -> Forward:
        """flash_attn_func, or flash_attn_varlen_func for a varlen problem."""
        package = importlib.import_module("flash_attn")
        options: dict[str, Any] = {
            "softmax_scale": problem.scale,
            "causal": problem.causal is not None,
            "window_size": problem.window,
            "softcap": problem.softcap,
            "alibi_slopes": tensors.alibi_slopes,
            "deterministic": problem.deterministic,
            "return_attn_probs": True,
        }
        packed = (tensors.cu_seqlens_q, tensors.cu_seqlens_k, tensors.max_seqlen_q, tensors.max_seqlen_k)

        def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            if problem.is_varlen:
                out, lse, _ = package.flash_attn_varlen_func(q, k, v, *packed, **options)
            else:
                out, lse, _ = package.flash_attn_func(q, k, v, **options)
            return out, lse - lse_shift(problem, tensors)

        return forward


def lse_shift(problem: Problem, tensors: Tensors) -> Tensor | float:
    """By how much flash-attn's lse is larger than the contract's: fp32, shaped like lse; 0 but for causal ALiBi."""
    slopes = tensors.alibi_slopes
    if slopes is None or problem.causal is None or problem.window[0] >= 0:
        return 0.0
    slopes = slopes.expand(problem.batch, problem.heads_q)
    parts = [
        (slopes[index, :, None] * (torch.arange(length, device=slopes.device) + problem.diagonal(index)))[None]
        for index, length in enumerate(problem.seqlens_q)
    ]
    return join_rows(problem, parts if problem.is_varlen else [torch.cat(parts)])


def _package() -> tuple[str, ...]:
    if importlib.util.find_spec("flash_attn") is None:
        return ("The package flash-attn is not installed.",)
    try:
        version = importlib.metadata.version("flash-attn")
    except importlib.metadata.PackageNotFoundError:
        return ("A module flash_attn is importable, but no distribution flash-attn says its version.",)
    if tuple(int(part) for part in version.split(".")[:2]) < _MINIMUM:
        return (f"This adapter needs flash-attn 2.6 or later; {version} is installed.",)
    return ()
