"""Any function with flash_attn_func's signature, or a part of it, as a kernel: nobody should need an adapter to try us.

    flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0,
                    alibi_slopes=None, deterministic=False, return_attn_probs=False)

or the packed form, with cu_seqlens_q, cu_seqlens_k, max_seqlen_q and max_seqlen_k after q, k and v. The parameters are
looked at, not tried: what a function lacks, it does not support, and what it has, it must do right. Gradients are
autograd's. Nothing is checked or repaired on the way out: shape, dtype and a missing result are the judge's to see.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args

import torch
from torch import Tensor

from fa2verify.kernels.autograd import AutogradKernel, Forward
from fa2verify.kernels.kernel import ScoreDtype
from fa2verify.kernels.peers.alignment import misaligned
from fa2verify.kernels.problem import Causal, Problem
from fa2verify.kernels.tensors import Tensors

# Parameters of flash_attn_func, and when a problem asks for them.
_ASKED: Mapping[str, Callable[[Problem], bool]] = {
    "softmax_scale": lambda p: p.scale is not None,
    "causal": lambda p: p.causal is not None,
    "window_size": lambda p: p.window != (-1, -1),
    "softcap": lambda p: p.softcap != 0,
    "alibi_slopes": lambda p: p.alibi is not None,
    "deterministic": lambda p: p.deterministic and p.backward,
}
_PACKED: Mapping[str, Callable[[Tensors], Any]] = {
    "cu_seqlens_q": lambda t: t.cu_seqlens_q,
    "cu_seqlens_k": lambda t: t.cu_seqlens_k,
    "max_seqlen_q": lambda t: t.max_seqlen_q,
    "max_seqlen_k": lambda t: t.max_seqlen_k,
}
_LSE = "return_attn_probs"
_DROPOUT = "dropout_p"
_KNOWN = frozenset({*_ASKED, *_PACKED, _LSE, _DROPOUT})


class FunctionKernel(AutogradKernel):
    """`function` as a kernel.

    function  called as function(q, k, v, ...) with the tensors of `Tensors`, by position; everything else by name, and
              only what the problem asks for. It returns out, or (out, lse, ...) if it has `return_attn_probs`
    name      of the kernel

    Attributes of the function, all optional, say what its signature cannot:

    score_dtype     "fp32" or "dtype" (default: we do not know): see `Kernel`
    empty_lse       lse of a row that sees no key; default -inf
    lineage         whose code it is; default the function's module
    causal          "bottom_right" (default, flash-attn 2.1 and later) or "top_left": its diagonal
    devices         device types it runs on, for example ("cuda",); default any
    differentiable  whether it has a backward; default True
    batch_invariant see `Kernel`; default False
    clears_tail     whether rows past the last packed sequence are 0 in out and in gradients; default False, as in
                    flash-attn

    Raises TypeError, naming what would be right, for what is no such function.
    """

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        self.function = function
        self.name = name
        self._parameters = _parameters(function)
        self._accepts_kwargs = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(function).parameters.values())
        self.gives_lse = _LSE in self._parameters
        self.lineage = _attribute(function, "lineage", str, getattr(function, "__module__", None) or name)
        self.empty_lse = float(_attribute(function, "empty_lse", (int, float), float("-inf")))
        self.score_dtype: ScoreDtype = _choice(function, "score_dtype", get_args(ScoreDtype), "dtype")
        self.alignment: Causal = _choice(function, "causal", get_args(Causal), "bottom_right")
        self.devices: tuple[str, ...] | None = _devices(function)
        self.clears_tail: bool = _attribute(function, "clears_tail", bool, False)
        self.differentiable: bool = _attribute(function, "differentiable", bool, True)
        self.batch_invariant = _attribute(function, "batch_invariant", bool, False)

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Why its attribute `devices` rules `device` out."""
        if self.devices is not None and device.type not in self.devices:
            return (f"The function's attribute devices is {self.devices!r}, without {device.type!r}.",)
        return ()

    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        """What its signature and attributes lack of `problem`; the same sentences for every function."""
        reasons = []
        if problem.is_varlen and not self._has_packed:
            reasons.append(self._lacks("cu_seqlens_q"))
        if not problem.is_varlen and self._needs_packed:
            reasons.append("The function takes packed sequences alone: its cu_seqlens_q has no default.")
        reasons += [
            self._lacks(parameter)
            for parameter, asked in _ASKED.items()
            if asked(problem) and parameter not in self._parameters
        ]
        reasons += misaligned(problem, self.alignment)
        if problem.dropout:
            reasons.append("A function's dropout mask is its own and cannot be reproduced.")
        if problem.tail and not self.clears_tail:
            reasons.append("Rows past the last sequence are undefined: the function lacks clears_tail = True.")
        if problem.backward and not self.differentiable:
            reasons.append("The function's attribute differentiable is False: it has no backward.")
        return tuple(reasons)

    def forward_of(self, problem: Problem, tensors: Tensors) -> Forward:
        """Call the function. Raises what it raises, and TypeError if it gives no gradient where one is asked for."""
        arguments = self.arguments(problem, tensors)

        def forward(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor | None]:
            result = self.function(q, k, v, **arguments)
            lse = None
            if self.gives_lse and isinstance(result, tuple) and len(result) >= 2:
                result, lse = result[:2]
            if problem.backward:
                if isinstance(result, Tensor) and not (sum(problem.seqlens_q) and sum(problem.seqlens_k)):
                    # Nothing is computed from anything, so that a loop over keys leaves no gradient: it is zero.
                    result = result + sum(empty[..., :0].sum() for empty in (q, k, v))
                _require_gradient(result)
            return result, lse

        return forward

    def arguments(self, problem: Problem, tensors: Tensors) -> dict[str, Any]:
        """What the function is given by name: what `problem` asks for, and what has no default."""
        values: dict[str, Any] = {
            "softmax_scale": problem.scale,
            "causal": problem.causal is not None,
            "window_size": problem.window,
            "softcap": problem.softcap,
            "alibi_slopes": tensors.alibi_slopes,
            "deterministic": problem.deterministic,
            _DROPOUT: 0.0,
        }
        asked = {name for name, test in _ASKED.items() if test(problem)}
        given = {name: value for name, value in values.items() if name in asked or self._required(name)}
        if problem.is_varlen:
            given |= {name: value(tensors) for name, value in _PACKED.items() if name in self._parameters}
        if self.gives_lse:
            given[_LSE] = True
        return given

    @property
    def _has_packed(self) -> bool:
        return "cu_seqlens_q" in self._parameters

    @property
    def _needs_packed(self) -> bool:
        return any(self._required(name) for name in _PACKED)

    def _required(self, parameter: str) -> bool:
        return parameter in self._parameters and self._parameters[parameter].default is inspect.Parameter.empty

    def _lacks(self, parameter: str) -> str:
        unseen = " (its **kwargs counts as none: nobody can see what it takes)" if self._accepts_kwargs else ""
        return f"The function has no parameter {parameter}{unseen}."


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters after q, k and v that can be given by name. Raises TypeError."""
    wanted = "a kernel is a function of q, k and v, and of whatever else flash_attn_func takes"
    if not callable(function):
        raise TypeError(f"{function!r} is a {type(function).__name__} and cannot be called; {wanted}")
    try:
        every = list(inspect.signature(function).parameters.values())
    except ValueError:
        raise TypeError(f"{function!r} shows no signature; wrap it in a Python function: {wanted}") from None
    shown = _shown(function)
    by_position = [p for p in every if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(by_position) < 3:
        raise TypeError(f"{shown} takes {len(by_position)} arguments by position; {wanted}")
    for position, parameter in enumerate(by_position[:3]):
        if parameter.name in _KNOWN:
            raise TypeError(
                f"{shown} has {parameter.name} in position {position + 1}, where q, k or v must be; {wanted}"
            )
    rest = [p for p in every if p not in by_position[:3] and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    named = {p.name: p for p in rest}
    hidden = [p for p in by_position[3:] if p.kind is p.POSITIONAL_ONLY]
    for parameter in [*rest, *hidden]:
        if parameter.default is parameter.empty and (parameter.name not in _KNOWN or parameter in hidden):
            raise TypeError(
                f"{shown} needs an argument {parameter.name}, which nobody can give it here; what a problem can say is "
                f"{', '.join(sorted(_KNOWN))}, each by name"
            )
    if ("cu_seqlens_q" in named) != ("cu_seqlens_k" in named):
        raise TypeError(f"{shown} has only one of cu_seqlens_q and cu_seqlens_k; packed sequences need both")
    return named


def _shown(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    return f"{name}{inspect.signature(function)}"


def _attribute(function: Callable[..., Any], name: str, kind: type | tuple[type, ...], default: Any) -> Any:
    value = getattr(function, name, default)
    if not isinstance(value, kind):
        kinds = kind if isinstance(kind, tuple) else (kind,)
        names = " or ".join(each.__name__ for each in kinds)
        raise TypeError(f"{_shown(function)}: its attribute {name} is {value!r}; it must be {names}")
    return value


def _choice(function: Callable[..., Any], name: str, choices: tuple[str, ...], default: str) -> Any:
    value = getattr(function, name, default)
    if value not in choices:
        allowed = " or ".join(repr(choice) for choice in choices)
        raise TypeError(f"{_shown(function)}: its attribute {name} is {value!r}; it must be {allowed}")
    return value


def _devices(function: Callable[..., Any]) -> tuple[str, ...] | None:
    value = getattr(function, "devices", None)
    if value is None:
        return None
    if isinstance(value, str) or not all(isinstance(each, str) for each in value):
        raise TypeError(f'{_shown(function)}: its attribute devices is {value!r}; it must be a tuple such as ("cuda",)')
    return tuple(value)


def _require_gradient(out: Any) -> None:
    """Raise TypeError where autograd would fail with words about its own insides."""
    if not isinstance(out, Tensor):
        what = "None" if out is None else f"a {type(out).__name__}"
        raise TypeError(f"the function returned {what}, not a tensor: there is nothing to take gradients of")
    if not out.requires_grad:
        raise TypeError(
            "the function's output is cut off from autograd although q, k and v require gradients; "
            "a function without a backward says so with its attribute differentiable = False"
        )
