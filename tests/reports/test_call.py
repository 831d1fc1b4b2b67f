from typing import Any

import pytest

from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.reports.call import call_of

PROBLEMS = [
    Problem(),
    Problem(dtype="bfloat16", lengths=Dense(batch=3, seqlen_q=5, seqlen_k=7), head_dim=128, values="large"),
    Problem(lengths=Varlen(seqlens_q=(3, 0), seqlens_k=(4, 9)), direction="forward_backward"),
    Problem(heads_q=6, heads_kv=2, causal="top_left"),
]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_record_is_read_as_the_problem_that_it_is(problem: Problem) -> None:
    call = call_of(problem.to_dict())
    assert call is not None
    fields = call.dtype, call.head_dim, call.values, call.direction, call.packed
    assert fields == (problem.dtype, problem.head_dim, problem.values, problem.direction, problem.is_varlen)
    assert (call.heads_q, call.heads_kv, call.causal) == (problem.heads_q, problem.heads_kv, problem.causal)
    assert (call.seqlens("out"), call.seqlens("dv")) == (problem.seqlens_q, problem.seqlens_k)


def test_the_longest_sequence_is_of_either_side() -> None:
    assert [call.longest for problem in PROBLEMS if (call := call_of(problem.to_dict()))] == [1, 7, 9, 1]


@pytest.mark.parametrize(
    "problem", [{"head_dim": "many"}, {"lengths": {"batch": 0}}, {"lengths": [1]}, {"dtype": {}}, {"head_dim": 0}]
)
def test_what_is_no_problem_is_none(problem: dict[str, Any]) -> None:
    assert call_of(problem) is None
