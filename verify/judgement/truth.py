"""What a problem's outputs are compared with: reference, baseline and bounds, worked out once."""

from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from fa2verify.kernels.baseline import baseline
from fa2verify.kernels.kernel import Outputs, ScoreDtype
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.reference import Precision, Steps, outputs, steps
from fa2verify.kernels.tensors import Tensors
from fa2verify.reports.record import OutputName
from fa2verify.verify.judgement.bounds import bounds
from fa2verify.verify.judgement.measure import largest_error


@dataclass(frozen=True)
class Truth:
    """The right answer to one problem.

    parts      the reference's steps, block by block
    reference  its outputs, never rounded to the dtype
    baseline   plain PyTorch's outputs in the dtype
    """

    problem: Problem
    precision: Precision
    parts: list[Steps]
    reference: Outputs
    baseline: Outputs
    _bounds: dict[ScoreDtype, dict[OutputName, Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, problem: Problem, tensors: Tensors, precision: Precision = "fp64") -> "Truth":
        """Work it out on the tensors' device. With `precision` "fp32", TF32 must be off."""
        parts = list(steps(problem, tensors, precision))
        return cls(problem, precision, parts, outputs(problem, parts), baseline(problem, tensors))

    @cached_property
    def baseline_errors(self) -> dict[OutputName, float]:
        """Max |baseline - reference| of every output that plain PyTorch gives."""
        names: tuple[OutputName, ...] = ("out", "dq", "dk", "dv") if self.problem.backward else ("out",)
        return {name: largest_error(getattr(self.baseline, name), getattr(self.reference, name)) for name in names}

    def bounds(self, score_dtype: ScoreDtype) -> dict[OutputName, Tensor]:
        """F of every output for kernels of that kind."""
        if score_dtype not in self._bounds:
            self._bounds[score_dtype] = bounds(self.problem, self.parts, score_dtype)
        return self._bounds[score_dtype]
