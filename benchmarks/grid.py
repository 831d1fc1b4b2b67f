"""The grids of problems that kernels are benchmarked on, each the one that some published table uses.

| grid | problems |
| --- | --- |
| flash | FlashAttention's own: hidden size 2048, batch = 16k / seqlen, seqlen 512 to 16k, head_dim 64, 128, 256, bf16 |
| triton | the report of 2022 (triton-lang/triton issue 919): batch 4, 48 heads, head_dim 64, 1k to 32k, fp16, causal |
| gqa | heads of current open models at head_dim 128: 32/8 (Llama 3 8B), 64/8 (Llama 3 70B), 40/8 (Qwen 2.5 32B) |
| varlen | packed sequences whose lengths are drawn from `LENGTHS` |
| smoke | small enough for a CPU: it shows that the benchmark works, and nothing else |
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

import numpy as np

from fa2verify.kernels.problem import Causal, Dense, Problem, Varlen

HIDDEN = 2048
TOKENS = 16384


@dataclass(frozen=True, slots=True)
class Cell:
    """One problem of a grid; `name` starts with the grid's."""

    grid: str
    name: str
    problem: Problem


@dataclass(frozen=True, slots=True)
class LengthDistribution:
    """Log-normal sequence lengths, cut to 1..longest.

    Only one number of each trace is published, so the spread, sigma = 1 of the logarithm (a 95th percentile of about
    five medians), is our assumption.
    """

    median: float
    longest: int
    sigma: float = 1.0

    def draw(self, tokens: int) -> tuple[int, ...]:
        """Lengths that sum to `tokens`, the last one cut to fit; the same on every machine."""
        stream = np.random.Generator(np.random.Philox(key=np.array([0, 0], dtype=np.uint64)))
        lengths: list[int] = []
        left = tokens
        while left:
            drawn = self.median * math.exp(self.sigma * float(stream.standard_normal()))
            lengths.append(min(max(1, round(drawn)), self.longest, left))
            left -= lengths[-1]
        return tuple(lengths)


# sharegpt: vLLM (arXiv 2309.06180, figure 11) has mean 161.31 tokens in and 337.99 out; a log-normal's median is its
# mean times exp(-sigma^2 / 2). conversation: the median prompt of 1020 tokens of Azure's trace in Splitwise
# (arXiv 2311.18677, section III).
LENGTHS = {
    "sharegpt": LengthDistribution(median=(161.31 + 337.99) * math.exp(-0.5), longest=8192),
    "conversation": LengthDistribution(median=1020, longest=8192),
}


def _flash() -> Iterator[Cell]:
    for head_dim, causal, seqlen in product((64, 128, 256), (False, True), _powers(512, 16384)):
        heads = HIDDEN // head_dim
        lengths = Dense(batch=TOKENS // seqlen, seqlen_q=seqlen, seqlen_k=seqlen)
        name = f"flash-d{head_dim}-{_mask(causal)}-s{seqlen}"
        yield Cell("flash", name, _problem(lengths, heads, heads, head_dim, causal))


def _triton() -> Iterator[Cell]:
    for seqlen in _powers(1024, 32768):
        lengths = Dense(batch=4, seqlen_q=seqlen, seqlen_k=seqlen)
        problem = Problem(
            dtype="float16",
            lengths=lengths,
            heads_q=48,
            heads_kv=48,
            head_dim=64,
            causal="bottom_right",
            direction="forward_backward",
        )
        yield Cell("triton", f"triton-s{seqlen}", problem)


def _gqa() -> Iterator[Cell]:
    for (heads_q, heads_kv), seqlen in product(((32, 8), (64, 8), (40, 8)), (2048, 8192)):
        lengths = Dense(batch=TOKENS // seqlen, seqlen_q=seqlen, seqlen_k=seqlen)
        yield Cell("gqa", f"gqa-h{heads_q}-{heads_kv}-s{seqlen}", _problem(lengths, heads_q, heads_kv, 128, True))


def _varlen() -> Iterator[Cell]:
    for (name, distribution), head_dim in product(LENGTHS.items(), (64, 128)):
        lengths = distribution.draw(TOKENS)
        heads = HIDDEN // head_dim
        packed = Varlen(seqlens_q=lengths, seqlens_k=lengths)
        yield Cell("varlen", f"varlen-{name}-d{head_dim}", _problem(packed, heads, heads, head_dim, True))


def _smoke() -> Iterator[Cell]:
    dense = Dense(batch=1, seqlen_q=32, seqlen_k=32)
    yield Cell("smoke", "smoke-full", _problem(dense, 2, 2, 16, False))
    packed = Varlen(seqlens_q=(5, 11), seqlens_k=(5, 11))
    yield Cell("smoke", "smoke-varlen", _problem(packed, 2, 1, 16, True))


GRIDS: dict[str, Callable[[], Iterator[Cell]]] = {
    "flash": _flash,
    "triton": _triton,
    "gqa": _gqa,
    "varlen": _varlen,
    "smoke": _smoke,
}


def _problem(lengths: Dense | Varlen, heads_q: int, heads_kv: int, head_dim: int, causal: bool) -> Problem:
    alignment: Causal | None = "bottom_right" if causal else None
    return Problem(
        dtype="bfloat16",
        lengths=lengths,
        heads_q=heads_q,
        heads_kv=heads_kv,
        head_dim=head_dim,
        causal=alignment,
        direction="forward_backward",
    )


def _powers(first: int, last: int) -> list[int]:
    return [first << shift for shift in range((last // first).bit_length())]


def _mask(causal: bool) -> str:
    return "causal" if causal else "full"
