"""Calls of flash-attn's functions with one or two arguments spoiled, as a Hypothesis strategy.

A right call is drawn first, then spoiled: so that what is wrong is wrong in one place, and an error can be asked to
name that place. Some of what is done to an argument is odd and nevertheless right (rows that all lie at one address, a
window wider than 64 bits, no query at all): there the right answer is owed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

DENSE = ("flash_attn_func", "flash_attn_kvpacked_func", "flash_attn_qkvpacked_func")
VARLEN = ("flash_attn_varlen_func", "flash_attn_varlen_kvpacked_func", "flash_attn_varlen_qkvpacked_func")
TENSORS = ("q", "k", "v", "kv", "qkv")

Arguments = dict[str, Any]


@dataclass(frozen=True, repr=False)
class Fault:
    """What is done to one argument.

    argument  its name
    how       in words, for a count of what was drawn
    value     what is given in its place
    named     the arguments that an error may name: of two that disagree, either may be the wrong one
    right     whether it is odd but right
    """

    argument: str
    how: str
    value: Any
    named: tuple[str, ...]
    right: bool = False

    def __repr__(self) -> str:
        return f"{self.argument}: {self.how}"


@dataclass(frozen=True, repr=False)
class WrongCall:
    """A call of `function` with `faults` in its arguments."""

    function: str
    arguments: Arguments
    faults: tuple[Fault, ...]

    @property
    def named(self) -> tuple[str, ...]:
        return tuple(name for fault in self.faults for name in fault.named)

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={_shown(value)}" for name, value in self.arguments.items())
        return f"{self.function}({given}), {', '.join(map(repr, self.faults))}"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))  # Hypothesis prints a dataclass field by field otherwise: tensors that lack memory


def _shown(value: Any) -> str:
    if not isinstance(value, Tensor):
        return repr(value)
    if value.is_nested or value.layout != torch.strided:
        return f"{value.dtype} {value.layout} nested={value.is_nested}"
    if value.ndim < 2 and not value.is_meta and value.untyped_storage().nbytes():
        return f"{value.dtype} {value.tolist()}"
    return f"{value.dtype} {tuple(value.shape)} {value.stride()} {value.device}"


class Subclass(Tensor):
    """A tensor of another type, and nothing else."""


def _numbers(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


@st.composite
def right_calls(draw: st.DrawFn, device: torch.device) -> tuple[str, Arguments]:
    """A call that every backend must answer; shrinks towards the plainest."""
    name = draw(st.sampled_from(DENSE + VARLEN))
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16]))
    batch = draw(st.integers(1, 2))
    packed = "qkvpacked" in name
    heads, heads_kv = draw(st.sampled_from([(2, 2), (1, 1)] if packed else [(2, 2), (1, 1), (2, 1)]))
    dim = draw(st.sampled_from([16, 8]))
    lengths = st.lists(st.integers(1, 5), min_size=batch, max_size=batch)
    lengths_q = draw(lengths) if name in VARLEN else [draw(st.integers(1, 5))] * batch
    lengths_k = lengths_q if packed else draw(lengths) if name in VARLEN else [draw(st.integers(1, 6))] * batch
    lead_q, lead_k = ((sum(n),) if name in VARLEN else (batch, n[0]) for n in (lengths_q, lengths_k))
    given: Arguments = {}
    if packed:
        given["qkv"] = _numbers((*lead_q, 3, heads, dim), dtype, device, 0)
    else:
        given["q"] = _numbers((*lead_q, heads, dim), dtype, device, 1)
        for seed, key in enumerate(["kv"] if "kvpacked" in name else ["k", "v"], start=2):
            given[key] = _numbers((*lead_k, *((2,) if key == "kv" else ()), heads_kv, dim), dtype, device, seed)
    if name in VARLEN:
        begins = [torch.tensor([0, *np.cumsum(n)], dtype=torch.int32, device=device) for n in (lengths_q, lengths_k)]
        if packed:
            given |= {"cu_seqlens": begins[0], "max_seqlen": max(lengths_q)}
        else:
            given |= {"cu_seqlens_q": begins[0], "cu_seqlens_k": begins[1]}
            given |= {"max_seqlen_q": max(lengths_q), "max_seqlen_k": max(lengths_k)}
    slopes = torch.linspace(0.1, 1, batch * heads, device=device).view(batch, heads)
    options: dict[str, SearchStrategy[Any]] = {
        "causal": st.booleans(),
        "window_size": st.tuples(st.integers(-1, 4), st.integers(-1, 4)),
        "softmax_scale": st.sampled_from([None, 0.3]),
        "softcap": st.sampled_from([0.0, 3.0]),
        "alibi_slopes": st.sampled_from([None, slopes, slopes[0]]),
        "dropout_p": st.sampled_from([0.0, 0.5]),
        "deterministic": st.booleans(),
        "return_attn_probs": st.booleans(),
    }
    chosen = draw(st.sets(st.sampled_from(sorted(options)), max_size=2))
    return name, given | {key: draw(options[key]) for key in sorted(chosen)}


def _short(x: Tensor) -> Tensor:
    """With memory a byte too short. Not with none: whoever prints such a tensor, as for an error, dies of that."""
    x = x.clone()
    x.untyped_storage().resize_(x.untyped_storage().nbytes() - 1)
    return x


def _made_in_inference_mode(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


def _apart(x: Tensor) -> Tensor:
    """The same elements, none beside another."""
    return torch.stack([x, x], dim=-1).flatten(-2)[..., ::2]


def _alike(x: Tensor, dimension: int) -> Tensor:
    """Every slice the first one, at one address."""
    return x.narrow(dimension, 0, 1).expand(x.shape)


def _turned(x: Tensor) -> Tensor:
    """The same elements with the first two dimensions exchanged in memory."""
    return x.transpose(0, 1).contiguous().transpose(0, 1)


def _shifted(x: Tensor) -> Tensor:
    """The same elements at an address that is no multiple of 16 bytes."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


