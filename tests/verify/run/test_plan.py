"""What a run consists of: every kernel its share, in parts that workers can divide among them."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Direction, Problem
from fa2verify.kernels.registry import Registered
from fa2verify.strategies.size import Size
from fa2verify.verify.known_failures.ledger import KnownFailure, Ledger
from fa2verify.verify.run.large_problems import LARGE_PROBLEMS
from fa2verify.verify.run.plan import Part, known_cases, large_case, left_out, parts, related_parts

SIZE = Size(max_seqlen=32, max_scores=1000, max_batch=2, max_heads=2, max_head_dim=32)
DIRECTIONS: tuple[Direction, ...] = ("forward", "forward_backward")
Make = Callable[..., Kernel]
CPU = torch.device("cpu")


def planned(kernel: Kernel, examples: int) -> dict[tuple[Direction, bool], list[Part]]:
    registered = Registered(kernel, "built in")
    return {
        (direction, varlen): parts(registered, direction, varlen=varlen, examples=examples, size=SIZE)
        for direction, varlen in product(DIRECTIONS, (False, True))
    }


def total(of: list[Part]) -> int:
    return sum(part.examples for part in of)


def kernel_taking(made: Make, takes: Callable[[Problem], bool], **attributes: object) -> Kernel:
    kernel = made(lambda problem, tensors: None, **attributes)
    kernel.unsupported = lambda problem: () if takes(problem) else ("It does not.",)  # type: ignore[method-assign]
    return kernel


@pytest.mark.parametrize("examples", [50, 110, 1000])
def test_gradients_get_twice_as_many(made: Make, examples: int) -> None:
    of = planned(kernel_taking(made, lambda _: True), examples)
    forward = total(of["forward", False]) + total(of["forward", True])
    backward = total(of["forward_backward", False]) + total(of["forward_backward", True])
    assert abs(forward - examples) <= 1
    assert abs(backward - 2 * examples) <= 1
    assert total(of["forward", False]) > total(of["forward", True]) > 0


def test_under_a_sanitizer_parts_are_small(made: Make) -> None:
    """A problem takes a process of several seconds there: a run of a hundred keeps more than four workers busy."""
    registered = Registered(kernel_taking(made, lambda _: True), "built in")
    of = parts(registered, "forward", varlen=False, examples=50, size=SIZE, sanitized=True)
    assert total(of) == 30
    assert [part.examples for part in of] == [5] * 6


@pytest.mark.parametrize("varlen", [False, True])
def test_a_kernel_of_one_packing_gets_as_many_problems(made: Make, varlen: bool) -> None:
    of = planned(kernel_taking(made, lambda p: p.is_varlen == varlen), 110)
    assert (total(of["forward", varlen]), total(of["forward_backward", varlen])) == (110, 220)
    assert of["forward", not varlen] == of["forward_backward", not varlen] == []


def test_a_kernel_without_a_backward_has_no_such_test(made: Make) -> None:
    of = planned(kernel_taking(made, lambda p: not p.backward), 110)
    assert of["forward_backward", False] == of["forward_backward", True] == []
    assert total(of["forward", False]) + total(of["forward", True]) == 110


def test_a_kernel_that_takes_nothing_has_no_test(made: Make) -> None:
    assert set(map(len, planned(kernel_taking(made, lambda _: False), 110).values())) == {0}


@pytest.mark.parametrize("examples", [1, 16, 110, 333])
def test_parts_are_even_and_named_apart(made: Make, examples: int) -> None:
    for of in planned(kernel_taking(made, lambda _: True), examples).values():
        assert of, "not even the smallest budget leaves a test out"
        sizes = [part.examples for part in of]
        assert max(sizes) <= 25
        assert min(sizes) >= 1
        assert max(sizes) - min(sizes) <= 1
        assert [part.label for part in of] == [f"made-{index}" for index in range(len(of))]


def test_a_kernel_that_compiles_for_each_shape_draws_less(made: Make) -> None:
    whole = planned(kernel_taking(made, lambda _: True), 110)
    half = planned(kernel_taking(made, lambda _: True, budget=0.5), 110)
    for case, of in whole.items():
        assert abs(total(half[case]) - total(of) / 2) <= 1


@pytest.mark.parametrize(("examples", "budget"), [(1, 1.0), (16, 0.01)])
def test_no_test_draws_so_few_that_nothing_could_be_told(made: Make, examples: int, budget: float) -> None:
    of = planned(kernel_taking(made, lambda _: True, budget=budget), examples)
    assert [total(case) for case in of.values()] == [8, 8, 8, 8]


def related(kernel: Kernel, examples: int) -> list[Part]:
    return related_parts(Registered(kernel, "built in"), examples=examples, size=SIZE)


@pytest.mark.parametrize(("examples", "most"), [(1, 1), (16, 3), (120, 24), (1000, 200)])
def test_relations_get_a_fifth_of_forward(made: Make, examples: int, most: int) -> None:
    of = related(kernel_taking(made, lambda _: True), examples)
    assert total(of) == most
    assert max(part.examples for part in of) <= 25
    assert [part.label for part in of] == [f"made-{index}" for index in range(len(of))]
    assert all(part.related for part in of)
    assert not any(part.related for parts in planned(of[0].registered.kernel, examples).values() for part in parts)


def test_relations_of_a_slow_kernel_and_of_one_that_takes_nothing(made: Make) -> None:
    slow = related(kernel_taking(made, lambda _: True, budget=0.25), 120)
    assert [part.examples for part in slow] == [1] * 6, "a minute each: workers share them"
    assert total(related(kernel_taking(made, lambda _: True, budget=0.001), 120)) == 1
    assert related(kernel_taking(made, lambda _: False), 120) == []


def test_problems_of_relations_are_smaller_but_as_long(made: Make) -> None:
    found: list[Problem] = []
    (part,) = related(kernel_taking(made, lambda _: True), 120)

    @settings(max_examples=200, database=None, derandomize=True, deadline=None)
    @given(problem=part.problems)
    def collect(problem: Problem) -> None:
        found.append(problem)

    collect()
    assert max(problem.scores for problem in found) <= SIZE.max_scores // 8
    assert max(max(problem.seqlens_q + problem.seqlens_k) for problem in found) > SIZE.max_seqlen // 2


def test_a_kernel_that_is_not_here_is_left_out_and_says_why(made: Make) -> None:
    here, elsewhere = (kernel_taking(made, lambda _: True) for _ in range(2))
    elsewhere.unavailable = lambda device: (f"It is not made for {device.type}.",)  # type: ignore[method-assign]
    assert left_out(Registered(here, "built in"), CPU, named=False) == ()
    for named in (False, True):
        assert left_out(Registered(elsewhere, "built in"), CPU, named=named) == ("It is not made for cpu.",)


def test_a_kernel_that_must_be_named(made: Make) -> None:
    slow = Registered(kernel_taking(made, lambda _: True, only_when_named="It takes an hour."), "built in")
    assert left_out(slow, CPU, named=True) == ()
    assert left_out(slow, CPU, named=False) == ("It takes an hour. Name it with --kernel=made.",)


def test_a_kernel_that_cannot_say_what_it_takes_is_drawn_for(made: Make) -> None:
    """The verdict must name it, and a run must not end before the other kernels' tests are collected."""

    def raises(problem: Problem) -> bool:
        raise KeyError(problem.head_dim)

    kernel = kernel_taking(made, raises)
    of = planned(kernel, 110)
    assert all(of.values())
    kernel.unavailable = lambda device: None  # type: ignore[method-assign,return-value,assignment]
    (reason,) = left_out(Registered(kernel, "built in"), CPU, named=False)
    assert reason.startswith("Its unavailable() gave None; ")


def test_a_known_failure_of_a_large_problem_is_tried_among_those_and_once(made: Make) -> None:
    registered = Registered(kernel_taking(made, lambda _: True), "built in")
    listed = LARGE_PROBLEMS["keys"]
    own = replace(listed, seed=1)
    of_all: dict[str, Any] = {
        "says": "It fails.",
        "link": "https://example.org/issues/1",
        "kernels": ("made",),
        "covers": lambda problem: True,
        "verdict": "failed",
        "rules": ("R1",),
    }
    smallest = {"small": Problem(), "listed": listed, "own": own}
    ledger = Ledger(tuple(KnownFailure(name=name, smallest=problem, **of_all) for name, problem in smallest.items()))
    assert [case.entry.name for case in known_cases(registered, ledger)] == ["small"]
    assert large_case(registered, ledger).problems == (*LARGE_PROBLEMS.values(), own)
    assert large_case(registered, Ledger()).problems == tuple(LARGE_PROBLEMS.values())
