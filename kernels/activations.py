"""Real activations: q, k, v and the gradient of out from inside a trained transformer.

Ten attention heads of all-MiniLM-L6-v2 on one text of 128 tokens, with the gradient of the loss that the model was
trained with; docs/activations says how they were captured and under which licence. They are here because a dQ that was
wrong by a factor of five passed on Gaussian inputs and not on real ones (TransformerEngine 3216).

What stays real, within one head and one run of 128 tokens: how q, k, v and the gradient belong together, row by row;
scores from -40 to 41 and heads that send up to two thirds of their weight to the first and last token; dimensions and
rows far larger than others, gradients above all, whose rows differ in size by a factor of 100.

What does not: a head_dim other than 32 is a slice, or several heads side by side, whose scores add up; past 128 tokens
come those of another head, and past 1,280 the first again under other signs; grouped query heads meet the key head of
another head, and unequal lengths meet from the first token on. The gradient is scaled by a power of two.
"""

from functools import cache
from importlib.resources import files
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float32]


@cache
def captured() -> Values:
    """(q, k, v and gradient of out; heads; tokens; 32), fp32, every value one of fp16."""
    stored = files("fa2verify.kernels").joinpath("activations.npy").read_bytes()
    values: NDArray[np.float16] = np.load(BytesIO(stored), allow_pickle=False)
    return values.astype(np.float32)


def rows(role: int, draws: NDArray[np.uint16], shape: tuple[int, ...]) -> Values:
    """Captured rows for one tensor of one sequence, (seqlen, heads, head_dim).

    role   0 to 3: q, k, v or the gradient of out
    draws  two 16-bit integers, the same for all roles: the first decides which head comes first, the second with which
           token the sequence begins, in half of all draws the first one, to which most attention goes
    """
    store = captured()[role]
    count, tokens, width = store.shape
    seqlen, heads, head_dim = shape
    first, start = int(draws[0]) % count, max(0, int(draws[1]) % (2 * tokens) - tokens)
    side_by_side = -(-head_dim // width)
    token = start + np.arange(seqlen)
    run, lap = token // tokens, token // (tokens * count)
    head = (first + np.arange(heads)[:, None] * side_by_side + np.arange(side_by_side) + run[:, None, None]) % count
    drawn = store[head, (token % tokens)[:, None, None]].reshape(seqlen, heads, side_by_side * width)[..., :head_dim]
    # One sign a dimension and lap, the same for all roles: scores within a lap stay, and no key comes twice.
    # Bits of Weyl's sequence, whose steps of the golden ratio spread evenly.
    steps = lap[:, None, None] * (np.arange(head_dim) + 1)
    signs = 1 - 2 * ((steps * 0x9E3779B1 >> 31) & 1)
    signed: Values = drawn * signs.astype(np.float32)
    return signed