def _resized(x: Tensor, dimension: int, size: int) -> Tensor:
    shape = list(x.shape)
    shape[dimension] = size
    return x.new_zeros(shape)


Change = Callable[[Tensor], Any]
ANY_TENSOR_WRONG: dict[str, Change] = {
    "None": lambda x: None,
    "a list": lambda x: x.tolist(),
    "an array": lambda x: np.zeros(x.shape),
    "a float": lambda x: 0.5,
    "a string": lambda x: "q",
    "sparse": lambda x: x.to_sparse(),
    "nested": lambda x: torch.nested.nested_tensor([x]),
    "jagged": lambda x: torch.nested.nested_tensor([x[None]], layout=torch.jagged),
    "complex": lambda x: x.to(torch.complex64),
    "bool": lambda x: x.bool(),
    "float64": lambda x: x.double(),
    "on another device": lambda x: x.to("meta"),
    "one dimension more": lambda x: x[None, None],
    "no dimension": lambda x: x.flatten()[0],
    "short of memory": _short,
}
VALUES_WRONG: dict[str, Change] = {
    "float32": lambda x: x.float(),
    "float8": lambda x: x.to(torch.float8_e4m3fn),
    "int8": lambda x: x.to(torch.int8),
    "complex32": lambda x: torch.view_as_complex(torch.zeros(*x.shape, 2, dtype=torch.float16, device=x.device)),
    "flat": lambda x: x.flatten(),
    "head_dim 0": lambda x: _resized(x, -1, 0),
    "head_dim 257": lambda x: _resized(x, -1, 257),
    "no heads": lambda x: _resized(x, -2, 0),
    "head_dim apart": _apart,
    "head_dim alike": lambda x: _alike(x, -1),
}
VALUES_RIGHT: dict[str, Change] = {
    "heads alike": lambda x: _alike(x, -2),
    "rows alike": lambda x: _alike(x, 0),
    "turned": _turned,
    "shifted": _shifted,
    "a parameter": lambda x: torch.nn.Parameter(x),
    "a subclass": lambda x: x.as_subclass(Subclass),
    "negated lazily": lambda x: torch._neg_view(x),
    "zero lazily": lambda x: torch._efficientzerotensor(x.shape, dtype=x.dtype, device=x.device),
    "made in inference mode": _made_in_inference_mode,
}


