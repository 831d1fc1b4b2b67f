"""Functions as kernels: what is read from a signature, what is passed on, and what is said of the rest."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from fa2verify.kernels.function import FunctionKernel
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.tensors import make_tensors
from fa2verify.verify.judgement.judge import judge
from fa2verify.verify.judgement.truth import Truth

CPU = torch.device("cpu")
WIDE = Dense(batch=2, seqlen_q=3, seqlen_k=5)
PACKED = Varlen(seqlens_q=(3, 2), seqlens_k=(5, 2))
EVERYTHING = Problem(
    lengths=WIDE,
    heads_q=2,
    heads_kv=2,
    causal="bottom_right",
    window=(2, 0),
    scale=0.3,
    softcap=5.0,
    alibi="per_head",
    deterministic=True,
    direction="forward_backward",
)


def plain(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """The least that counts; the names of the first three are free."""
    scores = torch.einsum("bihd,bjhd->bhij", query.float(), keys.float()) / query.shape[-1] ** 0.5
    return torch.einsum("bhij,bjhd->bihd", torch.softmax(scores, -1), values.float()).to(query.dtype)


class Recorder:
    """A function with all of flash_attn_func's parameters that keeps what it was given."""

    def __init__(self) -> None:
        self.given: dict[str, Any] = {}

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dropout_p: float = 0.0,
        softmax_scale: float | None = None,
        causal: bool = False,
        window_size: tuple[int, int] = (-1, -1),
        softcap: float = 0.0,
        alibi_slopes: Tensor | None = None,
        deterministic: bool = False,
        return_attn_probs: bool = False,
    ) -> Any:
        self.given = {name: value for name, value in locals().items() if name not in ("self", "q", "k", "v")}
        out = q + k.sum() + v.sum()
        return (out, q.sum(-1).transpose(1, 2).float(), None) if return_attn_probs else out


def test_a_function_of_three_arguments_passes() -> None:
    kernel = FunctionKernel(plain, "plain")
    problem = Problem(lengths=WIDE, heads_q=2, heads_kv=2, direction="forward_backward")
    tensors = make_tensors(problem)
    judgement = judge(problem, kernel, kernel(problem, tensors), Truth.of(problem, tensors))
    assert judgement.passed, judgement.message
    assert not kernel.gives_lse
    assert kernel.score_dtype == "dtype"
    assert kernel.lineage == plain.__module__
    assert kernel.unavailable(CPU) == ()


def test_what_the_signature_lacks_is_unsupported() -> None:
    sentences = FunctionKernel(plain, "plain").unsupported(EVERYTHING)
    assert sentences == tuple(
        f"The function has no parameter {name}."
        for name in ("softmax_scale", "causal", "window_size", "softcap", "alibi_slopes", "deterministic")
    )


def test_kwargs_count_as_lacking() -> None:
    def loose(q: Tensor, k: Tensor, v: Tensor, **_kwargs: object) -> Tensor:
        return plain(q, k, v)

    (sentence,) = FunctionKernel(loose, "loose").unsupported(Problem(softcap=1.0))
    assert (
        sentence == "The function has no parameter softcap (its **kwargs counts as none: nobody can see what it takes)."
    )


def test_only_what_the_problem_asks_for_is_passed() -> None:
    recorder = Recorder()
    kernel = FunctionKernel(recorder, "recorder")
    assert kernel.gives_lse
    assert kernel.unsupported(EVERYTHING) == ()
    tensors = make_tensors(EVERYTHING)
    outputs = kernel(EVERYTHING, tensors)
    assert outputs.lse is not None
    assert outputs.dq is not None
    assert recorder.given == {
        "dropout_p": 0.0,
        "softmax_scale": 0.3,
        "causal": True,
        "window_size": (2, 0),
        "softcap": 5.0,
        "alibi_slopes": tensors.alibi_slopes,
        "deterministic": True,
        "return_attn_probs": True,
    }
    assert kernel.arguments(Problem(), make_tensors(Problem())) == {"return_attn_probs": True}


