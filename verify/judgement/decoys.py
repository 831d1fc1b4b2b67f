"""R3: can this problem tell right from wrong? Plausible wrong answers, judged like a kernel's.

With inputs of 0.1 * randn or uniform non-negative values, published suites accept gradients that are all zero. So every
small enough problem is also put to decoys, and a run counts how many problems caught each: a kernel whose run could
never have caught one has not been verified.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.reference import Steps, outputs
from fa2verify.reports.record import DecoyFate
from fa2verify.verify.judgement.judge import judge
from fa2verify.verify.judgement.measure import R2_LIMIT
from fa2verify.verify.judgement.truth import Truth

# Scores up to which decoys are judged: past it they would take longer than the kernel.
MAX_SCORES = 2**18


class _LastKeyDropped(Steps):
    """The last key that each query sees is not seen."""

    @cached_property
    def visible(self) -> Tensor:
        seen = super().visible
        later = seen.flip(-1).cumsum(-1).flip(-1)
        return seen & (later > 1)


class _WithoutD(Steps):
    """dS = P * dP: the gradient of softmax without its row sum."""

    @cached_property
    def d(self) -> Tensor:
        return torch.zeros_like(super().d)


class _Zeros(Steps):
    """Every output 0, as memory fresh from the system is."""

    @cached_property
    def w(self) -> Tensor:
        return torch.zeros_like(super().w)

    @cached_property
    def ds(self) -> Tensor:
        return torch.zeros_like(super().ds)

    @cached_property
    def lse(self) -> Tensor:
        return torch.zeros_like(super().lse)


def _zeros(truth: Truth) -> list[Steps]:
    return [_Zeros(truth.problem, part.block, truth.precision) for part in truth.parts]


def _mean_of_v(truth: Truth) -> list[Steps]:
    flat = replace(truth.problem, scale=0.0, alibi=None)
    return [Steps(flat, replace(part.block, slopes=None), truth.precision) for part in truth.parts]


def _last_key_dropped(truth: Truth) -> list[Steps]:
    return [_LastKeyDropped(truth.problem, part.block, truth.precision) for part in truth.parts]


def _other_alignment(truth: Truth) -> list[Steps] | None:
    problem = truth.problem
    if problem.causal is None or problem.seqlens_q == problem.seqlens_k:
        return None
    other = replace(problem, causal="top_left" if problem.causal == "bottom_right" else "bottom_right")
    return [Steps(other, part.block, truth.precision) for part in truth.parts]


def _neighbouring_scale(truth: Truth) -> list[Steps]:
    """The scale that the next multiple of 8 of head_dim would have."""
    problem = truth.problem
    padded = 8 * (problem.head_dim // 8 + 1)
    other = replace(problem, scale=problem.softmax_scale * (problem.head_dim / padded) ** 0.5)
    return [Steps(other, part.block, truth.precision) for part in truth.parts]


def _without_d(truth: Truth) -> list[Steps] | None:
    if not truth.problem.backward:
        return None
    return [_WithoutD(truth.problem, part.block, truth.precision) for part in truth.parts]


DECOYS: dict[str, Callable[[Truth], list[Steps] | None]] = {
    "all zeros": _zeros,
    "mean of V": _mean_of_v,
    "last key dropped": _last_key_dropped,
    "other alignment": _other_alignment,
    "neighbouring scale": _neighbouring_scale,
    "no D term": _without_d,
}


def judge_decoys(problem: Problem, kernel: Kernel, truth: Truth) -> dict[str, DecoyFate]:
    """Each decoy that applies to the problem, and whether the rules caught it; empty above MAX_SCORES.

    A decoy nowhere further from the truth than R2 allows is "too_close"; one that is further and passes is "missed",
    which no correct judge does.
    """
    if problem.scores > MAX_SCORES:
        return {}
    return {name: fate(problem, kernel, truth, wrong) for name, wrong in _applicable(truth)}


def _applicable(truth: Truth) -> Iterator[tuple[str, Outputs]]:
    for name, make in DECOYS.items():
        parts = make(truth)
        if parts is not None:
            yield name, as_kernel_would(truth.problem, outputs(truth.problem, parts))


def as_kernel_would(problem: Problem, exact: Outputs) -> Outputs:
    """Outputs in the reference's precision as a kernel stores them."""
    dtype = getattr(torch, problem.dtype)

    def store(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(dtype)

    lse = None if exact.lse is None else exact.lse.to(torch.float32)
    return Outputs(exact.out.to(dtype), lse, store(exact.dq), store(exact.dk), store(exact.dv))


def fate(problem: Problem, kernel: Kernel, truth: Truth, wrong: Outputs) -> DecoyFate:
    """What became of the decoy `wrong` under the rules."""
    judgement = judge(problem, kernel, wrong, truth)
    if not judgement.passed:
        return "caught"
    # Said again without the rules: is it further away than they allow?
    apart = any(bool((one.difference.abs() > R2_LIMIT * one.bound).any()) for one in judgement.comparisons)
    return "missed" if apart else "too_close"
