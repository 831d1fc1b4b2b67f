"""The dropout mask: a pure function of (seed, batch index, head, query, key).

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11). The counter holds absolute
positions, so a kernel may visit blocks in any order, forward and backward, and a reference can draw the same mask:

    words = philox4x32_10(counter=(key // 4, query, head, batch), key=(seed mod 2^32, seed // 2^32))
    keep  = words[key % 4] >= floor(dropout * 2^32)
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fa2verify.kernels.problem import Problem

_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_KEY_STEPS = (0x9E3779B9, 0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_HIGH_SHIFT = np.uint64(32)

Words = NDArray[np.uint64]


def philox4x32_10(counter: tuple[Words, Words, Words, Words], key: tuple[int, int]) -> tuple[Words, ...]:
    """Four 32-bit words for each counter; counters are arrays of 32-bit values, held in uint64, that broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0, product1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (product1 >> _HIGH_SHIFT) ^ c1 ^ np.uint64(k0),
            product1 & _LOW,
            (product0 >> _HIGH_SHIFT) ^ c3 ^ np.uint64(k1),
            product0 & _LOW,
        )
        k0, k1 = (k0 + _KEY_STEPS[0]) & 0xFFFFFFFF, (k1 + _KEY_STEPS[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def kept(problem: Problem, sequence: int, seqlen_q: int, seqlen_k: int, device: torch.device) -> Tensor:
    """Which attention weights of one sequence are kept: bool (heads_q, seqlen_q, seqlen_k)."""
    columns = np.arange(-(-seqlen_k // 4), dtype=np.uint64)
    rows = np.arange(seqlen_q, dtype=np.uint64)[:, None]
    heads = np.arange(problem.heads_q, dtype=np.uint64)[:, None, None]
    batch = np.full((1, 1, 1), sequence, dtype=np.uint64)
    key = (problem.dropout_seed & 0xFFFFFFFF, problem.dropout_seed >> 32)
    words = np.stack(np.broadcast_arrays(*philox4x32_10((columns, rows, heads, batch), key)), axis=-1)
    threshold = np.uint64(int(problem.dropout * 2**32))
    flat = words.reshape(problem.heads_q, seqlen_q, 4 * columns.size)[..., :seqlen_k]
    return torch.from_numpy(flat >= threshold).to(device)
