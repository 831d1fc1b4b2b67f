"""Attention written a second time, row by row in fp64, and how far apart two correct evaluations may be.

An oracle for the reference and for the baseline's arithmetic. It shares no code with them but the dropout mask, which
has an oracle of its own, and its gradients are autograd's, not formulas.
"""

import math

import torch
from torch import Tensor

from fa2verify.kernels.dropout import kept
from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors

EPS = {torch.float64: 2.0**-53, torch.float32: 2.0**-24}


def peak(tensor: Tensor) -> float:
    return float(tensor.double().abs().max()) if tensor.numel() else 0.0


def tolerances(problem: Problem, tensors: Tensors, dtype: torch.dtype = torch.float64) -> dict[str, float]:
    """How far apart two correct evaluations in `dtype` may be.

    The largest sum of absolute values that an element of the output can be, times the roundings on the way to it: each
    sum has at most head_dim + seqlen_q * group + seqlen_k terms, and exp turns an absolute error of a score, EPS |s|,
    into a relative one. The factor 8 is for the operations beside the sums.
    """
    q, k, v, dout = (peak(_tokens(problem, each)) for each in (tensors.q, tensors.k, tensors.v, tensors.dout))
    longest_q, longest_k = max(problem.seqlens_q) * problem.group, max(problem.seqlens_k)
    scale, kept_weight = abs(problem.softmax_scale), 1 / (1 - problem.dropout)
    slope = peak(tensors.alibi_slopes) if tensors.alibi_slopes is not None else 0.0
    score = scale * problem.head_dim * q * k + problem.softcap + slope * (longest_q + longest_k)
    unit = 8 * EPS[dtype] * (problem.head_dim + longest_q + longest_k + 2 * score)
    dp = 2 * problem.head_dim * dout * v * kept_weight
    return {
        "out": unit * v * kept_weight,
        "lse": unit * (score + math.log(longest_k + 1)),
        "dq": unit * scale * dp * k,
        "dk": unit * scale * dp * q * longest_q,
        "dv": unit * dout * longest_q * kept_weight,
    }


def _by_rows(problem: Problem, q: Tensor, k: Tensor, v: Tensor, slopes: Tensor | None) -> tuple[Tensor, Tensor]:
    """The design's seven rules for each sequence, query and head on its own.

    q, k, v  (total, heads, head_dim): a dense problem's sequences lie one after the other too
    """
    outs, lses = [], []
    start_q = start_k = 0
    for b, (m, n) in enumerate(zip(problem.seqlens_q, problem.seqlens_k, strict=True)):
        keep = kept(problem, b, m, n, torch.device("cpu"))
        offset = 0 if problem.causal == "top_left" else n - m
        for i in range(m):
            for h in range(problem.heads_q):
                g = h // (problem.heads_q // problem.heads_kv)
                seen = [j for j in range(n) if sees(problem, i + offset, j)]
                row_k, row_v = (tensor[start_k : start_k + n, g][seen] for tensor in (k, v))
                s = (row_k * q[start_q + i, h]).sum(-1) * problem.softmax_scale
                if problem.softcap:
                    s = problem.softcap * torch.tanh(s / problem.softcap)
                if slopes is not None:
                    slope = slopes[b, h] if slopes.dim() == 2 else slopes[h]
                    s = s - slope.double() * torch.tensor([abs(i + offset - j) for j in seen], dtype=torch.float64)
                lse = s.logsumexp(0) if seen else torch.tensor(float("-inf"), dtype=torch.float64)
                p = torch.exp(s - lse)
                if problem.dropout:
                    p = p * keep[h, i, seen] / (1 - problem.dropout)
                outs.append(p @ row_v)
                lses.append(lse.detach())
        start_q, start_k = start_q + m, start_k + n
    total = sum(problem.seqlens_q)
    out = torch.stack(outs) if outs else torch.zeros(0, problem.head_dim, dtype=torch.float64)
    lse = torch.stack(lses) if lses else torch.zeros(0, dtype=torch.float64)
    return out.reshape(total, problem.heads_q, problem.head_dim), lse.reshape(total, problem.heads_q)


def sees(problem: Problem, diagonal: int, j: int) -> bool:
    left, right = problem.window
    return (
        (problem.causal is None or j <= diagonal)
        and (left < 0 or j >= diagonal - left)
        and (right < 0 or j <= diagonal + right)
    )


def second_version(problem: Problem, tensors: Tensors) -> Outputs:
    """The same attention with gradients by autograd, shaped as the contract says."""
    inputs = [_tokens(problem, each) for each in (tensors.q, tensors.k, tensors.v)]
    q, k, v = (each.double().reshape(-1, *each.shape[-2:]).requires_grad_() for each in inputs)
    dout = _tokens(problem, tensors.dout).double().reshape(q.shape)
    out, lse = _by_rows(problem, q, k, v, tensors.alibi_slopes)
    if out.requires_grad:
        gradients = torch.autograd.grad(out, (q, k, v), dout, materialize_grads=True, allow_unused=True)
    else:  # no query at all
        gradients = (torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v))
    dq, dk, dv = (gradient.reshape(each.shape) for gradient, each in zip(gradients, inputs, strict=True))
    if problem.is_varlen:
        rows = torch.nn.functional.pad(lse.T, (0, problem.tail), value=float("-inf"))
    else:
        rows = lse.reshape(problem.batch, problem.seqlens_q[0], problem.heads_q).transpose(1, 2)
    like_inputs = (out.detach().reshape(inputs[0].shape), dq, dk, dv)
    out, dq, dk, dv = (torch.nn.functional.pad(each, (0, 0, 0, 0, 0, problem.tail)) for each in like_inputs)
    return Outputs(out, rows, dq, dk, dv)


def _tokens(problem: Problem, tensor: Tensor) -> Tensor:
    """Without the rows that belong to no sequence."""
    return tensor[: len(tensor) - problem.tail]


def assert_close(found: Outputs, expected: Outputs, allowed: dict[str, float]) -> None:
    """The outputs that `allowed` names agree, element by element and in what is not finite."""
    for name, tolerance in allowed.items():
        one, other = getattr(found, name), getattr(expected, name)
        if one is None and other is None:
            continue
        assert one.shape == other.shape, name
        finite = other.isfinite()
        assert torch.equal(one.isfinite(), finite), name
        assert torch.equal(one[~finite].double(), other[~finite].double()), name
        error = peak(one[finite].double() - other[finite].double())
        assert error <= tolerance, f"{name}: {error} > {tolerance}"
