"""The dropout mask: a pure function of (seed, batch index, head, query, key).

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11). The counter holds absolute
positions, so a kernel may visit blocks in any order, forward and backward, and a reference can draw the same mask:

    words = philox4x32_10(counter=(key // 4, query, head, batch), key=(seed mod 2^32, seed // 2^32))
    keep  = words[key % 4] >= floor(dropout * 2^32)

It is drawn on the tensors' device, in integers alone, so that every device gives the same.
"""

import torch
from torch import Tensor

from fa2verify.kernels.problem import Problem

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF


def philox4x32_10(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four 32-bit words for each counter; counters are arrays of 32-bit values, held in int64, that broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        high0, low0 = _product(c0, _MULTIPLIERS[0])
        high1, low1 = _product(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _KEY_STEPS[0]) & _LOW, (k1 + _KEY_STEPS[1]) & _LOW
    return c0, c1, c2, c3


def _product(words: Tensor, multiplier: int) -> tuple[Tensor, Tensor]:
    """High and low 32 bits of a product of 32-bit numbers. By halves of the words: all of it would not fit int64."""
    upper = (words >> 16) * multiplier
    lower = (words & 0xFFFF) * multiplier
    middle = (upper & 0xFFFF) << 16
    low = lower + middle
    return (upper >> 16) + (low >> 32), low & _LOW


def kept(problem: Problem, sequence: int, seqlen_q: int, seqlen_k: int, device: torch.device) -> Tensor:
    """Which attention weights of one sequence are kept: bool (heads_q, seqlen_q, seqlen_k)."""
    columns = torch.arange(-(-seqlen_k // 4), device=device)
    rows = torch.arange(seqlen_q, device=device)[:, None]
    heads = torch.arange(problem.heads_q, device=device)[:, None, None]
    batch = torch.full((1, 1, 1), sequence, device=device)
    key = (problem.dropout_seed & _LOW, problem.dropout_seed >> 32)
    # All four words depend on all of the counter, so they have its whole shape already.
    words = torch.stack(philox4x32_10((columns, rows, heads, batch), key), dim=-1)
    return words.flatten(-2)[..., :seqlen_k] >= int(problem.dropout * 2**32)
