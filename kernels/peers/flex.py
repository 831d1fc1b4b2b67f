"""Compiled torch.nn.attention.flex_attention: what the GPU and the CPU peer share.

Compiled, always: uncompiled flex_attention is another implementation, a dense reference in plain operations, and
verifying it would say nothing about the kernel. `fullgraph=True` keeps dynamo from falling back to it in silence, which
is what it does by default when it has compiled a function too often.

How a problem is said:
- causal and window are one mask_mod, low <= j - i <= high, its bounds captured as tensors: one compiled kernel serves
  every mask and, with dynamic shapes, every length.
- softcap and ALiBi are a score_mod, in that order, on the scaled score in fp32.
- Each combination of dtype, head_dim, scale, grouping, mask and score_mod still costs a compilation of seconds.
"""

import warnings
from abc import abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from fa2verify.kernels.autograd import AutogradKernel, Forward
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]

_UNBOUNDED = 2**30  # beyond any distance j - i, and far enough from int32's end to be added to


class FlexKernel(AutogradKernel):
    """flex_attention through torch.compile."""

    @abstractmethod
    def limits(self, problem: Problem) -> tuple[str, ...]:
        """What this device's template does not take of a problem that the interface takes, in sentences."""

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        """What flex_attention lacks, then what its template for the device lacks."""
        reasons = []
        if problem.is_varlen:
            reasons.append("This adapter gives flex_attention dense batches alone.")
        if problem.dropout:
            reasons.append("flex_attention has no dropout.")
        return (*reasons, *self.limits(problem))

    def forward_of(self, problem: Problem, tensors: Tensors) -> Forward:
        """Run the compiled function; on first sight of a kind of problem it is compiled, in seconds."""
        score_mod = _score_mod(problem, tensors)
        block_mask = _block_mask(problem, tensors.q.device)

        def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
            views = [self.prepare(tensor.transpose(1, 2)) for tensor in (q, k, v)]
            result = _compiled(
                *views,
                score_mod=score_mod,
                block_mask=block_mask,
                scale=problem.softmax_scale,
                enable_gqa=problem.group > 1,
                **self.lse_request(),
            )
            out, lse = (result[0], result[1].lse) if self.gives_lse else (result, None)
            return out.transpose(1, 2), lse

        return forward

    def prepare(self, tensor: Tensor) -> Tensor:
        """`tensor`, (batch, heads, seqlen, head_dim), with what the compiler should know of it."""
        return tensor

    def lse_request(self) -> dict[str, Any]:
        """Arguments that ask for the log-sum-exp."""
        return {}


def _score_mod(problem: Problem, tensors: Tensors) -> ScoreMod | None:
    device = tensors.q.device
    cap = torch.tensor(problem.softcap, dtype=torch.float32, device=device)
    slopes = tensors.alibi_slopes
    if slopes is not None:
        slopes = slopes.expand(problem.batch, problem.heads_q).contiguous()
    diagonal = torch.tensor(problem.diagonal(0), dtype=torch.int32, device=device)

    def capped(score: Tensor, _b: Tensor, _h: Tensor, _i: Tensor, _j: Tensor) -> Tensor:
        return cap * torch.tanh(score / cap)

    def biased(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        assert slopes is not None
        return score - slopes[b, h] * (j - i - diagonal).abs()

    def both(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return biased(capped(score, b, h, i, j), b, h, i, j)

    if problem.softcap:
        return capped if slopes is None else both
    return None if slopes is None else biased


def _block_mask(problem: Problem, device: torch.device) -> Any:
    """A BlockMask, or None where every query sees every key."""
    left, right = problem.window
    if problem.causal is not None:
        right = 0
    if left < 0 and right < 0:
        return None
    diagonal = problem.diagonal(0)
    low = torch.tensor(diagonal - left if left >= 0 else -_UNBOUNDED, dtype=torch.int32, device=device)
    high = torch.tensor(diagonal + right if right >= 0 else _UNBOUNDED, dtype=torch.int32, device=device)

    def mask_mod(_b: Tensor, _h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        distance = j - i
        return (distance >= low) & (distance <= high)

    from torch.nn.attention.flex_attention import create_block_mask

    return create_block_mask(mask_mod, None, None, problem.seqlens_q[0], problem.seqlens_k[0], device=str(device))


def _compiled(*args: Any, **kwargs: Any) -> Any:
    from torch._dynamo.exc import FailOnRecompileLimitHit

    try:
        return _compile()(*args, **kwargs)
    except FailOnRecompileLimitHit:
        # Dynamo keeps a few variants of a function and then gives up. Dropping them all costs compilations; going on
        # uncompiled would verify something else.
        torch._dynamo.reset()
        return _compile()(*args, **kwargs)


@cache
def _compile() -> Callable[..., Any]:
    with warnings.catch_warnings():
        # On import alone: the compiler's own modules use torch.jit.script_method, which torch itself deprecated.
        warnings.simplefilter("ignore", DeprecationWarning)
        import torch._inductor.compile_fx
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=True, fullgraph=True)
    return compiled
