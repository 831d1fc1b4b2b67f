"""Wrong input to flash-attn's functions: each is refused by name before anything is launched, and right input is not.

A backend that records its calls stands behind the interface, so that "nothing is launched" can be seen.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

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
Fault = tuple[Arguments, tuple[str, ...]]  # what is changed, and which arguments the message may name


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


PAIR = ("q", "k", "v")  # two that disagree: either may be the wrong one
NO_TENSOR = st.sampled_from([None, [[0.0]], 1.5, "q", np.zeros((3, 7, 4, 16), np.float16)])


@st.composite
def tensor_faults(draw: st.DrawFn, name: str) -> Fault:
    given = good(name)
    argument = draw(st.sampled_from([key for key, value in given.items() if key in ("q", "k", "v", "kv", "qkv")]))
    tensor = given[argument]
    kind = draw(
        st.sampled_from(["type", "ndim", "dtype", "dim", "heads", "stride", "device", "sparse", "size", "lead"])
    )
    named: tuple[str, ...] = (argument,)
    shape = list(tensor.shape)
    bad: Any = None
    if kind == "type":
        bad = draw(NO_TENSOR)
    elif kind == "ndim":
        bad = draw(st.sampled_from([tensor[None], tensor.flatten(), half(), tensor.flatten(0, 1)]))
    elif kind == "dtype":
        wrong = [torch.float32, torch.float64, torch.int8, torch.complex64, torch.bool, torch.float8_e4m3fn]
        bad = tensor.to(draw(st.sampled_from(wrong)))
    elif kind == "dim":
        bad = half(*shape[:-1], draw(st.sampled_from([0, 257, 512])))
    elif kind == "heads":
        bad = half(*shape[:-2], 0 if argument == "qkv" else draw(st.sampled_from([0, 3, 5])), DIM)
        named = (argument, *PAIR)
    elif kind == "stride":
        bad = half(*shape[:-1], 2 * DIM)[..., ::2]
    elif kind == "device":
        bad = half(*shape, device="meta")
        named = (argument, "k", "v", "cu_seqlens", "alibi_slopes")
        if name == "flash_attn_qkvpacked_func":  # nothing to disagree with: another device alone is right
            bad = tensor.to(torch.float32)
    elif kind == "sparse":
        bad = tensor.float().to_sparse().half()
    elif kind == "size":
        if argument in ("kv", "qkv"):
            shape[-3] = draw(st.sampled_from([0, 1, 4]))
        else:
            shape[-1] = draw(st.sampled_from([8, 17, 32]))
        bad, named = half(*shape), (argument, *PAIR)
    else:
        shape[0] += draw(st.sampled_from([1, 2]))
        bad, named = half(*shape), (argument, *PAIR)
        if argument == "qkv" or (argument in ("q", "kv") and name in VARLEN):  # longer is no fault there: be wrong
            bad = bad.bfloat16().float()
    if argument in ("kv", "qkv"):
        named = (*named, *PAIR)
    return {argument: bad}, named


OPTION_FAULTS: dict[str, SearchStrategy[Any]] = {
    "dropout_p": st.one_of(
        st.floats(min_value=1), st.floats(max_value=-1e-30), st.sampled_from([math.nan, None, "0.1", True, [0.1]])
    ),
    "softmax_scale": st.sampled_from([math.nan, math.inf, -math.inf, 1e39, "1", True, [1.0]]),
    "causal": st.sampled_from([None, 0, 1, "bottom_right", (-1, -1), 0.125]),
    "window_size": st.one_of(
        st.tuples(st.integers(max_value=-2), st.integers(-1, 9)),
        st.tuples(st.integers(-1, 9), st.integers(max_value=-2)),
        st.lists(st.integers(-1, 9), max_size=5).filter(lambda sides: len(sides) != 2),
        st.sampled_from([None, 3, "12", (1.0, 2), (None, 1), (True, 1), {1: 2, 3: 4}]),
    ),
    "softcap": st.sampled_from([math.nan, math.inf, -math.inf, 1e39, None, "30", False]),
    "deterministic": st.sampled_from([None, 0, 1, "no"]),
    "return_attn_probs": st.sampled_from([None, 0, 1, "no"]),
    "alibi_slopes": st.sampled_from(
        [
            [0.5] * HEADS,
            torch.zeros(HEADS, dtype=torch.float16),
            torch.zeros(HEADS, dtype=torch.float64),
            torch.zeros(HEADS + 1),
            torch.zeros(HEADS_KV, HEADS),
            torch.zeros(HEADS, BATCH),
            torch.zeros(1, BATCH, HEADS),
            torch.zeros(()),
            torch.zeros(HEADS, device="meta"),
            torch.zeros(2 * HEADS)[::2],
            torch.zeros(HEADS, requires_grad=True),
        ]
    ),
}


@st.composite
def option_faults(draw: st.DrawFn) -> Fault:
    argument = draw(st.sampled_from(sorted(OPTION_FAULTS)))
    return {argument: draw(OPTION_FAULTS[argument])}, (argument,)


@st.composite
def packing_faults(draw: st.DrawFn, name: str) -> Fault:
    given = good(name)
    argument = draw(st.sampled_from([key for key in given if "seqlen" in key]))
    named: tuple[str, ...] = (argument,)
    if argument.startswith("max"):
        bad = draw(
            st.one_of(
                st.integers(max_value=-1),
                st.integers(min_value=2**30),
                st.integers(0, 3),  # too small, which the CPU can see
                st.sampled_from([None, 5.0, "5", True, torch.tensor(5)]),
            )
        )
        return {argument: bad}, named
    begins = given[argument]
    falling = [0, 4, *draw(st.lists(st.integers(-3, 3), min_size=2, max_size=2))]
    bad = draw(
        st.sampled_from(
            [
                None,
                begins.tolist(),
                begins.long(),
                begins.float(),
                begins[:1],
                begins[None],
                begins.new_zeros(0),
                torch.zeros(8, dtype=torch.int32)[::2],
                begins.to("meta"),
                begins + 1,
                begins.clamp(min=1),
                begins * 100,
                torch.tensor(falling, dtype=torch.int32),
                torch.cat([begins, begins[-1:]]),
            ]
        )
    )
    if argument == "cu_seqlens" and isinstance(bad, Tensor) and bad.shape == (BATCH + 2,):
        bad = -bad  # one batch alone has none to disagree with
    return {argument: bad}, (*named, "cu_seqlens_q", "max_seqlen")


@st.composite
def wrong_calls(draw: st.DrawFn) -> tuple[str, Arguments, tuple[str, ...]]:
    name = draw(st.sampled_from(DENSE + VARLEN))
    strategies = [tensor_faults(name), option_faults()]
    if name in VARLEN:
        strategies.append(packing_faults(name))
    if name == "flash_attn_varlen_func":
        strategies.append(st.just(({"block_table": torch.zeros(3, 1, dtype=torch.int32)}, ("block_table",))))
    changes, named = draw(st.one_of(strategies))
    return name, good(name) | changes, named


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(wrong_calls())
def test_wrong_input_is_refused_by_name_before_anything_is_launched(
    call: tuple[str, Arguments, tuple[str, ...]],
) -> None:
    name, arguments, named = call
    RECORDER.calls.clear()
    with pytest.raises((TypeError, ValueError)) as caught:
        getattr(FUNCTIONS, name)(**arguments)
    message = str(caught.value)
    assert message.startswith(named), f"{message!r} names none of {named}"
    # What it was, and what is accepted.
    assert any(verb in message for verb in (" is ", " has ", " begins ", " falls ", " ends ", " requires ")), message
    assert any(rule in message for rule in ("must", "pass ")), message
    assert RECORDER.calls == []


@st.composite
def right_calls(draw: st.DrawFn) -> tuple[str, Arguments]:
    name = draw(st.sampled_from(DENSE + VARLEN))
    options: dict[str, SearchStrategy[Any]] = {
        "dropout_p": st.one_of(st.just(0), st.floats(0, 1, exclude_max=True)),
        "softmax_scale": st.one_of(st.none(), st.integers(-3, 3), st.floats(-1e30, 1e30)),
        "causal": st.booleans(),
        "window_size": st.one_of(
            st.tuples(st.integers(-1, 2**31), st.integers(-1, 2**31)),
            st.lists(st.integers(-1, 9), min_size=2, max_size=2),
        ),
        "softcap": st.one_of(st.just(0), st.floats(-1, 1e30)),
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
    ],
)
def test_a_wrong_seed_is_refused(seed: Tensor, message: str) -> None:
    q = half(1, 2, 1, 16)
    with pytest.raises(ValueError, match=message):
        ATTENTION(q, q, q, dropout_p=0.5, dropout_seed=seed)


def test_an_unknown_alignment_is_refused() -> None:
    q = half(1, 2, 1, 16)
    with pytest.raises(ValueError, match="causal is 'bottom_left'; it must be None, 'top_left' or 'bottom_right'"):
        ATTENTION(q, q, q, causal="bottom_left")  # type: ignore[arg-type]