def _offsets_are_read(given: Arguments) -> bool:
    """Whether the interface looks at the values of cu_seqlens: not on a GPU, where it would have to wait for them."""
    return next(given[key] for key in given if key in TENSORS).device.type == "cpu"


@st.composite
def tensor_faults(draw: st.DrawFn, name: str, given: Arguments) -> Fault:
    """Something wrong with, or odd about, q, k, v or what packs them."""
    argument = draw(st.sampled_from([key for key in given if key in TENSORS]))
    x: Tensor = given[argument]
    pair = ("q", "kv" if "kv" in given else "k", *(("v",) if "v" in given else ()))
    # The first to be compared with a tensor elsewhere may be named for it.
    both = (argument, *pair, "cu_seqlens", "alibi_slopes")
    changes: list[tuple[str, Change, tuple[str, ...], bool]] = [
        *((how, change, (argument,), False) for how, change in VALUES_WRONG.items()),
        *((how, change, (argument,), True) for how, change in VALUES_RIGHT.items()),
        *((how, change, both if how == "on another device" else (argument,), False)
          for how, change in ANY_TENSOR_WRONG.items()),
    ]  # fmt: skip
    other = torch.bfloat16 if x.dtype == torch.float16 else torch.float16
    if argument == "qkv":
        changes += [
            ("2 packed", lambda x: _resized(x, -3, 2), (argument,), False),
            ("the other dtype", lambda x: x.to(other), (argument,), True),
        ]
        if name in DENSE:
            right = getattr(given.get("alibi_slopes"), "ndim", 1) == 1  # else they have rows
            changes.append(("no rows", lambda x: x[:0], ("alibi_slopes",), right))
        if name in DENSE and given.get("alibi_slopes") is None:  # nothing to disagree with
            changes = [change for change in changes if change[0] != "on another device"]
            changes.append(("on meta", lambda x: x.to("meta"), (argument,), True))
    else:
        changes += [
            ("the other dtype", lambda x: x.to(other), pair, False),
            ("another head_dim", lambda x: _resized(x, -1, 17), pair, False),
        ]
        if argument != "q" or given["kv" if "kv" in given else "k"].shape[-2] > 1:  # any number shares one key head
            changes.append(("other heads", lambda x: _resized(x, -2, 3 if argument == "q" else 5), pair, False))
        if argument == "q" and name in DENSE:
            changes.append(("no queries", lambda x: x[:, :0], (argument,), True))
        if argument == "kv":
            changes.append(("3 packed", lambda x: _resized(x, -3, 3), (argument,), False))
        if name in DENSE or argument in ("k", "v"):
            changes.append(("longer", lambda x: _resized(x, 0, x.shape[0] + 1), (*pair, "alibi_slopes"), False))
        if argument in ("k", "v"):
            changes.append(("more rows", lambda x: _resized(x, -3, x.shape[-3] + 2), pair, False))
    if name in VARLEN and _offsets_are_read(given):
        changes.append(("fewer rows than packed", lambda x: x[:-1], (*pair, "cu_seqlens", "max_seqlen"), False))
    how, change, named, right = draw(st.sampled_from(changes))
    return Fault(argument, how, change(x), named, right)


