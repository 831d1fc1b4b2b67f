"""What a run consists of: for each kernel the tests it takes part in, and how many problems each draws.

A test is one direction and one packing, cut into parts of a few seconds, so that workers share the load evenly and
progress shows. A kernel's problems are as many whether or not it takes varlen ones. Relations between calls have a test
and problems of their own: a problem takes several calls there.
"""

import math
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from hypothesis.strategies import SearchStrategy

from fa2verify.kernels import answers
from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Direction, Problem
from fa2verify.kernels.registry import Registered
from fa2verify.strategies.problems import NothingSupported, problems
from fa2verify.strategies.related import related_problems
from fa2verify.strategies.size import Size
from fa2verify.verify.known_failures.ledger import KnownFailure, Ledger
from fa2verify.verify.run.large_problems import large_problems

# Relative number of problems: gradients are where kernels go wrong, and dense is what every kernel takes.
_WEIGHT: dict[tuple[Direction, bool], int] = {
    ("forward", False): 3,
    ("forward", True): 2,
    ("forward_backward", False): 6,
    ("forward_backward", True): 4,
}
_PART = 25
# Under a sanitizer a problem takes a process, of several seconds each.
_SANITIZED_PART = 5
# One problem for so many of forward alone, with so many times fewer scores: it takes up to eight calls on a CPU.
_RELATED = 5
_RELATED_SCORES = 8
# What a kernel with a small budget still gets: with fewer, some decoy would go untold (R3).
_FEWEST = 8


@dataclass(frozen=True, slots=True)
class Part:
    """One test: draw `examples` of `problems` for a kernel.

    index    which part of its direction and packing, from 0
    related  whether further calls are asked for the relations
    """

    registered: Registered
    problems: SearchStrategy[Problem] = field(repr=False)
    examples: int
    index: int
    related: bool = False

    @property
    def label(self) -> str:
        """What pytest calls it."""
        return f"{self.registered.kernel.name}-{self.index}"


@dataclass(frozen=True, slots=True)
class KnownCase:
    """One test: the smallest problem of a known failure, on one of the kernels that have it."""

    registered: Registered
    entry: KnownFailure

    @property
    def label(self) -> str:
        """What pytest calls it."""
        return f"{self.registered.kernel.name}-{self.entry.name}"


@dataclass(frozen=True, slots=True)
class LargeCase:
    """One test: the problems past the limits of an index, for one kernel; those of its known failures among them."""

    registered: Registered
    problems: tuple[Problem, ...]

    @property
    def label(self) -> str:
        """What pytest calls it."""
        return self.registered.kernel.name


def large_case(registered: Registered, ledger: Ledger) -> LargeCase:
    """The test of one kernel's large problems, and of its known failures that take one to show."""
    kernel = registered.kernel
    shown = (entry.smallest for entry in ledger.of(kernel.name) if entry.is_large)
    problems = dict.fromkeys((*large_problems(kernel, partial(_refused, kernel)), *shown))
    return LargeCase(registered, tuple(problems))


def known_cases(registered: Registered, ledger: Ledger) -> list[KnownCase]:
    """The tests of one kernel's other known failures; `ledger` holds those to be expected where it runs."""
    return [KnownCase(registered, entry) for entry in ledger.of(registered.kernel.name) if not entry.is_large]


def left_out(registered: Registered, device: torch.device, *, named: bool) -> tuple[str, ...]:
    """Why a run on `device` leaves the kernel out, in sentences; empty: it takes part.

    named  whether `--kernel` asked for it
    """
    kernel = registered.kernel
    reasons = answers.unavailable(kernel, device)
    if not named and not reasons and kernel.only_when_named:
        return (f"{kernel.only_when_named} Name it with --kernel={kernel.name}.",)
    return reasons


def parts(
    registered: Registered, direction: Direction, *, varlen: bool, examples: int, size: Size, sanitized: bool = False
) -> list[Part]:
    """The tests of one kernel for one direction and packing; none if it takes no such problem.

    examples   a profile's number of problems for forward alone, dense and varlen together
    sanitized  whether each problem is tried under a sanitizer
    """
    taken = {
        case: strategy
        for case in _WEIGHT
        if (strategy := _strategy(registered, direction=case[0], varlen=case[1], size=size)) is not None
    }
    if (direction, varlen) not in taken:
        return []
    forward = sum(weight for (way, _), weight in _WEIGHT.items() if way == "forward")
    of_direction = sum(weight for (way, _), weight in _WEIGHT.items() if way == direction)
    share = _WEIGHT[direction, varlen] / sum(_WEIGHT[case] for case in taken if case[0] == direction)
    total = max(_FEWEST, round(examples * of_direction / forward * share * registered.kernel.budget))
    # A kernel with a small budget is a slow one: the same time a part, not the same number of problems.
    count = math.ceil(total / (_SANITIZED_PART if sanitized else max(_FEWEST, _PART * registered.kernel.budget)))
    return [
        Part(registered, taken[direction, varlen], math.ceil((total - index) / count), index) for index in range(count)
    ]


def related_parts(registered: Registered, *, examples: int, size: Size) -> list[Part]:
    """The tests of one kernel's relations between calls; none if it takes no problem.

    A kernel that compiles for each shape does so several times a problem here, for a minute: each is a test of its own.

    examples  a profile's number of problems for forward alone
    """
    kernel = registered.kernel
    smaller = replace(size, max_scores=max(size.max_heads, size.max_scores // _RELATED_SCORES))
    try:
        drawn = related_problems(partial(_refused, kernel), size=smaller)
    except NothingSupported:
        return []
    total = max(1, round(examples / _RELATED * kernel.budget))
    count = total if kernel.budget < 1 else math.ceil(total / _PART)
    return [Part(registered, drawn, math.ceil((total - index) / count), index, related=True) for index in range(count)]


def _strategy(
    registered: Registered, *, direction: Direction, varlen: bool, size: Size
) -> SearchStrategy[Problem] | None:
    try:
        return problems(partial(_refused, registered.kernel), varlen=varlen, direction=direction, size=size)
    except NothingSupported:
        return None


def _refused(kernel: Kernel, problem: Problem) -> tuple[str, ...]:
    """Why the kernel does not take the problem. One about which it cannot say is drawn, so that a verdict names it."""
    try:
        return answers.unsupported(kernel, problem)
    except answers.AnswerError:
        return ()
