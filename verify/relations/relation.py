"""What a relation is: a promise that one call makes about the bits of another, which no reference can check.

R0 to R2 judge a call by itself. That two calls agree within the sum of both bounds follows from them, so a relation
that allows an error finds nothing that they would not (docs/numerics.md, "Relations between calls"). What is left are
promises without a tolerance: the same bits again, the same bits in another batch, no trace of somebody else's NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors
from fa2verify.reports.record import OutputName
from fa2verify.verify.judgement.judge import Breach, judged_outputs
from fa2verify.verify.judgement.truth import Truth

_GRADIENTS: tuple[OutputName, ...] = ("dq", "dk", "dv")
_BITS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}


@dataclass(frozen=True)
class Call:
    """A call that passed R0 to R2, to which others are compared.

    tensors   what the kernel was given
    returned  what it gave, in memory that the kernel may know
    outputs   a copy of that, made before any other call
    truth     what they were judged by
    """

    kernel: Kernel
    problem: Problem
    tensors: Tensors
    returned: Outputs
    outputs: Outputs
    truth: Truth

    @classmethod
    def of(cls, kernel: Kernel, problem: Problem, tensors: Tensors, returned: Outputs, truth: Truth) -> "Call":
        """The call that has just returned."""
        owed = judged_outputs(problem, kernel)
        outputs = replace(returned, **{name: getattr(returned, name).clone() for name in owed})
        return cls(kernel, problem, tensors, returned, outputs, truth)

    @property
    def ordered(self) -> bool:
        """Whether the gradients' sums were asked to have one order."""
        return self.problem.backward and self.problem.deterministic

    @property
    def owed(self) -> tuple[OutputName, ...]:
        """The outputs that were judged."""
        return judged_outputs(self.problem, self.kernel)

    @property
    def forward_owed(self) -> tuple[OutputName, ...]:
        """The outputs of the forward that were judged."""
        return tuple(name for name in self.owed if name not in _GRADIENTS)


# Makes further calls; gives the rule that they break and what a person should read, or None.
Relation = Callable[[Call], Breach | None]


def form_breach(rule: str, name: OutputName, first: Tensor, other: object, which: str) -> Breach | None:
    """Whether `other` is no tensor like `first`, so that they cannot be compared.

    which  what `other` comes from, for the message
    """
    if not isinstance(other, Tensor):
        return f"{rule} {name}", f"{name} of {which} is a {type(other).__qualname__}, not a tensor"
    if (other.shape, other.dtype) != (first.shape, first.dtype):
        return (
            f"{rule} {name}",
            f"{name} of {which} is {other.dtype} {tuple(other.shape)}, not {first.dtype} {tuple(first.shape)}",
        )
    return None


def bits_breach(rule: str, name: OutputName, first: Tensor, other: object, which: str) -> Breach | None:
    """Whether `other` differs from `first` in a bit; -0.0 is not 0.0, and a NaN is itself."""
    if breach := form_breach(rule, name, first, other, which):
        return breach
    assert isinstance(other, Tensor)
    kind = _BITS[first.dtype]
    differs = first.view(kind) != other.to(first.device).view(kind)
    if not bool(differs.any()):
        return None
    index = tuple(int(i) for i in differs.nonzero()[0])
    return (
        f"{rule} {name}",
        f"{name}{list(index)} of {which} is {float(other[index]):.9g}, not {float(first[index]):.9g} "
        f"({int(differs.sum())} of {differs.numel()} elements differ; the same bits are promised)",
    )
