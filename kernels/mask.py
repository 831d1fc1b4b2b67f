"""Which keys a query sees: causal alignment and sliding window, vectorised.

Written once for reference, baseline and decoys, and therefore tested against a brute-force loop: a published kernel bug
survived because its verifier reused the kernel's own wrong mask (cutlass 2336).

With `diagonal` = 0 under top-left alignment and seqlen_k - seqlen_q otherwise, query i sees key j if

    causal:                 j <= i + diagonal
    window (left, right):   i + diagonal - left <= j <= i + diagonal + right, -1 meaning unbounded

and both if both are asked for.
"""

import torch
from torch import Tensor

from fa2verify.kernels.problem import Problem


def distance(problem: Problem, seqlen_q: int, seqlen_k: int, device: torch.device) -> Tensor:
    """J - (i + diagonal) for every query i and key j: int64 (seqlen_q, seqlen_k), positive right of it."""
    diagonal = 0 if problem.causal == "top_left" else seqlen_k - seqlen_q
    rows = torch.arange(seqlen_q, device=device)[:, None]
    columns = torch.arange(seqlen_k, device=device)
    return columns - rows - diagonal


def visible(problem: Problem, seqlen_q: int, seqlen_k: int, device: torch.device) -> Tensor:
    """Whether query i of a sequence sees key j: bool (seqlen_q, seqlen_k)."""
    right_of_diagonal = distance(problem, seqlen_q, seqlen_k, device)
    seen = torch.ones_like(right_of_diagonal, dtype=torch.bool)
    left, right = problem.window
    if problem.causal is not None:
        seen &= right_of_diagonal <= 0
    if left >= 0:
        seen &= right_of_diagonal >= -left
    if right >= 0:
        seen &= right_of_diagonal <= right
    return seen