def test_a_known_parameter_without_a_default_is_always_given() -> None:
    def strict(q: Tensor, k: Tensor, v: Tensor, causal: bool, *, dropout_p: float) -> Tensor:
        assert (causal, dropout_p) == (False, 0.0)
        return plain(q, k, v)

    kernel = FunctionKernel(strict, "strict")
    assert kernel(Problem(), make_tensors(Problem())).out.shape == (1, 1, 1, 64)


def test_causal_is_bottom_right_unless_the_function_says_otherwise() -> None:
    recorder, older = Recorder(), Recorder()
    older.causal = "top_left"  # type: ignore[attr-defined]
    new, old = FunctionKernel(recorder, "new"), FunctionKernel(older, "old")
    bottom_right, top_left = Problem(lengths=WIDE, causal="bottom_right"), Problem(lengths=WIDE, causal="top_left")
    assert new.unsupported(bottom_right) == old.unsupported(top_left) == ()
    (sentence,) = new.unsupported(top_left)
    assert "bottom-right and the problem's is top-left" in sentence
    assert len(old.unsupported(bottom_right)) == 1
    square = Problem(lengths=Dense(seqlen_q=4, seqlen_k=4), causal="top_left")
    assert new.unsupported(square) == ()


def test_packed_sequences() -> None:
    given: dict[str, Any] = {}

    def packed(
        q: Tensor,
        _k: Tensor,
        _v: Tensor,
        cu_seqlens_q: Tensor,
        cu_seqlens_k: Tensor,
        max_seqlen_q: int,
        max_seqlen_k: int,
    ) -> Tensor:
        given.update(cu_q=cu_seqlens_q.tolist(), cu_k=cu_seqlens_k.tolist(), longest=(max_seqlen_q, max_seqlen_k))
        return q

    kernel = FunctionKernel(packed, "packed")
    problem = Problem(lengths=PACKED)
    assert kernel.unsupported(problem) == ()
    kernel(problem, make_tensors(problem))
    assert given == {"cu_q": [0, 3, 5], "cu_k": [0, 5, 7], "longest": (3, 5)}
    (sentence,) = kernel.unsupported(Problem())
    assert "packed sequences alone" in sentence
    assert FunctionKernel(plain, "plain").unsupported(problem) == ("The function has no parameter cu_seqlens_q.",)


def test_a_function_may_take_both_forms() -> None:
    def either(
        q: Tensor,
        _k: Tensor,
        _v: Tensor,
        cu_seqlens_q: Tensor | None = None,
        cu_seqlens_k: Tensor | None = None,
    ) -> Tensor:
        return q if cu_seqlens_q is None else -q

    kernel = FunctionKernel(either, "either")
    for problem in (Problem(), Problem(lengths=PACKED)):
        assert kernel.unsupported(problem) == ()
        tensors = make_tensors(problem)
        assert torch.equal(kernel(problem, tensors).out, -tensors.q if problem.is_varlen else tensors.q)


def test_attributes_say_what_a_signature_cannot() -> None:
    function = partial(plain)
    for name, value in {
        "score_dtype": "fp32",
        "empty_lse": float("inf"),
        "lineage": "mine",
        "devices": ["cuda"],
        "differentiable": False,
        "batch_invariant": True,
    }.items():
        setattr(function, name, value)
    assert not FunctionKernel(plain, "plain").batch_invariant
    kernel = FunctionKernel(function, "attributes")
    assert (kernel.score_dtype, kernel.empty_lse, kernel.lineage) == ("fp32", float("inf"), "mine")
    assert kernel.batch_invariant
    assert kernel.unavailable(CPU) == ("The function's attribute devices is ('cuda',), without 'cpu'.",)
    assert kernel.unavailable(torch.device("cuda")) == ()
    assert kernel.unsupported(Problem()) == ()
    (sentence,) = kernel.unsupported(Problem(direction="forward_backward"))
    assert "no backward" in sentence


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("score_dtype", "fp16", "must be 'fp32' or 'dtype'"),
        ("causal", True, "must be 'top_left' or 'bottom_right'"),
        ("empty_lse", "inf", "must be int or float"),
        ("lineage", 3, "must be str"),
        ("devices", "cuda", 'a tuple such as ("cuda",)'),
        ("differentiable", "no", "must be bool"),
        ("batch_invariant", 1, "must be bool"),
        ("clears_tail", 0, "must be bool"),
    ],
)
def test_a_wrong_attribute_is_named(name: str, value: object, words: str) -> None:
    function = partial(plain)
    setattr(function, name, value)
    with pytest.raises(TypeError, match=f"its attribute {name} is") as caught:
        FunctionKernel(function, "wrong")
    assert words in str(caught.value)


