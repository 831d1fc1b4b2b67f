"""What a kernel under verification is: a name, a lineage, what it cannot do, and the call."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors

ScoreDtype = Literal["fp32", "dtype"]


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a kernel gives back.

    out         like q
    lse         fp32 (batch, heads_q, seqlen_q), varlen (heads_q, total_q), natural log; None if the kernel gives none
    dq, dk, dv  like q, k and v; None when the problem is forward alone
    """

    out: Tensor
    lse: Tensor | None = None
    dq: Tensor | None = None
    dk: Tensor | None = None
    dv: Tensor | None = None

    def named(self) -> dict[str, Tensor]:
        """The tensors that there are, by field name; what is no tensor, which foreign code may give, is left out."""
        names = ("out", "lse", "dq", "dk", "dv")
        return {name: tensor for name in names if isinstance(tensor := getattr(self, name), Tensor)}


class Kernel(ABC):
    """One attention kernel under verification. Subclass it, or hand over a function: see `fa2verify.kernels.function`.

    name             unique, short; what `--kernel=NAME` and the report call it
    lineage          which upstream code does the work: two adapters of one lineage are one witness, not two
    gives_lse        whether `Outputs.lse` is filled; if so it is verified
    empty_lse        lse of a row that sees no key: -inf, or +inf as flash-attn has it
    score_dtype      "fp32": scores stay in fp32 or better until probabilities are rounded, and dP and D in the
                     backward, as in every flash kernel;
                     "dtype": scores are rounded to the problem's dtype, as plain PyTorch operations do. It selects the
                     error bound, see docs/numerics.md
    batch_invariant  the bits of a sequence's out and lse do not depend on what else is in the batch, and those of its
                     gradients do not where the problem is deterministic
    budget           share of a profile's problems to draw: less than 1 for a kernel that compiles for each shape
    only_when_named  why a run leaves this kernel out unless `--kernel` names it, in a sentence; empty: it does not
    """

    name: str
    lineage: str
    gives_lse: bool = False
    empty_lse: float = float("-inf")
    score_dtype: ScoreDtype = "fp32"
    batch_invariant: bool = False
    budget: float = 1.0
    only_when_named: str = ""

    @abstractmethod
    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Why this kernel cannot run on `device` here at all, in sentences. Empty: it can."""

    @abstractmethod
    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        """Why this kernel does not take `problem`, in sentences. Empty: it must pass."""

    @abstractmethod
    def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:
        """Run the call, forward or forward and backward as `problem.direction` says, on the tensors' device."""

    def __repr__(self) -> str:
        return f"<kernel {self.name}>"
