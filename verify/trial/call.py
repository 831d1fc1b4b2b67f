"""One call of a kernel on fresh tensors: guarded while it lasts, its inputs and the memory around them seen to after.

Apart from what is done with the answer, because a problem may take more than one call (the module `further_calls`).
"""

import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.reference import Precision
from fa2verify.kernels.tensors import Tensors, make_tensors
from fa2verify.reports.record import Record, VerdictName
from fa2verify.verify.relations.relation import Relation
from fa2verify.verify.trial.redzone import RedZones

# The rule of a call that asked for more memory than there is.
OUT_OF_MEMORY = "out of memory"
# Bytes that are compared at a time.
_COMPARED = 2**28

T = TypeVar("T")
Guard = Callable[[Record], AbstractContextManager[None]]


class ContextLost(Exception):
    """The process' CUDA context is unusable: every later call would fail. The process should leave."""


@dataclass(frozen=True, slots=True)
class Bench:
    """Where kernels are tried.

    device     of the tensors
    precision  of the reference
    guard      entered around the kernel's call with the verdict that holds if the process does not survive it
    relations  what is asked of further calls, once the first has passed
    """

    device: torch.device
    precision: Precision = "fp64"
    guard: Guard = lambda _: nullcontext()
    relations: tuple[Relation, ...] = ()


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a call, whatever its outputs are: a verdict, its rule and a sentence.

    beside  whether there are outputs, of inputs that are as they were: those can be judged besides
    """

    verdict: VerdictName
    rule: str
    message: str
    beside: bool = False


@dataclass(frozen=True, slots=True)
class Called:
    """What came of a call.

    tensors  what the kernel was given
    outputs  what it returned, whatever that is; None if it raised
    seconds  wall time of the call; 0 if it raised
    fault    None: it came back and did nothing that it must not do
    """

    tensors: Tensors
    outputs: object
    seconds: float
    fault: Fault | None


def call(kernel: Kernel, problem: Problem, bench: Bench, note: Record) -> Called:
    """Call `kernel` on fresh tensors of `problem`.

    note  the verdict that holds if the process does not survive the call

    Whatever the kernel does short of that becomes a fault. Raises ContextLost when the CUDA context is gone.
    """
    zones = RedZones(bench.device)
    tensors = make_tensors(problem, bench.device, zones.place)
    before = _snapshot(tensors)
    started = time.perf_counter()

    def watched() -> object:
        with zones.watch():
            return kernel(problem, tensors)

    outputs = guarded(watched, bench, note)
    if isinstance(outputs, Fault):
        return Called(tensors, None, 0.0, outputs)
    seconds = time.perf_counter() - started
    fault = _changed_inputs(before, tensors) or _written_around(zones, tensors, outputs)
    return Called(tensors, outputs, seconds, fault)


def guarded(run: Callable[[], T], bench: Bench, note: Record) -> T | Fault:
    """What `run`, which calls a kernel, gives, or the fault if it does not come to that. Raises ContextLost.

    note  the verdict that holds if the process does not survive it
    """
    with bench.guard(note):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a kernel's warning is no verdict
                found = run()
                _synchronize(bench.device)
                return found
        except torch.OutOfMemoryError as error:
            return Fault("failed", OUT_OF_MEMORY, _first_line(error))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - foreign code: also what would leave or skip is its verdict
            _check_context(bench.device, error)
            return Fault("crashed", f"raised {type(error).__name__}", _where(error))


def _snapshot(tensors: Tensors) -> dict[str, Tensor]:
    """The bytes of every input's whole storage, gaps included; copied once where inputs share one."""
    copies: dict[int, Tensor] = {}
    named = {}
    for name, tensor in tensors.named().items():
        address = tensor.untyped_storage().data_ptr()
        if address not in copies:
            copies[address] = _memory(tensor).clone()
        named[name] = copies[address]
    return named


def _memory(tensor: Tensor) -> Tensor:
    """The bytes of a tensor's whole storage."""
    return torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage())


def _changed_inputs(before: dict[str, Tensor], tensors: Tensors) -> Fault | None:
    changed = [name for name, tensor in tensors.named().items() if not _same(before[name], _memory(tensor))]
    if not changed:
        return None
    return Fault("failed", "R0 inputs unchanged", f"the call changed its inputs: {', '.join(changed)}")


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all bytes are equal. In parts: comparing takes as much memory again."""
    parts = zip(torch.split(one, _COMPARED), torch.split(other, _COMPARED), strict=False)
    return one.shape == other.shape and all(torch.equal(*pair) for pair in parts)


def _written_around(zones: RedZones, tensors: Tensors, outputs: object) -> Fault | None:
    named = tensors.named() | (outputs.named() if isinstance(outputs, Outputs) else {})
    damage = zones.damage(named)
    if damage is None:
        return None
    return Fault("failed", f"R0 memory around {damage.tensor}", f"the call wrote {damage}", beside=True)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _check_context(device: torch.device, error: BaseException) -> None:
    try:
        _synchronize(device)
    except RuntimeError:
        raise ContextLost(_where(error)) from error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _where(error: BaseException) -> str:
    """The error's message and the line that raised it, without the folders that lead there."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename.replace(chr(92), '/').rsplit('/', 1)[-1]}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {_first_line(error)}{place}"
