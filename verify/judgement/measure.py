"""How far one output tensor is from the reference, in every unit that the report shows."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from fa2verify.reports.record import OutputError, OutputName
from fa2verify.verify.judgement.bounds import UNIT_ROUNDOFF

# What R2 allows, in units of F. Evidence in docs/numerics.md.
R2_LIMIT = 1.5

# Stored bits of the fraction, and the exponent of the smallest subnormal: for units in the last place.
_FRACTION = {"float16": (10, -24), "bfloat16": (7, -133), "float32": (23, -149)}
# The histogram's buckets end at 2^-1, 2^0, ... 2^6 units in the last place; the last has no end.
_BUCKET_EXPONENTS = range(-1, 7)


@dataclass(frozen=True)
class Comparison:
    """A kernel's tensor beside the right one, where both are finite. What is not asked for costs nothing.

    output     which tensor it is
    dtype      the dtype that the candidate is stored in
    candidate  the kernel's tensor
    reference  the right answer in the reference's precision, same shape
    baseline   max |PyTorch's - reference|, see `largest_error`; None where PyTorch gives no such tensor
    bound      F, same shape
    """

    output: OutputName
    dtype: str
    candidate: Tensor
    reference: Tensor
    baseline: float | None
    bound: Tensor

    @cached_property
    def wide(self) -> Tensor:
        """The candidate in the reference's precision."""
        return self.candidate.to(self.reference.dtype)

    @cached_property
    def finite(self) -> Tensor:
        """Where both are finite."""
        return self.wide.isfinite() & self.reference.isfinite()

    @cached_property
    def difference(self) -> Tensor:
        """Candidate - reference; 0 where either is not finite."""
        return torch.where(self.finite, self.wide - self.reference, 0.0)

    @cached_property
    def units(self) -> Tensor:
        """|candidate - reference| / F. Where F is 0 the reference is exact, and so must the candidate be."""
        size = self.difference.abs()
        return torch.where(size > 0, size / self.bound, 0.0)

    @cached_property
    def max_abs(self) -> float:
        """Max |candidate - reference|."""
        return largest(self.difference.abs())

    @cached_property
    def bound_units(self) -> float:
        """Max |candidate - reference| / F."""
        return largest(self.units)

    @cached_property
    def floor(self) -> float:
        """Max F."""
        return largest(self.bound)

    @cached_property
    def worst(self) -> tuple[int, ...]:
        """Where `bound_units` is reached; () for an empty tensor."""
        if not self.units.numel():
            return ()
        return tuple(int(i) for i in torch.unravel_index(self.units.argmax().cpu(), self.units.shape))

    def error(self) -> OutputError:
        """Everything that the report shows of it."""
        size = self.difference.abs()
        count = max(int(self.finite.sum()), 1)
        known = torch.where(self.finite, self.reference, 0.0)
        magnitude = float(known.abs().sum())
        roundoff = UNIT_ROUNDOFF.get(self.dtype, 2.0**-24)
        return OutputError(
            output=self.output,
            elements=self.candidate.numel(),
            max_abs=self.max_abs,
            baseline=self.baseline,
            bound_units=self.bound_units,
            limit=R2_LIMIT,
            rmse=float((self.difference.square().sum() / count).sqrt()),
            reference_rms=float((known.square().sum() / count).sqrt()),
            bias=float(self.difference.sum()) / (roundoff * magnitude) if magnitude else 0.0,
            ulps=_histogram(size[self.finite], self.reference[self.finite], self.dtype),
            worst_index=self.worst,
            observed=float(self.wide[self.worst]) if self.worst else 0.0,
            expected=float(self.reference[self.worst]) if self.worst else 0.0,
        )


def largest(tensor: Tensor) -> float:
    """The largest element; 0 of an empty tensor."""
    return float(tensor.max()) if tensor.numel() else 0.0


def largest_error(baseline: Tensor, reference: Tensor) -> float:
    """Max |baseline - reference|; inf where the baseline is not finite and the reference is."""
    error = (baseline.to(reference.dtype) - reference).abs()
    return largest(torch.where(reference.isfinite(), error, 0.0).nan_to_num(nan=float("inf"), posinf=float("inf")))


def _histogram(size: Tensor, reference: Tensor, dtype: str) -> tuple[int, ...]:
    bits, smallest = _FRACTION[dtype]
    # frexp calls the exponent of 0 zero, as if it were 1/2; its last place is the smallest there is.
    exponent = torch.where(reference == 0, smallest, torch.frexp(reference).exponent - 1)
    last_place = torch.exp2((exponent - bits).clamp(min=smallest).to(size.dtype))
    ends = torch.tensor([2.0**power for power in _BUCKET_EXPONENTS], dtype=size.dtype, device=size.device)
    bucket = torch.bucketize(size / last_place, ends)
    return tuple(int(n) for n in torch.bincount(bucket, minlength=len(ends) + 1).tolist())
