"""Names for what a problem asks of a kernel: the columns of the kernels x features matrix."""

from collections.abc import Callable

from fa2verify.kernels.problem import Problem

# In the order in which the matrix shows them.
_TESTS: dict[str, Callable[[Problem], bool]] = {
    "float16": lambda p: p.dtype == "float16",
    "bfloat16": lambda p: p.dtype == "bfloat16",
    "dense": lambda p: not p.is_varlen,
    "varlen": lambda p: p.is_varlen,
    "MHA": lambda p: p.heads_q == p.heads_kv,
    "GQA": lambda p: p.group > 1 and p.heads_kv > 1,
    "MQA": lambda p: p.group > 1 and p.heads_kv == 1,
    "head_dim <= 128": lambda p: p.head_dim <= 128,
    "head_dim > 128": lambda p: p.head_dim > 128,
    "head_dim % 8 != 0": lambda p: p.head_dim % 8 != 0,
    "full": lambda p: p.causal is None and p.window == (-1, -1),
    "causal top-left": lambda p: p.causal == "top_left",
    "causal bottom-right": lambda p: p.causal == "bottom_right",
    "window": lambda p: p.window != (-1, -1),
    "softmax scale": lambda p: p.scale is not None,
    "softcap": lambda p: p.softcap != 0,
    "ALiBi": lambda p: p.alibi is not None,
    "dropout": lambda p: p.dropout != 0,
    "seqlen_q > seqlen_k": lambda p: any(q > k for q, k in zip(p.seqlens_q, p.seqlens_k, strict=True)),
    "empty sequence": lambda p: 0 in p.seqlens_q or 0 in p.seqlens_k,
    "rows past the last sequence": lambda p: p.tail != 0,
    "strided": lambda p: p.layout not in ("plain", "tail"),
    "forward": lambda p: not p.backward,
    "backward": lambda p: p.backward,
    "deterministic": lambda p: p.deterministic,
}

FEATURES: tuple[str, ...] = tuple(_TESTS)


def features(problem: Problem) -> tuple[str, ...]:
    """Every feature that `problem` asks for, in matrix order."""
    return tuple(name for name, test in _TESTS.items() if test(problem))
