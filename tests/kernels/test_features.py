"""The matrix's columns: every one can be filled, and says of a problem what it asks for."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings

from fa2verify.kernels.features import FEATURES, features
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.strategies.problems import Size, problems

PLAIN = Problem()
AS_PLAIN = ("float16", "dense", "MHA", "head_dim <= 128", "full", "forward")


def test_a_plain_problem() -> None:
    assert features(PLAIN) == AS_PLAIN


@pytest.mark.parametrize(
    ("changes", "added", "removed"),
    [
        ({"dtype": "bfloat16"}, "bfloat16", "float16"),
        ({"lengths": Varlen(seqlens_q=(2, 1), seqlens_k=(2, 1))}, "varlen", "dense"),
        ({"heads_q": 4, "heads_kv": 2}, "GQA", "MHA"),
        ({"heads_q": 4}, "MQA", "MHA"),
        ({"head_dim": 136}, "head_dim > 128", "head_dim <= 128"),
        ({"head_dim": 61}, "head_dim % 8 != 0", None),
        ({"causal": "top_left"}, "causal top-left", "full"),
        ({"causal": "bottom_right"}, "causal bottom-right", "full"),
        ({"window": (0, -1)}, "window", "full"),
        ({"scale": 0.125}, "softmax scale", None),
        ({"softcap": 30.0}, "softcap", None),
        ({"alibi": "per_head"}, "ALiBi", None),
        ({"dropout": 0.1}, "dropout", None),
        ({"lengths": Dense(seqlen_q=3, seqlen_k=2)}, "seqlen_q > seqlen_k", None),
        ({"layout": "offset"}, "strided", None),
        ({"direction": "forward_backward"}, "backward", "forward"),
        ({"deterministic": True}, "deterministic", None),
    ],
)
def test_each_change_is_its_own_feature(changes: dict[str, Any], added: str, removed: str | None) -> None:
    assert set(features(replace(PLAIN, **changes))) == {*AS_PLAIN, added} - {removed}


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        (Dense(seqlen_q=0, seqlen_k=3), {"empty sequence"}),
        (Dense(seqlen_q=3, seqlen_k=0), {"empty sequence", "seqlen_q > seqlen_k"}),
        (Varlen(seqlens_q=(1, 0), seqlens_k=(1, 5)), {"empty sequence"}),
        # One sequence among others is enough.
        (Varlen(seqlens_q=(1, 3), seqlens_k=(1, 2)), {"seqlen_q > seqlen_k"}),
        (Varlen(seqlens_q=(1, 3), seqlens_k=(1, 3)), set()),
    ],
)
def test_lengths(lengths: Dense | Varlen, expected: set[str]) -> None:
    found = set(features(replace(PLAIN, lengths=lengths)))
    assert found & {"empty sequence", "seqlen_q > seqlen_k"} == expected


def test_rows_past_the_last_sequence_are_no_strides() -> None:
    packed = replace(PLAIN, lengths=Varlen(seqlens_q=(1,), seqlens_k=(1,)))
    assert set(features(replace(packed, layout="tail"))) == {*features(packed), "rows past the last sequence"}


def test_every_column_is_met_and_in_order() -> None:
    met: set[str] = set()

    @settings(max_examples=300, database=None, derandomize=True, deadline=None)
    @given(problems(lambda _: (), size=Size(max_seqlen=64, max_scores=2**14, max_batch=4, max_heads=4)))
    def collect(problem: Problem) -> None:
        found = features(problem)
        assert found == tuple(name for name in FEATURES if name in found)
        for group in (("float16", "bfloat16"), ("dense", "varlen"), ("MHA", "GQA", "MQA"), ("forward", "backward")):
            assert sum(name in found for name in group) == 1, f"a problem is one of {group}"
        assert ("full" in found) == (not {"causal top-left", "causal bottom-right", "window"} & set(found))
        met.update(found)

    collect()
    assert met == set(FEATURES)
