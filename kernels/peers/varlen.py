"""torch.nn.attention.varlen.varlen_attn on CUDA: packed sequences through torch's copy of flash-attn 2.

The function is young and its signature moves: torch 2.10 has `is_causal`, 2.11 `scale` and `window_size` in its place,
2.12 `enable_gqa`. So the parameters that this torch has are looked up, and what they lack is unsupported. Unlike
scaled_dot_product_attention it hands head_dim to the kernel as it is, without padding it to a multiple of 8.
"""

import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fa2verify.kernels.autograd import AutogradKernel, Forward
from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.peers import lineages
from fa2verify.kernels.peers.alignment import misaligned
from fa2verify.kernels.peers.cuda_device import lacks_cuda
from fa2verify.kernels.peers.determinism import deterministic_algorithms
from fa2verify.kernels.peers.packed_tail import tail_faults
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors


class VarlenKernel(AutogradKernel):
    """varlen_attn. The diagonal is bottom-right, flash-attn's; lse is (heads_q, total_q), against its docstring."""

    name = "torch-varlen"
    lineage = lineages.FLASH_ATTENTION_2_IN_TORCH
    gives_lse = True
    empty_lse = float("inf")

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Without a CUDA device of compute capability 8.0, or in a torch without the function."""
        missing = lacks_cuda(device, (8, 0))
        if not missing and not parameters():
            missing = (f"torch {torch.__version__} has no torch.nn.attention.varlen.varlen_attn.",)
        return missing

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        """What flash-attn 2 or this torch's signature lacks."""
        reasons = []
        if not problem.is_varlen:
            reasons.append("varlen_attn takes packed sequences with cu_seqlens alone.")
        reasons += (*misaligned(problem, "bottom_right"), *tail_faults(problem))
        if problem.head_dim > 256:
            reasons.append(f"varlen_attn takes head_dim up to 256, not {problem.head_dim}.")
        if problem.head_dim % 8:
            reasons.append(f"varlen_attn needs head_dim to be a multiple of 8, not {problem.head_dim}.")
        if problem.dropout:
            reasons.append("varlen_attn has no dropout.")
        if problem.softcap:
            reasons.append("varlen_attn has no softcap.")
        if problem.alibi is not None:
            reasons.append("varlen_attn has no ALiBi.")
        for parameter, asked in (
            ("scale", problem.scale is not None),
            ("window_size", problem.window != (-1, -1)),
            ("enable_gqa", problem.group > 1),
        ):
            if asked and parameter not in parameters():
                reasons.append(f"varlen_attn of torch {torch.__version__} has no parameter {parameter}.")
        return tuple(reasons)

    def forward_of(self, problem: Problem, tensors: Tensors) -> Forward:
        """Run varlen_attn."""
        from torch.nn.attention.varlen import AuxRequest, varlen_attn

        packed: tuple[Any, ...] = (
            tensors.cu_seqlens_q,
            tensors.cu_seqlens_k,
            tensors.max_seqlen_q,
            tensors.max_seqlen_k,
        )

        def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            out, lse = varlen_attn(
                q,
                k,
                v,
                *packed,
                return_aux=AuxRequest(lse=True),
                **options(problem, parameters()),
            )
            return out, lse

        return forward

    def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:
        """Run it, in torch's deterministic mode if the problem asks for that."""
        with deterministic_algorithms(problem.deterministic and problem.backward):
            return super().__call__(problem, tensors)


@cache
def parameters() -> frozenset[str]:
    """Names of varlen_attn's parameters in this torch; empty if it has no such function."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return frozenset()
    return frozenset(inspect.signature(varlen_attn).parameters)


def options(problem: Problem, known: frozenset[str]) -> dict[str, Any]:
    """The keyword arguments that say `problem` to a varlen_attn whose parameters are `known`."""
    given: dict[str, Any] = {}
    if problem.scale is not None:
        given["scale"] = problem.scale
    if problem.group > 1:
        given["enable_gqa"] = True
    left, right = problem.window
    if problem.causal is not None:
        right = 0
    if "window_size" in known:
        # A tuple: varlen_attn recognises causal by comparing with (-1, 0).
        given["window_size"] = (left, right)
    elif problem.causal is not None:
        given["is_causal"] = True
    return given
