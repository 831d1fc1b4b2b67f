"""Right input to flash-attn's functions is launched, once; what is refused for reasons of its own; signatures.

A backend that records its calls stands behind the interface, so that "launched" can be seen. Wrong input at large is in
test_interface_wrong_calls.
"""

import inspect
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import forward_ad

from fa2verify.kernels.interface.attention import Attention
from fa2verify.kernels.interface.flash_attn import FlashAttention


class Recorder:
    """A backend that computes nothing and remembers what it was asked for."""

    name = "recorder"
    max_head_dim = 256

    def __init__(self) -> None:
        self.calls: list[str] = []

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        return () if device.type == "cpu" else (f"no recording on {device.type}",)

    def forward(self, *_: Any) -> None:
        self.calls.append("forward")

    def backward(self, *_: Any, **__: Any) -> None:
        self.calls.append("backward")

    def probabilities(self, *_: Any) -> None:
        self.calls.append("probabilities")


RECORDER = Recorder()
ATTENTION = Attention(RECORDER)
FUNCTIONS = FlashAttention(ATTENTION)
DENSE = ("flash_attn_func", "flash_attn_kvpacked_func", "flash_attn_qkvpacked_func")
VARLEN = ("flash_attn_varlen_func", "flash_attn_varlen_kvpacked_func", "flash_attn_varlen_qkvpacked_func")
BATCH, HEADS, HEADS_KV, DIM = 3, 4, 2, 16
LENGTHS_Q, LENGTHS_K = (2, 0, 5), (4, 3, 1)

Arguments = dict[str, Any]


def half(*shape: int, dtype: torch.dtype = torch.float16, device: str = "cpu") -> Tensor:
    return torch.zeros(shape, dtype=dtype, device=device)


def offsets(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)


def good(name: str) -> Arguments:
    """Arguments that every function takes."""
    if "qkvpacked" in name:
        if name in DENSE:
            return {"qkv": half(BATCH, 7, 3, HEADS, DIM)}
        return {"qkv": half(7, 3, HEADS, DIM), "cu_seqlens": offsets(LENGTHS_Q), "max_seqlen": 5}
    lead_q, lead_k = ((BATCH, 7), (BATCH, 8)) if name in DENSE else ((7,), (8,))
    given: Arguments = {"q": half(*lead_q, HEADS, DIM)}
    if "kvpacked" in name:
        given["kv"] = half(*lead_k, 2, HEADS_KV, DIM)
    else:
        given |= {"k": half(*lead_k, HEADS_KV, DIM), "v": half(*lead_k, HEADS_KV, DIM)}
    if name in VARLEN:
        given |= {"cu_seqlens_q": offsets(LENGTHS_Q), "cu_seqlens_k": offsets(LENGTHS_K)}
        given |= {"max_seqlen_q": 5, "max_seqlen_k": 4}
    return given


@st.composite
def right_calls(draw: st.DrawFn) -> tuple[str, Arguments]:
    name = draw(st.sampled_from(DENSE + VARLEN))
    options: dict[str, SearchStrategy[Any]] = {
        "dropout_p": st.one_of(st.just(0), st.floats(0, 1, exclude_max=True)),
        "softmax_scale": st.one_of(
            st.none(), st.integers(-3, 3), st.floats(-1e26, 1e26, exclude_min=True, exclude_max=True)
        ),
        "causal": st.booleans(),
        "window_size": st.one_of(
            st.tuples(st.integers(-1, 2**80), st.integers(-1, 2**80)),
            st.lists(st.integers(-1, 9), min_size=2, max_size=2),
        ),
        "softcap": st.one_of(st.just(0), st.floats(-1, 1e30, exclude_max=True)),
        "alibi_slopes": st.sampled_from([None, torch.zeros(HEADS), torch.zeros(BATCH, HEADS)]),
        "deterministic": st.booleans(),
        "return_attn_probs": st.booleans(),
    }
    return name, good(name) | draw(st.fixed_dictionaries({}, optional=options))


