"""A race: who runs in it, what each of its lines says, and what becomes of an entrant that fails."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fa2verify.benchmarks import race as race_module
from fa2verify.benchmarks.grid import GRIDS
from fa2verify.benchmarks.operations import operations
from fa2verify.benchmarks.race import DIRECTIONS, race, random_tensors
from fa2verify.benchmarks.standard import StandardAttention
from fa2verify.benchmarks.timing import Laps
from fa2verify.kernels.function import FunctionKernel
from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Problem
from fa2verify.kernels.tensors import Tensors
from fa2verify.reports.benchmark_record import Ceiling, Timing

CPU = torch.device("cpu")
DENSE, PACKED = GRIDS["smoke"]()


def lines(*kernels: Kernel, rounds: int = 3) -> dict[tuple[str, str], Timing]:
    made = race(DENSE, kernels, rounds, CPU, math.inf)
    return {(line.kernel, line.direction): line for line in made if isinstance(line, Timing)}


@pytest.mark.parametrize(("device", "most"), [("cuda", 28), ("cpu", 7)])
def test_rounds_are_nine_at_the_least_and_four_times_as_many_on_a_gpu_that_varies(
    device: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def interleave(calls: object, rounds: int, device: object, deadline: float, clock: object, *more: int) -> Any:
        asked.append((rounds, *more))
        return Laps({})

    monkeypatch.setattr(race_module, "interleave", interleave)
    monkeypatch.setattr(race_module, "random_tensors", lambda problem, device: random_tensors(problem, CPU))
    monkeypatch.setattr(race_module, "_ceilings", lambda problem, device: [])
    race_module.race(DENSE, [], 7, torch.device(device), math.inf)
    assert asked == [(7, 9, most)]


def test_every_direction_of_every_kernel_is_timed_in_every_round() -> None:
    other = FunctionKernel(lambda q, k, v: q + k + v, "other")
    timed = lines(StandardAttention(), other, rounds=4)
    assert set(timed) == {(name, direction) for name in ("standard", "other") for direction in DIRECTIONS}
    for line in timed.values():
        assert line.outcome == "measured"
        assert len(line.ms) == 4
        assert line.operations == operations(DENSE.problem, line.direction)
        assert Problem.from_json(DENSE.problem.to_json()).to_dict() == line.problem


def test_ceilings_are_timed_in_the_same_rounds() -> None:
    made = race(DENSE, [StandardAttention()], 5, CPU, math.inf)
    ceilings = [line for line in made if isinstance(line, Ceiling)]
    assert [(line.name, len(line.ms)) for line in ceilings] == [("matmul", 5), ("copy", 5)]
    assert all(line.rate > 0 for line in ceilings)


def test_running_out_of_memory_in_backward_is_that_lines_outcome_alone() -> None:
    class Greedy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Tensor) -> Tensor:
            return q.clone()

        @staticmethod
        def backward(ctx: Any, *dout: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")

    greedy = FunctionKernel(lambda q, k, v: Greedy.apply(q) + k + v, "greedy")
    timed = lines(greedy, StandardAttention())
    assert {direction: timed["greedy", direction].outcome for direction in DIRECTIONS} == {
        "forward": "measured",
        "backward": "out_of_memory",
        "both": "out_of_memory",
    }
    assert timed["greedy", "both"].message == "CUDA out of memory. Tried to allocate 1 TiB"
    assert all(timed["standard", direction].outcome == "measured" for direction in DIRECTIONS)


def test_what_a_kernel_does_not_take_is_said() -> None:
    made = race(PACKED, [StandardAttention()], 3, CPU, math.inf)
    outcomes = {(line.outcome, line.message) for line in made if isinstance(line, Timing)}
    assert outcomes == {("unsupported", "Standard attention has no packed sequences.")}


def test_a_kernel_that_is_no_forward_function_is_timed_whole() -> None:
    asked = []

    class Whole(Kernel):
        name = "whole"
        lineage = "test"

        def unavailable(self, device: torch.device) -> tuple[str, ...]:
            return ()

        def unsupported(self, problem: Problem) -> tuple[str, ...]:
            return ()

        def __call__(self, problem: Problem, tensors: Tensors) -> Outputs:
            asked.append(problem.direction)
            return Outputs(tensors.q)

    timed = lines(Whole())
    assert timed["whole", "forward"].outcome == timed["whole", "both"].outcome == "measured"
    assert timed["whole", "backward"].outcome == "unsupported"
    assert set(asked) == {"forward", "forward_backward"}


def test_random_tensors_have_the_problems_shapes() -> None:
    tensors = random_tensors(PACKED.problem, CPU)
    assert tensors.q.shape == tensors.dout.shape == (16, 2, 16)
    assert tensors.k.shape == tensors.v.shape == (16, 1, 16)
    assert tensors.cu_seqlens_q is not None
    assert tensors.cu_seqlens_q.tolist() == [0, 5, 16]
    assert tensors.cu_seqlens_q.dtype == torch.int32
    assert tensors.max_seqlen_q == 11
    assert random_tensors(DENSE.problem, CPU).q.shape == (1, 32, 2, 16)


def test_a_failure_in_a_later_round_is_on_the_line_too() -> None:
    calls = 0

    def tired(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise RuntimeError("tired")
        return q + k + v

    timed = lines(FunctionKernel(tired, "tired"))
    assert timed["tired", "both"].outcome == "failed"
    assert timed["tired", "both"].message == "RuntimeError: tired"
    assert timed["tired", "both"].ms == ()