OPTIONS_WRONG: dict[str, SearchStrategy[Any]] = {
    "dropout_p": st.one_of(
        st.floats(min_value=1),
        st.floats(max_value=-1e-30),
        st.sampled_from([1, math.nan, None, "0.1", True, [0.1], Fraction(1, 2), Decimal("0.5"), torch.tensor(0.5)]),
    ),
    "softmax_scale": st.one_of(
        st.floats(min_value=1e26),
        st.floats(max_value=-1e26, exclude_max=True),
        st.sampled_from([math.nan, "1", True, [1.0], 1j, torch.tensor(0.5)]),
    ),
    "causal": st.sampled_from([None, 0, 1, "bottom_right", (-1, -1), 0.125, torch.tensor(True)]),
    "window_size": st.one_of(
        st.tuples(st.integers(max_value=-2), st.integers(-1, 9)),
        st.tuples(st.integers(-1, 9), st.integers(max_value=-2)),
        st.lists(st.integers(-1, 9), max_size=5).filter(lambda sides: len(sides) != 2),
        st.sampled_from([None, 3, "12", (1.0, 2), (None, 1), (True, 1), {1: 2, 3: 4}, torch.tensor([1, 2])]),
    ),
    "softcap": st.one_of(
        st.floats(min_value=1e30), st.sampled_from([math.nan, -math.inf, None, "30", False, torch.tensor(1.0)])
    ),
    "deterministic": st.sampled_from([None, 0, 1, "no", torch.tensor(False)]),
    "return_attn_probs": st.sampled_from([None, 0, 1, "no"]),
}
OPTIONS_RIGHT: dict[str, SearchStrategy[Any]] = {
    "dropout_p": st.sampled_from([0, 1e-300, np.float64(0.25), 1 - 2.0**-10]),
    "softmax_scale": st.sampled_from([0, 0.0, -1, -0.2, 1, 1e-40, np.float64(0.5)]),
    "window_size": st.one_of(
        st.tuples(st.integers(-1, 2**80), st.integers(-1, 2**80)),
        st.sampled_from([[1, 0], torch.Size([0, 2]), (2**64, 0), (0, 2**64)]),
    ),
    "softcap": st.sampled_from([-1, -1e-3, 1, 9e29, 1e-30]),
}


@st.composite
def option_faults(draw: st.DrawFn, name: str, given: Arguments) -> Fault:
    """A wrong, or an odd, value of an option, or an option that is none."""
    names = ["alibi_slopes", "unknown", *sorted(OPTIONS_WRONG), *sorted(OPTIONS_RIGHT)]
    argument = draw(st.sampled_from(names))
    if argument == "unknown":
        extra = draw(st.sampled_from(["scale", "is_causal", "attn_mask", "softmax_lse", "window"]))
        return Fault(extra, "unknown", 1, (extra,))
    if argument == "alibi_slopes":
        return draw(alibi_faults(name, given))
    right = argument in OPTIONS_RIGHT and draw(st.integers(0, 3)) == 0
    value = draw((OPTIONS_RIGHT if right else OPTIONS_WRONG)[argument])
    return Fault(argument, "odd" if right else "wrong", value, (argument,), right)


@st.composite
def alibi_faults(draw: st.DrawFn, name: str, given: Arguments) -> Fault:
    """Slopes of another kind, size, memory or place."""
    x: Tensor = next(given[key] for key in ("qkv", "q") if key in given)
    heads = x.shape[-2]
    packing = next((given[key] for key in ("cu_seqlens", "cu_seqlens_q") if key in given), None)
    batch = x.shape[0] if packing is None else packing.shape[0] - 1
    slopes = torch.linspace(0.1, 1, heads, device=x.device)
    changes: list[tuple[str, Change, bool]] = [
        *((how, change, False) for how, change in ANY_TENSOR_WRONG.items() if how != "None"),
        ("a head more", lambda x: x.new_zeros(heads + 1), False),
        ("a batch more", lambda x: x.new_zeros(batch + 1, heads), False),
        ("float16", lambda x: x.half(), False),
        ("with gradient", lambda x: x.clone().requires_grad_(), False),
        ("alike in every sequence", lambda x: x.expand(batch, heads), True),
        ("negative", lambda x: -x, True),
        ("negated lazily", lambda x: torch._neg_view(x), True),
    ]
    if heads > 1:
        changes.append(("apart", _apart, False))
    how, change, right = draw(st.sampled_from(changes))
    return Fault("alibi_slopes", how, change(slopes), ("alibi_slopes",), right)