@settings(max_examples=300, deadline=None)
@given(right_calls())
def test_right_input_is_launched_once(call: tuple[str, Arguments]) -> None:
    name, arguments = call
    RECORDER.calls.clear()
    result = getattr(FUNCTIONS, name)(**arguments)
    wants_weights = arguments.get("return_attn_probs", False)
    dropped = arguments.get("dropout_p", 0) > 0
    assert RECORDER.calls == ["forward", "probabilities"][: 1 + (wants_weights and dropped)]
    out, *rest = result if wants_weights else (result,)
    total = (BATCH, 7) if name in DENSE else (7,)
    assert out.shape == (*total, HEADS, DIM)
    if rest:
        lse, weights = rest
        assert lse.shape == ((BATCH, HEADS, 7) if name in DENSE else (HEADS, 7))
        assert lse.dtype == torch.float32
        assert weights.shape == ((BATCH, HEADS, 128, 128) if dropped else (0,))


# Parameters and defaults of flash-attn 2.8, from its public flash_attn/flash_attn_interface.py.
_TAIL = (
    "dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, "
    "deterministic=False, return_attn_probs=False"
)
_PACKING = "cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k"
SIGNATURES = {
    "flash_attn_func": f"q, k, v, {_TAIL}",
    "flash_attn_kvpacked_func": f"q, kv, {_TAIL}",
    "flash_attn_qkvpacked_func": f"qkv, {_TAIL}",
    "flash_attn_varlen_func": f"q, k, v, {_PACKING}, {_TAIL}, block_table=None",
    "flash_attn_varlen_kvpacked_func": f"q, kv, {_PACKING}, {_TAIL}",
    "flash_attn_varlen_qkvpacked_func": f"qkv, cu_seqlens, max_seqlen, {_TAIL}",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_flash_attns(name: str) -> None:
    function: Callable[..., Any] = getattr(FUNCTIONS, name)
    bare = [p.replace(annotation=p.empty) for p in inspect.signature(function).parameters.values()]
    assert str(inspect.Signature(bare)) == f"({SIGNATURES[name]})"


def test_an_unavailable_device_is_refused_with_its_reason() -> None:
    class Nowhere(Recorder):
        name = "nowhere"

        def unavailable(self, device: torch.device) -> tuple[str, ...]:
            return ("it is nowhere",)

    attention = Attention(Nowhere())
    q = half(1, 2, 1, 16)
    with pytest.raises(ValueError, match="q is on cpu, where nowhere cannot run: it is nowhere"):
        attention(q, q, q)


def test_meta_tensors_give_shapes_alone() -> None:
    q = half(2, 3, 4, 16, device="meta")
    out = FUNCTIONS.flash_attn_func(q, q, q)
    assert isinstance(out, Tensor)
    assert out.shape == q.shape
    assert out.device.type == "meta"


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (
            torch.zeros(1, dtype=torch.int32),
            r"dropout_seed is torch.int32 \(1,\) on cpu; it must be int64 \(1,\) on cpu",
        ),
        (torch.zeros(2, dtype=torch.int64), r"dropout_seed is torch.int64 \(2,\)"),
        (5, r"dropout_seed is 5, of type int; it must be None or a torch.Tensor, int64 \(1,\) on cpu"),
    ],
)
def test_a_wrong_seed_is_refused(seed: Any, message: str) -> None:
    q = half(1, 2, 1, 16)
    with pytest.raises((TypeError, ValueError), match=message):
        ATTENTION(q, q, q, dropout_p=0.5, dropout_seed=seed)


