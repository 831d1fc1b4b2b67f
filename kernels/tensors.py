"""The tensors of a problem: a pure function of problem and device, the same bits on any machine."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fa2verify.kernels.layout import Place, anywhere, empty_like_layout
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.sampled_values import fill_sampled
from fa2verify.kernels.values import Family, Role, draw

TORCH_DTYPE: dict[str, torch.dtype] = {"float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Tensors:
    """What a kernel is given.

    q             (batch, seqlen_q, heads_q, head_dim), varlen (total_q, heads_q, head_dim)
    k, v          (batch, seqlen_k, heads_kv, head_dim), varlen (total_k, heads_kv, head_dim)
    dout          gradient of out, shaped like q
    cu_seqlens_q  varlen: int32 (batch + 1), where each sequence begins in q; None when dense
    cu_seqlens_k  the same for k and v
    max_seqlen_q  the longest query length
    max_seqlen_k  the longest key length
    alibi_slopes  fp32 (heads_q) or (batch, heads_q); None without ALiBi

    The last dimension is contiguous; the others lie as the problem's layout says, gaps filled with NaN. In layout
    "tail" total_q and total_k are more than the sequences' tokens, and the rows past them are NaN.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    dout: Tensor
    cu_seqlens_q: Tensor | None
    cu_seqlens_k: Tensor | None
    max_seqlen_q: int
    max_seqlen_k: int
    alibi_slopes: Tensor | None

    def named(self) -> dict[str, Tensor]:
        """The tensors that there are, by field name."""
        names = ("q", "k", "v", "dout", "cu_seqlens_q", "cu_seqlens_k", "alibi_slopes")
        return {name: tensor for name in names if (tensor := getattr(self, name)) is not None}


def make_tensors(problem: Problem, device: torch.device | str = "cpu", place: Place = anywhere) -> Tensors:
    """Draw the problem's values, round them to its dtype and lay them out on `device`.

    place  moves each tensor to where it is to lie
    """
    q, k, v, dout = empty_like_layout(problem, torch.device(device), place)
    roles: tuple[tuple[Role, Tensor, tuple[int, ...]], ...] = (
        ("q", q, problem.seqlens_q),
        ("k", k, problem.seqlens_k),
        ("v", v, problem.seqlens_k),
        ("dout", dout, problem.seqlens_q),
    )
    slopes = _alibi_slopes(problem, device)
    if problem.values == "sampled":
        fill_sampled(problem, q, k, v, dout)
    else:
        for role, tensor, lengths in roles:
            tokens = tensor[: sum(lengths)] if problem.is_varlen else tensor
            tokens.copy_(_values(problem, problem.values, role, lengths, tensor.shape))
    return Tensors(
        q=q,
        k=k,
        v=v,
        dout=dout,
        cu_seqlens_q=place(_offsets(problem.seqlens_q, device)) if problem.is_varlen else None,
        cu_seqlens_k=place(_offsets(problem.seqlens_k, device)) if problem.is_varlen else None,
        max_seqlen_q=max(problem.seqlens_q),
        max_seqlen_k=max(problem.seqlens_k),
        alibi_slopes=None if slopes is None else place(slopes),
    )


def _values(problem: Problem, family: Family, role: Role, lengths: tuple[int, ...], shape: torch.Size) -> Tensor:
    heads, head_dim = shape[-2:]
    parts = [draw(family, problem.seed, role, index, (length, heads, head_dim)) for index, length in enumerate(lengths)]
    joined = np.concatenate(parts) if problem.is_varlen else np.stack(parts)
    # Rounded on the CPU: a device's own conversion is not part of what is verified.
    return torch.from_numpy(joined).to(TORCH_DTYPE[problem.dtype])


def _offsets(lengths: tuple[int, ...], device: torch.device | str) -> Tensor:
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32, device=device)


def _alibi_slopes(problem: Problem, device: torch.device | str) -> Tensor | None:
    """2^(-8 (h + 1) / heads), as in the ALiBi paper (arXiv 2108.12409), halved from one sequence to the next."""
    if problem.alibi is None:
        return None
    per_head = torch.exp2(-8 * (torch.arange(problem.heads_q, dtype=torch.float64) + 1) / problem.heads_q)
    if problem.alibi == "per_batch_head":
        per_head = per_head * torch.exp2(-torch.arange(problem.batch, dtype=torch.float64))[:, None]
    return per_head.to(torch.float32).to(device)