def test_dropout_is_a_function_s_own() -> None:
    (sentence,) = FunctionKernel(Recorder(), "recorder").unsupported(Problem(dropout=0.1))
    assert "cannot be reproduced" in sentence


def _qkvpacked(qkv: Tensor, dropout_p: float = 0.0, softmax_scale: float | None = None) -> None: ...
def _two(q: Tensor, k: Tensor) -> None: ...
def _more(q: Tensor, k: Tensor, v: Tensor, block_table: Tensor) -> None: ...
def _half(q: Tensor, k: Tensor, v: Tensor, cu_seqlens_q: Tensor) -> None: ...
def _hidden(q: Tensor, k: Tensor, v: Tensor, causal: bool, /) -> None: ...


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("text", "is a str and cannot be called"),
        (_qkvpacked, "has dropout_p in position 2, where q, k or v must be"),
        (_two, "takes 2 arguments by position"),
        (_more, "needs an argument block_table, which nobody can give it"),
        (_half, "only one of cu_seqlens_q and cu_seqlens_k"),
        (_hidden, "needs an argument causal, which nobody can give it"),
        (torch.nn.functional.scaled_dot_product_attention, "shows no signature; wrap it in a Python function"),
    ],
)
def test_what_is_no_such_function_is_an_error(function: Any, words: str) -> None:
    with pytest.raises(TypeError) as caught:
        FunctionKernel(function, "wrong")
    assert words in str(caught.value)


@pytest.mark.parametrize("result", [None, "out", (1, 2, 3)])
def test_a_wrong_result_reaches_the_judge(result: Any) -> None:
    def wrong(_q: Tensor, _k: Tensor, _v: Tensor) -> Any:
        return result

    kernel = FunctionKernel(wrong, "wrong")
    problem = Problem(lengths=WIDE)
    tensors = make_tensors(problem)
    outputs = kernel(problem, tensors)
    assert outputs.out is result
    assert judge(problem, kernel, outputs, Truth.of(problem, tensors)).rule == "R0 out missing"


def test_a_missing_lse_reaches_the_judge() -> None:
    def forgetful(q: Tensor, k: Tensor, v: Tensor, return_attn_probs: bool = False) -> Tensor:
        return plain(q, k, v)

    kernel = FunctionKernel(forgetful, "forgetful")
    problem = Problem(lengths=WIDE)
    tensors = make_tensors(problem)
    outputs = kernel(problem, tensors)
    assert judge(problem, kernel, outputs, Truth.of(problem, tensors)).rule == "R0 lse missing"


@pytest.mark.parametrize("lengths", [Dense(seqlen_q=3, seqlen_k=0), Dense(seqlen_q=0, seqlen_k=3)])
def test_where_nothing_is_computed_gradients_are_zero(lengths: Dense) -> None:
    """A loop over keys that runs not once returns zeros that depend on nothing."""
    kernel = FunctionKernel(lambda q, k, v: torch.zeros_like(q, requires_grad=False), "loop")
    problem = Problem(lengths=lengths, head_dim=8, direction="forward_backward")
    tensors = make_tensors(problem)
    outputs = kernel(problem, tensors)
    assert judge(problem, kernel, outputs, Truth.of(problem, tensors)).passed


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda _q, _k, _v: None, "the function returned None, not a tensor"),
        (lambda q, k, _v: (q, k), "the function returned a tuple, not a tensor"),
        (lambda q, _k, _v: q.detach(), "cut off from autograd"),
    ],
)
def test_why_there_are_no_gradients_is_said_plainly(function: Callable[..., Any], words: str) -> None:
    problem = replace(Problem(lengths=WIDE), direction="forward_backward")
    with pytest.raises(TypeError, match=words):
        FunctionKernel(function, "wrong")(problem, make_tensors(problem))
