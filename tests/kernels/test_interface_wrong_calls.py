"""More than a thousand wrong calls of flash-attn's functions, over each backend: refused by name, or answered rightly.

Refused means a TypeError or ValueError that begins with the argument's name and says what it was and what would be
right, before any kernel is launched. Answered rightly means: by the suite's own rules, gradients included.
"""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor
from wrong_calls import DENSE, Arguments, WrongCall, wrong_calls

from fa2verify.kernels.cuda import attention as cuda
from fa2verify.kernels.cuda.kernel import EmulatedCudaKernel
from fa2verify.kernels.kernel import Kernel, Outputs
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.tensors import Tensors
from fa2verify.kernels.triton import attention as triton
from fa2verify.kernels.triton.kernel import TritonKernel
from fa2verify.kernels.triton.mode import interpreting
from fa2verify.verify.judgement.judge import judge
from fa2verify.verify.judgement.truth import Truth

DEVICE = torch.device("cpu" if interpreting() else "cuda")
# Modules with flash-attn's functions, and the kernel that says which rules they owe.
BACKENDS: dict[str, tuple[Any, Kernel]] = {"cuda": (cuda, EmulatedCudaKernel()), "triton": (triton, TritonKernel())}
# Calls, and how many of them are refused at least; the others are odd and right. What is refused no backend sees, so
# that the slower one, Triton's interpreter, is asked for answers.
CALLS = {"cuda": (1350, 1000), "triton": (160, 100)}
WIDEST = 2**31 - 1


def refused(module: Any, call: WrongCall) -> str | None:
    """What the call's error says; None: it is answered."""
    try:
        getattr(module, call.function)(**call.arguments)
    except (TypeError, ValueError) as error:
        return str(error)
    return None


def is_clear(message: str, named: tuple[str, ...]) -> bool:
    if "unexpected keyword argument" in message:  # Python's own words
        return any(f"'{name}'" in message for name in named)
    says_what_it_was = any(verb in message for verb in (" is ", " has ", " begins ", " falls ", " ends ", " requires "))
    return message.startswith(named) and says_what_it_was and any(rule in message for rule in ("must", "pass "))


def lengths(arguments: Arguments, key: str) -> tuple[int, ...]:
    begins: Tensor = arguments[key if key in arguments else "cu_seqlens"]
    return tuple(begins.diff().tolist())


def the_problem(call: WrongCall, inputs: tuple[Tensor, ...], seed: int) -> tuple[Problem, Tensors]:
    """What `call` asks for, as a problem: its tensors as they are, plainly laid out."""
    a = call.arguments
    q, k, v = (x.detach().resolve_neg().as_subclass(Tensor).clone() for x in inputs)
    dout = torch.randn(q.shape, generator=torch.Generator().manual_seed(9)).to(q)
    slopes = a.get("alibi_slopes")
    varlen = call.function not in DENSE
    where: Dense | Varlen
    if varlen:
        seqlens_q, seqlens_k = (lengths(a, key) for key in ("cu_seqlens_q", "cu_seqlens_k"))
        where = Varlen(seqlens_q=seqlens_q, seqlens_k=seqlens_k)
    else:
        where = Dense(batch=q.shape[0], seqlen_q=q.shape[1], seqlen_k=k.shape[1])
    left, right = (min(side, WIDEST) for side in a.get("window_size", (-1, -1)))
    scale = a.get("softmax_scale")
    problem = Problem(
        dtype="float16" if q.dtype == torch.float16 else "bfloat16",
        lengths=where,
        heads_q=q.shape[-2],
        heads_kv=k.shape[-2],
        head_dim=q.shape[-1],
        causal="bottom_right" if a.get("causal") else None,
        window=(left, right),
        scale=None if scale is None else float(scale),
        softcap=max(float(a.get("softcap", 0)), 0.0),
        alibi=None if slopes is None else "per_head" if slopes.ndim == 1 else "per_batch_head",
        dropout=float(a.get("dropout_p", 0)),
        dropout_seed=seed,
        values="tied_keys",  # rows may be alike: their roundings are not independent
        direction="forward_backward",
    )
    slopes = None if slopes is None else slopes.detach().resolve_neg().clone()
    return problem, Tensors(q, k, v, dout, None, None, 0, 0, slopes)


def parts(arguments: Arguments) -> tuple[Tensor, ...]:
    """(q, k, v) of a call, views of what packs them."""
    if "qkv" in arguments:
        return tuple(arguments["qkv"].unbind(-3))
    return (arguments["q"], *(arguments["kv"].unbind(-3) if "kv" in arguments else (arguments["k"], arguments["v"])))


def assert_answered(module: Any, kernel: Kernel, call: WrongCall) -> None:
    """The call gives what the reference gives, and so do its gradients."""
    inputs = {name: x for name, x in call.arguments.items() if name in ("q", "k", "v", "kv", "qkv")}
    q = parts(inputs)[0]
    if not q.is_meta and q.numel():
        # With a gradient, as they lie; but a backward may save no inference tensor.
        wanted = not any(x.is_inference() for x in inputs.values())
        inputs = {name: x.detach().requires_grad_(wanted) for name, x in inputs.items()}
    torch.manual_seed(5)
    seed = int(torch.randint(2**63 - 1, (1,), dtype=torch.int64, device=DEVICE))
    torch.manual_seed(5)
    out, lse, _ = getattr(module, call.function)(**call.arguments | inputs | {"return_attn_probs": True})
    assert out.shape == q.shape
    if q.is_meta or not q.numel():
        return
    problem, tensors = the_problem(call, parts(inputs), seed)
    gradients: tuple[Tensor | None, ...] = (None,) * 3
    if out.requires_grad:
        found = torch.autograd.grad(out, list(inputs.values()), tensors.dout)
        gradients = parts(dict(zip(inputs, found, strict=True)))
    else:
        problem = replace(problem, direction="forward")
    outputs = Outputs(out.detach(), lse.detach(), *gradients)
    judgement = judge(problem, kernel, outputs, Truth.of(problem, tensors))
    assert judgement.passed, f"{judgement.rule}: {judgement.message}"


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_wrong_call_is_refused_by_name_or_answered_rightly(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, kernel = BACKENDS[backend]
    launched: list[str] = []
    for pass_name in ("forward", "backward", "probabilities"):
        original = getattr(module.attention.backend, pass_name)

        def spy(*args: Any, name: str = pass_name, run: Any = original, **kwargs: Any) -> None:
            launched.append(name)
            run(*args, **kwargs)

        monkeypatch.setattr(module.attention.backend, pass_name, spy)
    seen: dict[str, set[str]] = {"refused": set(), "answered": set()}
    calls, refusals = CALLS[backend]

    @settings(
        max_examples=calls,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(wrong_calls(DEVICE))
    def judged(call: WrongCall) -> None:
        launched.clear()
        refusal = refused(module, call)
        seen["answered" if refusal is None else "refused"].add(repr(call))
        wrong = [fault for fault in call.faults if not fault.right]
        if refusal is None:
            # Two faults may make up for one another; one may not pass.
            assert len(wrong) != 1 or len(call.faults) == 2, f"{wrong[0].argument} {wrong[0].how} was taken"
            assert_answered(module, kernel, call)
        else:
            assert wrong, f"it is right, and refused: {refusal}"
            assert is_clear(refusal, call.named), f"{refusal!r} names none of {call.named}"
            assert launched == []

    judged()
    assert len(seen["refused"]) >= refusals
    assert len(seen["answered"]) >= calls / 20
