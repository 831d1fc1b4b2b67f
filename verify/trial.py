"""One kernel on one problem: run it, guard it, judge it, and say what happened."""

import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from fa2verify.kernels.features import features
from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.reference import Precision
from fa2verify.kernels.tensors import Tensors, make_tensors
from fa2verify.reports.record import Record
from fa2verify.verify.decoys import judge_decoys
from fa2verify.verify.judge import judge
from fa2verify.verify.relation import Call, Relation
from fa2verify.verify.truth import Truth

Guard = Callable[[Record], AbstractContextManager[None]]
T = TypeVar("T")


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


def attempt(kernel: Kernel, problem: Problem, bench: Bench, test: str = "") -> Record:
    """Run `kernel` on `problem` and judge it.

    Whatever the kernel does short of taking its process down becomes the record's verdict. Raises ContextLost when the
    CUDA context is gone.
    """
    blank = Record(
        kernel=kernel.name,
        problem=problem.to_dict(),
        features=features(problem),
        verdict="crashed",
        rule="process died",
        message="the process died during the call",
        reference=bench.precision,
        test=test,
    )
    if reasons := kernel.unsupported(problem):
        return replace(blank, verdict="unsupported", rule=None, message="", reasons=reasons)
    tensors = make_tensors(problem, bench.device)
    before = _snapshot(tensors)
    started = time.perf_counter()
    outputs = _guarded(lambda: kernel(problem, tensors), bench, blank)
    if isinstance(outputs, Record):
        return outputs
    seconds = time.perf_counter() - started
    if changed := [name for name, (old, new) in _pairs(before, _snapshot(tensors)) if not torch.equal(old, new)]:
        message = f"the call changed its inputs: {', '.join(changed)}"
        return replace(blank, verdict="failed", rule="R0 inputs unchanged", message=message, seconds=seconds)
    truth = Truth.of(problem, tensors, bench.precision)
    judgement = judge(problem, kernel, outputs, truth)
    judged = replace(
        blank,
        verdict="passed" if judgement.passed else "failed",
        rule=judgement.rule,
        message=judgement.message,
        errors=judgement.errors,
        decoys=judge_decoys(problem, kernel, truth) if judgement.passed else {},
        seconds=seconds,
    )
    if not judgement.passed or not bench.relations:
        return judged
    call = Call.of(kernel, problem, tensors, outputs, truth)
    for relation in bench.relations:
        fault = _guarded(partial(relation, call), bench, blank)
        if isinstance(fault, Record):
            return fault
        if fault is not None:
            return replace(judged, verdict="failed", rule=fault[0], message=fault[1])
    return judged


def _guarded(run: Callable[[], T], bench: Bench, blank: Record) -> T | Record:
    """What `run`, which calls the kernel, gives, or the verdict if it does not come to that. Raises ContextLost."""
    with bench.guard(blank):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a kernel's warning is no verdict
                found = run()
                _synchronize(bench.device)
                return found
        except torch.OutOfMemoryError as error:
            return replace(blank, verdict="failed", rule="out of memory", message=_first_line(error))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # noqa: BLE001 - foreign code: also what would leave or skip is its verdict
            _check_context(bench.device, error)
            return replace(blank, rule=f"raised {type(error).__name__}", message=_where(error))


def _snapshot(tensors: Tensors) -> dict[str, Tensor]:
    """The bytes of every input's whole storage, gaps included."""
    named = {
        "q": tensors.q,
        "k": tensors.k,
        "v": tensors.v,
        "dout": tensors.dout,
        "cu_seqlens_q": tensors.cu_seqlens_q,
        "cu_seqlens_k": tensors.cu_seqlens_k,
        "alibi_slopes": tensors.alibi_slopes,
    }
    return {
        name: torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(tensor.untyped_storage()).clone()
        for name, tensor in named.items()
        if tensor is not None
    }


def _pairs(before: dict[str, Tensor], after: dict[str, Tensor]) -> list[tuple[str, tuple[Tensor, Tensor]]]:
    return [(name, (before[name], after[name])) for name in before]


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
