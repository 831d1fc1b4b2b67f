"""What a kernel supports, feature by feature: the rows of the kernels x features matrix.

A kernel says what it does not take of a whole problem. For each feature it is therefore asked about one plain problem
that has the feature and, otherwise, nothing that the kernel is known not to take.
"""

from dataclasses import replace
from itertools import product
from typing import Any

from fa2verify.kernels import answers
from fa2verify.kernels.features import FEATURES
from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.problem import Causal, Dense, DType, Problem, Varlen

# Long enough that no kernel refuses them for being short; unequal ones tell the two causal alignments apart.
_SHORT, _LONG = 64, 128


def probe(feature: str, plain: Problem) -> Problem:
    """`plain`, changed so that it has `feature`."""
    return replace(plain, **_changes(plain.is_varlen)[feature])


def unsupported_features(kernel: Kernel) -> dict[str, tuple[str, ...]]:
    """For each feature that `kernel` does not take, its reasons, in the matrix's order; that it cannot say is one."""
    plain = plain_problem(kernel)
    reasons = {feature: _reasons(kernel, probe(feature, plain)) for feature in FEATURES}
    return {feature: found for feature, found in reasons.items() if found}


def plain_problem(kernel: Kernel) -> Problem:
    """The plainest problem that `kernel` takes; the plainest of all if it takes none of those tried.

    Without this a kernel for bf16 alone, or for packed sequences alone, would seem to support nothing.
    """
    dtypes: tuple[DType, ...] = ("float16", "bfloat16")
    masks: tuple[Causal | None, ...] = (None, "bottom_right")
    candidates = [
        Problem(dtype=dtype, causal=causal, lengths=_lengths(varlen, _LONG, _LONG))
        for varlen, causal, dtype in product((False, True), masks, dtypes)
    ]
    return next((problem for problem in candidates if not _reasons(kernel, problem)), candidates[0])


def _reasons(kernel: Kernel, problem: Problem) -> tuple[str, ...]:
    try:
        return answers.unsupported(kernel, problem)
    except answers.AnswerError as error:
        return (f"Its {error}.",)


def _lengths(varlen: bool, seqlen_q: int, seqlen_k: int) -> Dense | Varlen:
    if varlen:
        return Varlen(seqlens_q=(_LONG, seqlen_q), seqlens_k=(_LONG, seqlen_k))
    return Dense(seqlen_q=seqlen_q, seqlen_k=seqlen_k)


def _changes(varlen: bool) -> dict[str, dict[str, Any]]:
    """For each feature, the fields that give it to a plain problem, packed if `varlen`."""
    return {
        "float16": {"dtype": "float16"},
        "bfloat16": {"dtype": "bfloat16"},
        "dense": {"lengths": _lengths(False, _LONG, _LONG)},
        "varlen": {"lengths": _lengths(True, _LONG, _LONG)},
        "MHA": {"heads_q": 2, "heads_kv": 2},
        "GQA": {"heads_q": 4, "heads_kv": 2},
        "MQA": {"heads_q": 4, "heads_kv": 1},
        "head_dim <= 128": {"head_dim": 128},
        "head_dim > 128": {"head_dim": 256},
        "head_dim % 8 != 0": {"head_dim": 60},
        "full": {"causal": None},
        "causal top-left": {"causal": "top_left", "lengths": _lengths(varlen, _SHORT, _LONG)},
        "causal bottom-right": {"causal": "bottom_right", "lengths": _lengths(varlen, _SHORT, _LONG)},
        "window": {"window": (16, 16), "lengths": _lengths(varlen, _SHORT, _LONG)},
        "softmax scale": {"scale": 0.5},
        "softcap": {"softcap": 30.0},
        "ALiBi": {"alibi": "per_head"},
        "dropout": {"dropout": 0.125},
        "seqlen_q > seqlen_k": {"lengths": _lengths(varlen, _LONG, _SHORT)},
        "empty sequence": {"lengths": _lengths(varlen, _LONG, 0)},
        "rows past the last sequence": {"layout": "tail", "lengths": _lengths(True, _LONG, _LONG)},
        "strided": {"layout": "transposed"},
        "forward": {"direction": "forward"},
        "backward": {"direction": "forward_backward"},
        "deterministic": {"direction": "forward_backward", "deterministic": True},
    }
