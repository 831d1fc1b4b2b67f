"""F: how far an output of a correct kernel can lie from the reference, element by element.

Derivation and evidence are in docs/numerics.md; here are the formulas. Two kinds of error are kept apart:

* fp32 arithmetic: sums of many fp32 roundings, up to a third of F for gradients in fp16 and far less in bf16;
* roundings to the problem's dtype: of the probabilities, of the scores' gradients and of the results, and, for a kernel
  of `score_dtype` "dtype", of scores and of whatever plain PyTorch stores in between.

The second kind is bounded twice: in the worst case (B: every rounding as bad as it can be) and in probability (T:
independent roundings of zero mean add as the root of the sum of squares; Higham and Mary, SIAM J. Sci. Comput. 41(5),
2019; LAMBDA standard deviations). F is the smaller of the two, or B alone where a value family, or a single key, ties
roundings together.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fa2verify.kernels.kernel import ScoreDtype
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.reference import Steps
from fa2verify.kernels.sequences import join, join_rows
from fa2verify.kernels.values import DEPENDENT
from fa2verify.reports.record import OutputName

UNIT_ROUNDOFF = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
# Half the smallest subnormal of fp16; bf16 has fp32's range, and kernels flush fp32's subnormals to zero.
SMALLEST = {"float16": 2.0**-25, "bfloat16": 2.0**-126}
EPS = 2.0**-24  # unit roundoff of fp32
LAMBDA = 6.0  # standard deviations

# A relative error of exp: past it F says nothing any more, and it must not overflow.
_MAX_EXPONENT = 60.0


def bounds(problem: Problem, parts: list[Steps], score_dtype: ScoreDtype) -> dict[OutputName, Tensor]:
    """F for every output of the contract, shaped like the output, in the reference's precision.

    problem      the problem
    parts        the reference's steps
    score_dtype  the kernel's, see `fa2verify.kernels.kernel.Kernel`
    """
    blocks = [Rounding(part, score_dtype) for part in parts]
    found: dict[OutputName, Tensor] = {
        "out": join(problem, [block.out for block in blocks]),
        "lse": join_rows(problem, [block.lse for block in blocks]),
    }
    if problem.backward:
        found["dq"] = join(problem, [block.dq for block in blocks])
        found["dk"] = join(problem, [block.dk for block in blocks])
        found["dv"] = join(problem, [block.dv for block in blocks])
    return found


@dataclass(frozen=True)
class Rounding:
    """The bounds of one block; matrices are (batch, heads_q, seqlen_q, seqlen_k) unless said otherwise."""

    steps: Steps
    score_dtype: ScoreDtype

    @cached_property
    def u(self) -> float:
        """Unit roundoff of the dtype."""
        return UNIT_ROUNDOFF[self.steps.problem.dtype]

    @cached_property
    def eta(self) -> float:
        """What a rounding can lose whatever the size: half the smallest subnormal, or what is flushed to zero."""
        return SMALLEST[self.steps.problem.dtype]

    @cached_property
    def rescale(self) -> float:
        """Dropout's 1 / (1 - p): kernels round P before they apply it."""
        return 1 / (1 - self.steps.problem.dropout)

    @cached_property
    def plain(self) -> bool:
        """Whether scores and everything else between operations are rounded to the dtype."""
        return self.score_dtype == "dtype"

    @cached_property
    def roundings(self) -> int:
        """Roundings of a probability or score gradient: one, or exp, sum, quotient and store in plain PyTorch."""
        return 4 if self.plain else 1

    @cached_property
    def independent(self) -> bool:
        """Whether roundings are independent, so that T holds: not in some families, nor where queries share one key.

        O has one row then, or zeros by dropout. It is rounded alike for every query, and the errors of D add up in dK.
        """
        return self.steps.problem.values not in DEPENDENT and self.steps.k.shape[2] != 1

    # fp32 arithmetic

    @cached_property
    def abs_scores(self) -> Tensor:
        """|scale| |Q| |K|^T."""
        return abs(self.steps.problem.softmax_scale) * (self.steps.q.abs() @ self.steps.k.abs().mT)

    @cached_property
    def dp_fp32(self) -> Tensor:
        """Error of dP by fp32 accumulation."""
        return _accumulation(self.steps.v.shape[-1]) * self.steps.drop(self.steps.dout.abs() @ self.steps.v.abs().mT)

    @cached_property
    def scores_fp32(self) -> Tensor:
        """Absolute error of S by fp32 arithmetic: dot product, scale, log2(e), softcap, bias, argument of exp."""
        error = (_accumulation(self.steps.q.shape[-1]) + 6 * EPS) * self.abs_scores
        if self.steps.problem.softcap:
            error = error + 8 * EPS * self.steps.problem.softcap
        if self.steps.bias is not None:
            error = error - 4 * EPS * self.steps.bias
        return error

    @cached_property
    def p_fp32(self) -> Tensor:
        """Relative error of P by fp32 arithmetic: its score, the row's scores through the sum, exp2 and sums."""
        through_sum = (self.steps.p * self.scores_fp32).sum(-1, keepdim=True)
        sums = _accumulation(self.steps.k.shape[2]) + _rescaling(self.steps.k.shape[2]) + 16 * EPS
        return torch.expm1((self.scores_fp32 + through_sum + sums).clamp(max=_MAX_EXPONENT))

    @cached_property
    def over_queries(self) -> float:
        """Relative error of an fp32 sum over the queries of a key head's group."""
        return _accumulation(self.steps.q.shape[2] * self.steps.problem.group)

    # Scores rounded to the dtype (plain PyTorch)

    @cached_property
    def scores_std(self) -> Tensor | float:
        """Standard deviation of S by roundings to the dtype: scaled Q or K, s twice, the softcap's steps, the bias."""
        if not self.plain:
            return 0.0
        steps = self.steps
        squares = (steps.problem.softmax_scale**2) * (steps.q**2 @ (steps.k**2).mT) + 2 * steps.s**2
        if steps.problem.softcap:
            squares = squares + 4 * steps.z**2
        if steps.bias is not None:
            squares = squares + steps.bias**2 + (steps.z + steps.bias) ** 2
        return self.u / math.sqrt(3) * squares.sqrt()

    @cached_property
    def scores_worst(self) -> Tensor | float:
        """The same roundings, each as bad as it can be."""
        if not self.plain:
            return 0.0
        steps = self.steps
        error = self.abs_scores + 2 * steps.s.abs()
        if steps.problem.softcap:
            error = error + 4 * steps.z.abs()
        if steps.bias is not None:
            error = error - steps.bias + (steps.z + steps.bias).abs()
        return self.u * error

    @cached_property
    def p_worst(self) -> Tensor | float:
        """Relative error of P by the scores' roundings, each as bad as it can be."""
        if isinstance(self.scores_worst, float):
            return 0.0
        through_sum = (self.steps.p * self.scores_worst).sum(-1, keepdim=True)
        return torch.expm1((self.scores_worst + through_sum).clamp(max=_MAX_EXPONENT))

    @cached_property
    def p_own_std(self) -> Tensor | float:
        """Relative standard deviation of P by its own score's roundings; exp is not linear, so at LAMBDA deviations."""
        if isinstance(self.scores_std, float):
            return 0.0
        return torch.expm1((LAMBDA * self.scores_std).clamp(max=_MAX_EXPONENT)) / LAMBDA

    @cached_property
    def p_row_std(self) -> Tensor | float:
        """What the row's sum adds to it, the same for the whole row: (batch, heads_q, seqlen_q, 1)."""
        if isinstance(self.p_own_std, float):
            return 0.0
        return ((self.steps.p * self.p_own_std) ** 2).sum(-1, keepdim=True).sqrt()

    @cached_property
    def key_std(self) -> Tensor | float:
        """Of P by its key's rounding, which all queries share: the column's largest, (batch, heads_q, 1, seqlen_k)."""
        if isinstance(self.p_own_std, float) or not self.p_own_std.shape[2]:
            return 0.0
        return (self.p_own_std * self.steps.visible).amax(2, keepdim=True)

    @cached_property
    def variance(self) -> float:
        """Of the dtype's roundings of one probability, relative."""
        return self.roundings * self.u**2 / 3

    # Results

    @cached_property
    def lse(self) -> Tensor:
        """(batch, heads_q, seqlen_q). fp32 throughout, whatever the dtype of what is stored."""
        steps = self.steps
        error = (steps.p * self.scores_fp32).sum(-1) + _accumulation(steps.k.shape[2]) + 16 * EPS
        if self.plain:
            error = error + (steps.p * self.scores_worst).sum(-1) + self.roundings * self.u
        return error + 4 * EPS * steps.lse.masked_fill(steps.lse == float("-inf"), 0.0).abs()

    @cached_property
    def stores(self) -> int:
        """Roundings of a result on its way out, and one more for roundings that tie by chance."""
        return 3 if self.plain else 2

    @cached_property
    def lost(self) -> Tensor | float:
        """What a tiny probability loses: eta / l, l = rowsum(exp(S - rowmax)); eta if it is normalised before."""
        if self.plain:
            return self.eta * self.rescale
        highest = self.steps.scores.amax(-1, keepdim=True) if self.steps.k.shape[2] else self.steps.lse[..., None]
        return self.rescale * self.eta * torch.exp((highest - self.steps.lse[..., None]).nan_to_num(nan=0.0))

    @cached_property
    def out_std(self) -> Tensor:
        """Standard deviation of O before it is rounded, (batch, heads_q, seqlen_q, head_dim)."""
        steps = self.steps
        squares = (steps.w**2 * self.variance) @ steps.v**2
        if self.plain:
            # (dO)_i = sum_j W_ij dS_ij (V_j - O_i): expanded, so that it is products of matrices.
            weights = steps.w**2 * self.p_own_std**2
            spread = weights @ steps.v**2 - 2 * steps.out * (weights @ steps.v)
            squares = squares + (spread + steps.out**2 * weights.sum(-1, keepdim=True)).clamp(min=0)
        return squares.sqrt()

    @cached_property
    def out_worst(self) -> Tensor:
        """Error of O before it is rounded, every rounding as bad as it can be, fp32 arithmetic aside."""
        return (self.steps.w * (self.p_worst + self.roundings * self.u)) @ self.steps.v.abs()

    @cached_property
    def out_fp32(self) -> Tensor:
        """Error of O by fp32 arithmetic and by probabilities too small for the dtype."""
        total = self.steps.v.abs().sum(2, keepdim=True)
        return (self.steps.w * self.p_fp32) @ self.steps.v.abs() + self.lost * total + self.eta

    @cached_property
    def out(self) -> Tensor:
        """(batch, heads_q, seqlen_q, head_dim)."""
        stored = self.u * self.steps.out.abs()
        return self._smaller(LAMBDA * self.out_std + self.stores * stored, self.out_worst + stored) + self.out_fp32

    @cached_property
    def d(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of D: standard deviation, worst case, fp32 arithmetic; (batch, heads_q, seqlen_q, 1).

        An error of P is an error of O in every column at once, so it is followed through D = sum_j P_ij dP_ij, and only
        O's own rounding is independent from column to column.
        """
        steps = self.steps
        terms = steps.p * steps.dp
        products = steps.dout * steps.out
        deviation = self.variance * (terms**2).sum(-1, keepdim=True) + self.u**2 / 3 * (products**2).sum(
            -1, keepdim=True
        )
        worst = (terms.abs() * (self.p_worst + self.roundings * self.u)).sum(-1, keepdim=True)
        worst = worst + self.u * products.abs().sum(-1, keepdim=True)
        fp32 = (steps.dout.abs() * self.out_fp32).sum(-1, keepdim=True)
        fp32 = fp32 + _accumulation(steps.v.shape[-1]) * products.abs().sum(-1, keepdim=True)
        if self.plain:
            # softmax's own backward takes D from P and a rounded dP; one written by hand also stores D.
            deviation = deviation + ((steps.ds * self.p_own_std) ** 2).sum(-1, keepdim=True)
            deviation = deviation + self.variance * ((terms**2).sum(-1, keepdim=True) + steps.d**2)
            worst = worst + self.roundings * self.u * (terms.abs().sum(-1, keepdim=True) + steps.d.abs())
        return deviation.sqrt(), worst, fp32

    @cached_property
    def through_softcap(self) -> Tensor | float:
        """dz/ds."""
        return 1 - self.steps.tanh**2 if self.steps.problem.softcap else 1.0

    @cached_property
    def dz_variance(self) -> Tensor:
        """Variance of the scores' gradient, D's part aside: P and dS are rounded, each once or more."""
        steps = self.steps
        squares = steps.dz**2 * (self.variance + self.u**2 / 3 + self.p_own_std**2 + self.p_row_std**2)
        if self.plain:
            squares = squares + 2 * self.u**2 / 3 * (steps.p * steps.dp * self.through_softcap) ** 2
            squares = squares + self.softcap_loss**2 / 3
        return squares + self.dz_lost**2

    @cached_property
    def dz_worst(self) -> Tensor:
        """Error of the scores' gradient, every rounding as bad as it can be, D's part and fp32 arithmetic aside."""
        steps = self.steps
        error = steps.dz.abs() * (self.p_worst + (self.roundings + 1) * self.u) + self.dz_lost
        if self.plain:
            error = error + 2 * self.u * (steps.p * steps.dp * self.through_softcap).abs() + self.softcap_loss
        return error

    @cached_property
    def dz_lost(self) -> Tensor:
        """Of dS where P, which some kernels round before they form dS, is below the dtype's smallest normal number."""
        return self.eta * ((self.steps.dp - self.steps.d).abs() + 2)

    @cached_property
    def softcap_loss(self) -> Tensor | float:
        """Of dS by dz/ds = 1 - tanh^2 with a rounded tanh, whose square and difference are rounded too."""
        return 4 * self.u * self.steps.ds.abs() if self.steps.problem.softcap else 0.0

    @cached_property
    def dz_fp32(self) -> Tensor:
        """Error of the scores' gradient by fp32 arithmetic, D's part included."""
        steps = self.steps
        relative = self.p_fp32 + 16 * EPS
        error = steps.dz.abs() * relative + steps.p * (self.dp_fp32 + self.d[2]) * self.through_softcap
        if steps.problem.softcap:
            slope = 2 * steps.tanh.abs() * (self.scores_fp32 * self.through_softcap / steps.problem.softcap + 8 * EPS)
            error = error + steps.ds.abs() * slope
        return error

    @cached_property
    def gradient_lost(self) -> float:
        """What a tiny score gradient loses of dQ and dK: stored as it is, then scaled, or scaled and then stored."""
        return max(abs(self.steps.problem.softmax_scale), 1.0) * 2 * self.eta

    @cached_property
    def weights(self) -> Tensor:
        """P through the softcap: how D's error enters the scores' gradient."""
        return self.steps.p * self.through_softcap

    @cached_property
    def dq(self) -> Tensor:
        """(batch, heads_q, seqlen_q, head_dim)."""
        steps, scale = self.steps, abs(self.steps.problem.softmax_scale)
        d_std, d_worst, _ = self.d
        common = (self.weights @ steps.k).abs()
        stored = self.u * steps.dq.abs()
        likely = scale * LAMBDA * ((self.dz_variance @ steps.k**2).sqrt() + d_std * common)
        worst = scale * (self.dz_worst @ steps.k.abs() + d_worst * common)
        fp32 = (self.dz_fp32 + _accumulation(steps.k.shape[2]) * steps.dz.abs()) @ steps.k.abs()
        lost = self.gradient_lost * steps.k.abs().sum(2, keepdim=True) + self.eta
        return self._smaller(likely + self.stores * stored, worst + self.stores * stored) + scale * fp32 + lost

    @cached_property
    def dk(self) -> Tensor:
        """(batch, heads_kv, seqlen_k, head_dim)."""
        steps, scale = self.steps, abs(self.steps.problem.softmax_scale)
        d_std, d_worst, _ = self.d
        squares = (self.dz_variance + (self.weights * d_std) ** 2).mT @ steps.q**2
        likely = scale**2 * LAMBDA**2 * squares + self._per_head(steps.dk_heads)
        worst = scale * ((self.dz_worst + self.weights * d_worst).mT @ steps.q.abs())
        fp32 = scale * ((self.dz_fp32 + self.over_queries * steps.dz.abs()).mT @ steps.q.abs())
        lost = self.gradient_lost * steps.q.abs().sum(2, keepdim=True) + self.eta
        return self._over_group(likely, worst, fp32 + lost, steps.dk_heads)

    @cached_property
    def dv(self) -> Tensor:
        """(batch, heads_kv, seqlen_k, head_dim)."""
        steps = self.steps
        squares = (steps.w**2 * (self.variance + self.p_own_std**2 + self.p_row_std**2)).mT @ steps.dout**2
        likely = LAMBDA**2 * squares + self._per_head(steps.dv_heads)
        worst = (steps.w * (self.p_worst + self.roundings * self.u)).mT @ steps.dout.abs()
        fp32 = (steps.w * (self.p_fp32 + self.over_queries)).mT @ steps.dout.abs()
        lost = self.rescale * self.eta * steps.dout.abs().sum(2, keepdim=True) + self.eta
        return self._over_group(likely, worst, fp32 + lost, steps.dv_heads)

    def _per_head(self, heads: Tensor) -> Tensor | float:
        """Variance (times LAMBDA^2) of what the keys' own rounding adds: common to all queries of a head."""
        if isinstance(self.key_std, float):
            return 0.0
        return (LAMBDA * self.key_std.mT * heads) ** 2

    def _over_group(self, likely: Tensor, worst: Tensor, certain: Tensor, heads: Tensor) -> Tensor:
        """Sum over a group's heads, each of which may be stored before the sum; `likely` holds squares."""
        steps = self.steps
        stored = self.u * steps.over_group(heads).abs()
        each = self.u * heads.abs() if steps.problem.group > 1 else torch.zeros_like(heads)
        deviation = steps.over_group(likely + LAMBDA**2 / 3 * each**2).sqrt()
        bound = self._smaller(deviation + self.stores * stored, steps.over_group(worst + each) + self.stores * stored)
        return bound + steps.over_group(certain)

    def _smaller(self, likely: Tensor, worst: Tensor) -> Tensor:
        return torch.minimum(likely, worst) if self.independent else worst


def _accumulation(terms: int) -> float:
    """Relative error of an fp32 sum of `terms` products, to be multiplied with the sum of their absolute values.

    Independent roundings: LAMBDA sqrt(terms) EPS. Tensor cores truncate as they add a group of 8 or more products to
    the accumulator (Fasi et al., PeerJ Computer Science 7:e330, 2021): up to 2 EPS each time, all in one direction.
    """
    return (LAMBDA * math.sqrt(terms) + terms / 4) * EPS


def _rescaling(seqlen_k: int) -> float:
    """Relative error of rescaling accumulators by exp(old maximum - new maximum), once a block of 16 keys or more."""
    return 4 * EPS * math.ceil(seqlen_k / 16)
