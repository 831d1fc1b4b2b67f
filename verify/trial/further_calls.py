"""Which calls follow the first on a problem.

A second call can go wrong where the first went right: a fix-up of strides that a cache skips (flash-attention 2886), a
counter that nobody sets back, strides or addresses kept from the call before. So small problems are called again with
the same values in other memory. Where tensors lie plainly that is once. Where they do not, it is twice: with other
strides at the same shapes, and with the first ones again, since caches differ in what they keep a call under.

It must not double a run. On a GPU a call costs little beside its reference, which all calls share, and every problem is
called again. On a CPU kernels are interpreted or emulated and the call is most of the cost; there it is done up to a
size, by which the problem alone decides, so that what fails shrinks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Layout, Problem

# scores * head_dim up to which a problem is called again on a CPU: where it is plain, and where it has more to show.
MAX_PLAIN_WORK = 2**16
MAX_WORK = 2**20

# Those that any kernel with strides takes, the most telling first.
_OTHERS: tuple[Layout, ...] = ("sliced", "transposed", "plain")


@dataclass(frozen=True, slots=True)
class Repeat:
    """One more call.

    name     "second call", "third call"
    problem  the first call's, but for the layout
    """

    name: str
    problem: Problem

    @property
    def words(self) -> str:
        """What was done, for a message."""
        return f"called again with the same values in other memory, layout {self.problem.layout!r}"


def repeats(kernel: Kernel, problem: Problem, device: torch.device) -> Iterator[Repeat]:
    """The calls that follow the first, in order."""
    most = MAX_PLAIN_WORK if problem.layout in ("plain", "tail") else MAX_WORK
    if device.type == "cpu" and problem.scores * problem.head_dim > most:
        return
    names = iter(("second call", "third call"))
    if problem.layout not in ("plain", "tail"):  # which has rows that no other layout has
        others = (replace(problem, layout=layout) for layout in _OTHERS if layout != problem.layout)
        for other in others:
            if not kernel.unsupported(other):
                yield Repeat(next(names), other)
                break
    yield Repeat(next(names), problem)


@dataclass(frozen=True, slots=True)
class Bits:
    """What a call returned, kept apart from the kernel's memory, which the next call may write to."""

    kept: dict[str, Tensor]

    @classmethod
    def of(cls, outputs: Outputs) -> "Bits":
        """A copy of every output that there is."""
        return cls({name: tensor.detach().clone() for name, tensor in outputs.named().items()})

    def same(self, outputs: object) -> bool:
        """Whether these are the outputs that were kept, bit for bit."""
        return all(_same(old, getattr(outputs, name, None)) for name, old in self.kept.items())


def _same(old: Tensor, new: object) -> bool:
    return isinstance(new, Tensor) and _form(new) == _form(old) and torch.equal(_bytes(old), _bytes(new.detach()))


def _form(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.dtype, tensor.device, tensor.layout


def _bytes(tensor: Tensor) -> Tensor:
    """(..., bytes of an element)."""
    return tensor.contiguous()[..., None].view(torch.uint8)
