"""What plain PyTorch gives in the problem's own dtype: the error that a kernel's error is compared with.

Scores and probabilities are rounded to the dtype, as in the baseline that flash-attn's tests measure against (K scaled
first, then the product). PyTorch's own math backend keeps fp32 inside and would be a much tighter baseline.
"""

import warnings

import torch
from torch import Tensor

from fa2verify.kernels.autograd import differentiate
from fa2verify.kernels.dropout import kept
from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.mask import distance, visible
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.sequences import Block, blocks, join
from fa2verify.kernels.tensors import Tensors


def baseline(problem: Problem, tensors: Tensors) -> Outputs:
    """out, dq, dk and dv of plain PyTorch operations in the problem's dtype; no lse."""

    def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, None]:
        inputs = Tensors(
            q,
            k,
            v,
            tensors.dout,
            tensors.cu_seqlens_q,
            tensors.cu_seqlens_k,
            tensors.max_seqlen_q,
            tensors.max_seqlen_k,
            tensors.alibi_slopes,
        )
        return join(problem, [_forward(problem, block) for block in blocks(problem, inputs)]), None

    with warnings.catch_warnings():
        # torch's own thread of the backward says so the first time that it has a matrix product on a GPU.
        warnings.filterwarnings("ignore", "Attempting to run cuBLAS, but there was no current", UserWarning)
        return differentiate(forward, problem, tensors)


def _forward(problem: Problem, block: Block) -> Tensor:
    q = block.q
    k, v = (tensor.repeat_interleave(problem.group, dim=1) for tensor in (block.k, block.v))
    seqlen_q, seqlen_k = q.shape[2], k.shape[2]
    scores = q @ (k * problem.softmax_scale).mT
    if problem.softcap:
        scores = torch.tanh(scores / problem.softcap) * problem.softcap
    if block.slopes is not None:
        away = distance(problem, seqlen_q, seqlen_k, q.device).abs()
        scores = scores - (block.slopes[:, :, None, None] * away).to(scores.dtype)
    seen = visible(problem, seqlen_q, seqlen_k, q.device)
    nothing = ~seen.any(-1, keepdim=True)
    # A row that sees nothing would be NaN in softmax and in its gradient: give it scores, then take its weights away.
    probabilities = torch.softmax(scores.masked_fill(~seen & ~nothing, float("-inf")), dim=-1)
    probabilities = probabilities.masked_fill(nothing, 0.0)
    if problem.dropout:
        masks = [kept(problem, block.first + index, seqlen_q, seqlen_k, q.device) for index in range(q.shape[0])]
        probabilities = probabilities * torch.stack(masks) / (1 - problem.dropout)
    return probabilities @ v