def test_memory_that_is_gone_is_refused() -> None:
    """As sharded training leaves a parameter that is not in use: the kernel would be given the address 0."""
    q, kv = half(1, 2, 1, 16), half(1, 2, 2, 1, 16)
    kv.untyped_storage().resize_(0)
    RECORDER.calls.clear()
    with pytest.raises(ValueError, match="kv has 0 bytes of memory; it must have the 128 bytes of its elements"):
        FUNCTIONS.flash_attn_kvpacked_func(q, kv)
    assert RECORDER.calls == []


def test_a_function_transform_has_no_memory_to_look_at() -> None:
    q = half(3, 1, 2, 1, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch takes a loop
        out = torch.vmap(FUNCTIONS.flash_attn_func)(q, q, q)
    assert isinstance(out, Tensor)
    assert out.shape == q.shape


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # what torch imports to make a dual tensor
def test_a_derivative_that_would_be_lost_is_refused() -> None:
    q = half(1, 2, 1, 16)
    with torch.inference_mode():
        fixed = half(1, 2, 1, 16)
    begins = offsets((2,))
    RECORDER.calls.clear()
    with (
        forward_ad.dual_level(),
        pytest.raises(ValueError, match="v has a forward-mode tangent, which is not computed"),
    ):
        FUNCTIONS.flash_attn_func(q, q, forward_ad.make_dual(q, q))
    with pytest.raises(ValueError, match=r"k is an inference tensor, which no backward may save; pass k.clone\(\)"):
        FUNCTIONS.flash_attn_func(q.clone().requires_grad_(), fixed, q)
    with torch.inference_mode():
        fixed_begins = begins.clone()
    with pytest.raises(ValueError, match="cu_seqlens_k is an inference tensor"):
        FUNCTIONS.flash_attn_varlen_func(q[0].clone().requires_grad_(), q[0], q[0], begins, fixed_begins, 2, 2)
    assert RECORDER.calls == []
    FUNCTIONS.flash_attn_func(q, fixed, q)
    with torch.no_grad():
        FUNCTIONS.flash_attn_func(q.clone().requires_grad_(), fixed, q)
    assert RECORDER.calls == ["forward"] * 2


def test_offsets_without_values_are_not_looked_at() -> None:
    """Fake tensors, as a planner of memory runs a model on, name a device and hold nothing."""
    with FakeTensorMode() as mode:
        q, begins = mode.from_tensor(half(7, 4, 16)), mode.from_tensor(offsets(LENGTHS_Q))
    out = FUNCTIONS.flash_attn_varlen_qkvpacked_func(torch.stack([q, q, q], 1), begins, 5)
    assert isinstance(out, Tensor)
    assert out.shape == q.shape


def test_s_dmask_is_no_longer_than_all_rows() -> None:
    q = half(7, 4, 16)
    longest = 2**30 - 1
    packing = (offsets(LENGTHS_Q), offsets(LENGTHS_Q), longest, longest)
    _, _, weights = FUNCTIONS.flash_attn_varlen_func(q, q, q, *packing, dropout_p=0.5, return_attn_probs=True)
    assert weights.shape == (BATCH, HEADS, 128, 128)


def test_keys_and_values_in_one_tensor_are_called_what_the_caller_calls_them() -> None:
    q = half(2, 7, 3, 16)
    for kv, message in (
        (half(2, 7, 2, 2, 16), "q has 3 heads and kv 2; q's must be a multiple of kv's"),
        (half(1, 7, 2, 3, 16), "kv has batch 1 and q 2; they must be equal"),
        (half(2, 7, 2, 3, 16).bfloat16(), "kv has dtype torch.bfloat16 and q torch.float16"),
    ):
        with pytest.raises(ValueError, match=message):
            FUNCTIONS.flash_attn_kvpacked_func(q, kv)


def test_an_unknown_alignment_is_refused() -> None:
    q = half(1, 2, 1, 16)
    with pytest.raises(ValueError, match="causal is 'bottom_left'; it must be None, 'top_left' or 'bottom_right'"):
        ATTENTION(q, q, q, causal="bottom_left")  # type: ignore[arg-type]
