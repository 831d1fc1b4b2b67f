"""Value families: what q, k, v and the gradient of out are filled with.

Every draw is the same bits on any machine and under any torch: numpy's Philox stream (guaranteed stable, NEP 19) picks
16-bit indices into a table of normal quantiles. `torch.randn` gives no such promise across versions and processors.

A family is chosen for what it shows. Uniform non-negative or very small values, alone, let all-zero gradients pass;
Gaussian values alone hide what real activations break (TransformerEngine 3216); values that tie make roundings equal,
or decide them all one way, so that a bias shows which otherwise averages out (arXiv 2510.04212). One family is no
distribution but rows of a real model, stored (`fa2verify.kernels.activations`).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from fa2verify.kernels import activations

Family = Literal[
    "randn",
    "large",
    "small",
    "outliers",
    "shifted_mean",
    "tied_keys",
    "paired_keys",
    "huge_logit",
    "powers_of_two",
    "negative_zero",
    "opposed",
    "activations",
]
FAMILIES: tuple[Family, ...] = get_args(Family)

# Families whose roundings are not independent: the probabilistic error bound does not hold for them. Both weights of
# paired_keys are rounded alike, but a relative error that a whole row shares is one of O, for which the bound has room.
DEPENDENT: frozenset[Family] = frozenset({"tied_keys", "powers_of_two"})

Values = NDArray[np.float32]
Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Stream:
    """An independent stream of draws, a pure function of `seed` and `role`."""

    bits: np.random.Philox

    @classmethod
    def of(cls, seed: int, role: int) -> "Stream":
        """The stream for one tensor (`role`) of the problem with `seed`."""
        return cls(np.random.Philox(key=np.array([seed, role], dtype=np.uint64)))

    def indices(self, shape: Shape) -> NDArray[np.uint16]:
        """Uniform 16-bit integers."""
        count = int(np.prod(shape, dtype=np.int64))
        raw: NDArray[np.uint64] = self.bits.random_raw(-(-count // 4)) if count else np.empty(0, np.uint64)
        return raw.astype("<u8", copy=False).view("<u2")[:count].reshape(shape)

    def normal(self, shape: Shape) -> Values:
        """N(0, 1) in 65,536 equally likely steps, within +-4.3."""
        return _quantiles()[self.indices(shape)]

    def bernoulli(self, shape: Shape, probability: float) -> Values:
        """1 with `probability`, rounded to a multiple of 2^-16, else 0."""
        return (self.indices(shape) < round(probability * 65536)).astype(np.float32)


@cache
def _quantiles() -> Values:
    half = [NormalDist().inv_cdf((index + 0.5) / 65536) for index in range(32768)]
    return np.array(half + [-value for value in reversed(half)], dtype=np.float32)


Draw = Callable[[Stream, Shape], Values]


def _outliers(stream: Stream, shape: Shape) -> Values:
    body = stream.normal(shape)
    return body + 10 * stream.normal(shape) * stream.bernoulli(shape, 0.001)


def _powers_of_two(stream: Stream, shape: Shape) -> Values:
    index = stream.indices(shape)
    sign = 1 - 2 * (index & 1).astype(np.float32)
    return sign * np.exp2(-((index >> 1) % 5).astype(np.float32))


def _negative_zero(stream: Stream, shape: Shape) -> Values:
    body = stream.normal(shape)
    return np.where(stream.bernoulli(shape, 0.5) > 0, np.float32(-0.0), body)


def _huge_logit(stream: Stream, shape: Shape) -> Values:
    body = stream.normal(shape)
    if body.shape[0]:
        body[0] *= 8
    return body


def _tied_keys(stream: Stream, shape: Shape) -> Values:
    row = stream.normal((1, *shape[1:]))
    return np.broadcast_to(row, shape).copy() if shape[0] else stream.normal(shape)


def _same_sign(stream: Stream, shape: Shape) -> Values:
    return -np.abs(stream.normal(shape)) - np.float32(0.5)


def _above_two(stream: Stream, shape: Shape) -> Values:
    return np.abs(stream.normal(shape)) + np.float32(2)


def _below_minus_two(stream: Stream, shape: Shape) -> Values:
    return -_above_two(stream, shape)


# How far the scores of a pair lie above the others at the default scale, in natural logarithms. The others then weigh
# some 2^-15 of the pair: far less than half a place of bf16, 2^-9, which they can decide and not make, and far more
# than one of fp32.
_GAP = 16.0


def _paired_keys(shared: Stream, head_dim: int) -> tuple[Draw, Draw, Draw, Draw]:
    """Two equal keys, the first, that outweigh all others for every query, and V of one sign (arXiv 2510.04212).

    They are one vector x for all heads. Every query has as much of it as puts its score _GAP above 0; the other keys
    have nothing of it. Its elements cancel: a kernel that adds all of q up is not what this is about.

    shared  a stream that all roles have
    """
    above = np.float32(0.5) + np.abs(shared.normal((-(-head_dim // 2),)))
    x: Values = np.concatenate([above, -above])[:head_dim]
    square = math.fsum(float(element) ** 2 for element in x)

    share: Values = np.float32(_GAP * math.sqrt(head_dim) / square) * x

    def queries(stream: Stream, shape: Shape) -> Values:
        return stream.normal(shape) + share

    def keys(stream: Stream, shape: Shape) -> Values:
        body = stream.normal(shape)
        # Summed in order, and so to the same bits everywhere, as np.sum need not be.
        along = np.cumsum(body.astype(np.float64) * x, axis=-1)[..., -1:] / square
        others: Values = (body - along * x).astype(np.float32)
        others[:2] = x
        return others

    return queries, keys, _same_sign, _normal


def _scaled(factor: float) -> Draw:
    return lambda stream, shape: np.float32(factor) * stream.normal(shape)


def _shifted(stream: Stream, shape: Shape) -> Values:
    return stream.normal(shape) + np.float32(2)


def _normal(stream: Stream, shape: Shape) -> Values:
    return stream.normal(shape)


# Family to the draws of (q, k, v, gradient of out), each over one sequence's tensor: (seqlen, heads, head_dim). Here
# are those that are independent of one another.
_DRAWS: dict[Family, tuple[Draw, Draw, Draw, Draw]] = {
    "randn": (_normal, _normal, _normal, _normal),
    "large": (_scaled(5), _scaled(5), _scaled(5), _scaled(5)),
    "small": (_scaled(0.1), _scaled(0.1), _scaled(0.1), _scaled(0.1)),
    # FlashAttention-3's: N(0, 1) + N(0, 100) * Bernoulli(0.001).
    "outliers": (_outliers, _outliers, _outliers, _outliers),
    "shifted_mean": (_shifted, _shifted, _shifted, _shifted),
    # Every key of a head is the same and V has one sign: all probabilities tie, and their roundings all fall one way.
    "tied_keys": (_normal, _tied_keys, _same_sign, _normal),
    # The first key outweighs the others for half of the queries, one probability near 1, and drops out for the rest.
    "huge_logit": (_normal, _huge_logit, _normal, _normal),
    "powers_of_two": (_powers_of_two, _powers_of_two, _powers_of_two, _powers_of_two),
    "negative_zero": (_negative_zero, _negative_zero, _negative_zero, _negative_zero),
    # Queries point away from every key, so that all scores are low: a padded column, whose score is 0, outweighs the
    # whole row, and exp(0 - lse) overflows (flash-attention 334, 443).
    "opposed": (_above_two, _below_minus_two, _normal, _normal),
}

Role = Literal["q", "k", "v", "dout"]
ROLES: tuple[Role, ...] = get_args(Role)


def draw(family: Family, seed: int, role: Role, sequence: int, shape: Shape) -> Values:
    """Values of one sequence's tensor, fp32, not yet rounded to the problem's dtype.

    family    which distribution
    seed      which draw of it
    role      which tensor
    sequence  index in the batch: sequences draw from streams of their own, so that the values of one do not depend on
              the lengths of the others
    shape     (seqlen, heads, head_dim)
    """
    position = ROLES.index(role)
    # For what roles have in common: a stream that no role of a sequence has.
    shared = Stream.of(seed, 2**63 + sequence)
    if family == "activations":
        return activations.rows(position, shared.indices((2,)), shape)
    draws = _paired_keys(shared, shape[-1]) if family == "paired_keys" else _DRAWS[family]
    return draws[position](Stream.of(seed, sequence * len(ROLES) + position), shape)
