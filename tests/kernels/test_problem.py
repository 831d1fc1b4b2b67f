"""A problem survives JSON, refuses what is none with a sentence that helps, and counts right."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from fa2verify.kernels.problem import Dense, Problem, ProblemError, Varlen
from fa2verify.strategies.problems import Size, problems

QUIET = settings(max_examples=300, database=None, derandomize=True, deadline=None)
SIZE = Size(max_seqlen=512, max_scores=2**18, max_batch=6, max_heads=8)
PROBLEMS = problems(lambda _: (), size=SIZE)


@QUIET
@given(PROBLEMS)
def test_json_gives_the_same_problem_back(problem: Problem) -> None:
    text = problem.to_json()
    assert "\n" not in text
    again = Problem.from_json(text)
    assert again == problem
    assert hash(again) == hash(problem)
    assert again.to_json() == text
    assert json.loads(text) == problem.to_dict()
    assert Problem.from_dict(problem.to_dict()) == problem


@QUIET
@given(
    scale=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    softcap=st.floats(0, allow_nan=False, allow_infinity=False),
    dropout=st.floats(0, 1, exclude_max=True),
    seed=st.integers(0, 2**63 - 1),
)
def test_json_keeps_every_bit_of_a_number(scale: float | None, softcap: float, dropout: float, seed: int) -> None:
    problem = Problem(scale=scale, softcap=softcap, dropout=dropout, dropout_seed=seed, seed=seed)
    assert repr(Problem.from_json(problem.to_json())) == repr(problem)


def test_json_leaves_defaults_out() -> None:
    assert Problem().to_json() == "{}"
    assert json.loads(Problem(lengths=Dense(seqlen_k=17), causal="top_left").to_json()) == {
        "lengths": {"seqlen_k": 17},
        "causal": "top_left",
    }


# Text of a problem, and what its error must say: the field, the value, and what would be right.
BAD_JSON: list[tuple[str, tuple[str, ...]]] = [
    ('{"dtype": "float8"}', ("dtype", "'float8'", "'float16' or 'bfloat16'")),
    ('{"heads_q": 3, "heads_kv": 2}', ("heads_q", "3", "multiple of heads_kv = 2")),
    ('{"heads_q": 0}', ("heads_q", "not 0", "greater than or equal to 1")),
    ('{"head_dim": 64.5}', ("head_dim", "64.5", "integer")),
    ('{"head_dim": "64"}', ("head_dim", "'64'", "integer")),
    ('{"causal": "left"}', ("causal", "'left'", "'top_left' or 'bottom_right'")),
    ('{"window": [-2, 0]}', ("window.0", "-2", "greater than or equal to -1")),
    ('{"window": [1]}', ("window.1", "required")),
    ('{"scale": NaN}', ("scale", "nan", "finite")),
    ('{"softcap": -1.0}', ("softcap", "-1.0", "greater than or equal to 0")),
    ('{"dropout": 1.0}', ("dropout", "1.0", "less than 1")),
    ('{"alibi": "per_row"}', ("alibi", "'per_row'", "'per_head' or 'per_batch_head'")),
    ('{"values": "uniform"}', ("values", "'uniform'", "'randn'")),
    ('{"layout": "packed"}', ("layout", "'packed'", "'plain'")),
    ('{"direction": "backward"}', ("direction", "'backward'", "'forward'")),
    ('{"deterministic": 1}', ("deterministic", "1", "boolean")),
    ('{"seed": -1}', ("seed", "-1", "greater than or equal to 0")),
    ('{"seqlen": 5}', ("seqlen", "5", "Unexpected")),
    ('{"lengths": {"seqlen_q": -1}}', ("lengths.seqlen_q", "-1", "greater than or equal to 0")),
    ('{"lengths": {"batch": 0}}', ("lengths.batch", "not 0", "greater than or equal to 1")),
    ('{"lengths": {"seqlens_q": [1, -3], "seqlens_k": [1, 2]}}', ("lengths.seqlens_q.1", "-3", "or equal to 0")),
    ('{"lengths": {"seqlens_q": [1]}}', ("lengths.seqlens_k", "required")),
    ('{"lengths": {"seqlens_q": [1], "seqlens_k": [1, 2]}}', ("lengths", "1 sequences", "2", "as many")),
    ('{"lengths": {"seqlens_q": [], "seqlens_k": []}}', ("lengths", "seqlens_q is empty", "at least one")),
    ('{"lengths": 3}', ("lengths", "3", "object")),
    (
        '{"layout": "qkv_packed", "lengths": {"seqlen_q": 7, "seqlen_k": 9}}',
        ("layout", "'qkv_packed'", "seqlen_q = seqlen_k", "7", "9"),
    ),
    ('{"layout": "qkv_packed", "heads_q": 4, "heads_kv": 2}', ("layout", "'qkv_packed'", "heads_q = heads_kv", "4")),
    ('{"layout": "tail", "lengths": {"seqlen_q": 7}}', ("layout", "'tail'", "seqlens_q and seqlens_k", "seqlen_q=7")),
    ("[]", ("object",)),
    ("{", ("JSON",)),
]


@pytest.mark.parametrize(("text", "words"), BAD_JSON)
def test_json_that_is_no_problem_is_refused_by_name(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(ProblemError) as error:
        Problem.from_json(text)
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)
    assert "pydantic" not in str(error.value)


def test_every_bad_field_is_named() -> None:
    with pytest.raises(ProblemError, match=r"^dtype: .*'x'; head_dim: .*0; seed: .*-1$"):
        Problem.from_json('{"dtype": "x", "head_dim": 0, "seed": -1}')


BAD_FIELDS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"dtype": "float8"}, ("dtype", "float8", "float16")),
    ({"heads_q": 3, "heads_kv": 2}, ("heads_q: 3", "multiple of heads_kv = 2")),
    ({"heads_q": True}, ("heads_q", "True", "integer")),
    ({"window": [1, 2]}, ("window", "[1, 2]", "tuple")),
    ({"window": (0, -2)}, ("window", "-2", "greater than or equal to -1")),
    ({"lengths": (2, 3)}, ("lengths", "(2, 3)", "Dense")),
    ({"scale": float("inf")}, ("scale", "inf", "finite")),
    ({"dropout": 1.0}, ("dropout", "1.0", "less than 1")),
    ({"layout": "qkv_packed", "lengths": Dense(seqlen_q=7, seqlen_k=9)}, ("qkv_packed", "7", "9")),
    ({"layout": "qkv_packed", "lengths": Varlen(seqlens_q=(7,), seqlens_k=(9,))}, ("qkv_packed", "7", "9")),
    ({"lengths": Varlen(seqlens_q=(), seqlens_k=())}, ("seqlens_q is empty", "at least one")),
    ({"heads": 3}, ("heads", "3", "Unexpected")),
]


@pytest.mark.parametrize(("fields", "words"), BAD_FIELDS)
def test_a_bad_field_is_refused_by_name(fields: dict[str, Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ValidationError) as error:
        Problem(**fields)
    assert [word for word in words if word not in str(error.value)] == [], str(error.value)


def test_a_problem_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Problem().heads_q = 2  # type: ignore[misc]


@QUIET
@given(PROBLEMS)
def test_counts_agree_with_the_lengths(problem: Problem) -> None:
    assert len(problem.seqlens_q) == len(problem.seqlens_k) == problem.batch
    assert problem.is_varlen == isinstance(problem.lengths, Varlen)
    assert problem.group * problem.heads_kv == problem.heads_q
    assert problem.backward == (problem.direction == "forward_backward")
    scores = 0
    for q, k in zip(problem.seqlens_q, problem.seqlens_k, strict=True):
        scores += problem.heads_q * q * k
    assert problem.scores == scores


def test_the_scale_in_force() -> None:
    assert Problem(head_dim=80).softmax_scale == 1 / math.sqrt(80)
    assert Problem(head_dim=80, scale=0.0).softmax_scale == 0
    assert Problem(head_dim=80, scale=0.3).softmax_scale == 0.3


def test_the_diagonal_is_at_zero_under_top_left_and_at_the_end_in_every_other_case() -> None:
    lengths = Varlen(seqlens_q=(2, 5, 3), seqlens_k=(5, 2, 3))
    for causal, diagonals in {"top_left": [0, 0, 0], "bottom_right": [3, -3, 0], None: [3, -3, 0]}.items():
        problem = Problem(lengths=lengths, causal=causal)  # type: ignore[arg-type]
        assert [problem.diagonal(sequence) for sequence in range(3)] == diagonals
