"""Problems for relations: as supported as any, and often such that bits are promised."""

from hypothesis import given, settings

from fa2verify.kernels.problem import Problem
from fa2verify.strategies.related import related_problems
from fa2verify.strategies.size import Size


def test_problems_that_promise_bits_are_three_in_four_of_those_that_may() -> None:
    def unsupported(problem: Problem) -> tuple[str, ...]:
        return ("no",) if problem.deterministic and problem.is_varlen else ()

    found: list[Problem] = []

    @settings(max_examples=400, database=None, derandomize=True, deadline=None)
    @given(problem=related_problems(unsupported, size=Size(9, 99, 2, 2)))
    def collect(problem: Problem) -> None:
        found.append(problem)

    collect()
    may = [problem for problem in found if problem.backward and not problem.is_varlen]
    # 80 or more independent draws: four standard deviations are less than 0.2.
    assert len(may) >= 80
    assert 0.55 < sum(problem.deterministic for problem in may) / len(may) < 0.95
    assert not any(map(unsupported, found))
    assert {problem.direction for problem in found} == {"forward", "forward_backward"}