@st.composite
def packing_faults(draw: st.DrawFn, name: str, given: Arguments) -> Fault:
    """cu_seqlens, max_seqlen or block_table that do not say where sequences lie."""
    keys = [key for key in given if "seqlen" in key]
    argument = draw(st.sampled_from(keys if "q" not in given or "kv" in given else [*keys, "block_table"]))
    if argument == "block_table":
        value = torch.zeros(3, 1, dtype=torch.int32)
        return Fault(argument, "given", value, (argument,))
    if argument.startswith("max"):
        longest: int = given[argument]
        wrong: list[SearchStrategy[tuple[Any, bool]]] = [
            st.integers(max_value=-1).map(lambda value: (value, False)),
            st.integers(min_value=2**30).map(lambda value: (value, False)),
            st.sampled_from([None, 5.0, "5", True, torch.tensor(5), np.int64(5)]).map(lambda value: (value, False)),
            st.integers(longest, 2**30 - 1).map(lambda value: (value, True)),
        ]
        if _offsets_are_read(given):
            wrong.append(st.integers(0, longest - 1).map(lambda value: (value, False)))
        value, right = draw(st.one_of(wrong))
        return Fault(argument, "odd" if right else "wrong", value, (argument,), right)
    begins: Tensor = given[argument]
    changes: list[tuple[str, Change]] = [
        *ANY_TENSOR_WRONG.items(),
        ("int64", lambda x: x.long()),
        ("one offset", lambda x: x[:1]),
        ("apart", _apart),
        ("alike", lambda x: _alike(x, 0)),
    ]
    named = (argument, "cu_seqlens_q") if argument == "cu_seqlens_k" else (argument,)
    if argument != "cu_seqlens":  # one batch alone has none to disagree with
        changes.append(("a sequence more", lambda x: torch.cat([x, x[-1:]])))
        named = (*named, "cu_seqlens_k")
    if _offsets_are_read(given):
        changes += [
            ("from 1", lambda x: x + 1),
            ("from below 0", lambda x: x - 1),
            ("past the end", lambda x: x * 100),
            ("falling", lambda x: -x),
            ("falling at the end", lambda x: torch.cat([x[:-1], x[-1:] * 0 - 2])),
        ]
    how, change = draw(st.sampled_from(changes))
    longest_of = argument.replace("cu_seqlens", "max_seqlen")
    return Fault(argument, how, change(begins), (*named, longest_of, "alibi_slopes"))


def wrong_calls(device: torch.device) -> SearchStrategy[WrongCall]:
    """A call with one fault, or with two of different arguments; shrinks towards one in the plainest call."""
    # A list of one, inside which Hypothesis does not mutate: as in fa2verify.strategies.problems.
    drawn = st.lists(_wrong_calls(device), min_size=1, max_size=1, unique_by=repr)
    return drawn.map(lambda calls: calls[0])


@st.composite
def _wrong_calls(draw: st.DrawFn, device: torch.device) -> WrongCall:
    name, given = draw(right_calls(device))
    kinds = [tensor_faults(name, given), option_faults(name, given)]
    if name in VARLEN:
        kinds.append(packing_faults(name, given))
    faults: dict[str, Fault] = {}
    for _ in range(draw(st.sampled_from([1, 1, 2]))):
        fault = draw(st.one_of(kinds))
        faults.setdefault(fault.argument, fault)
    arguments = given | {fault.argument: fault.value for fault in faults.values()}
    return WrongCall(name, arguments, tuple(faults.values()))
