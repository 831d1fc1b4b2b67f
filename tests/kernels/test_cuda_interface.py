"""flash-attn's functions over the CUDA kernels, emulated where there is no GPU: what is theirs alone.

What every backend must do is in test_interface_operators.
"""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import fa2verify.kernels.cuda
from fa2verify.kernels.autograd import AutogradKernel
from fa2verify.kernels.cuda import backend
from fa2verify.kernels.cuda.attention import attention
from fa2verify.kernels.cuda.kernel import CudaKernel, EmulatedCudaKernel
from fa2verify.kernels.dropout import kept
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.reference import steps
from fa2verify.kernels.tensors import make_tensors

CUDA = torch.cuda.is_available() and not CudaKernel().unavailable(torch.device("cuda"))
DEVICE = torch.device("cuda" if CUDA else "cpu")
EPS = 2.0**-24
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
ETA = {"float16": 2.0**-25, "bfloat16": 2.0**-134}


def weights_of(p: Problem) -> Tensor:
    """The attention weights that the kernels write for `p`."""
    tensors = make_tensors(p, DEVICE)
    packing: dict[str, Any] = {}
    if p.is_varlen:
        packing = {"cu_seqlens_q": tensors.cu_seqlens_q, "cu_seqlens_k": tensors.cu_seqlens_k}
        packing |= {"max_seqlen_q": tensors.max_seqlen_q, "max_seqlen_k": tensors.max_seqlen_k}
    seed = torch.tensor([p.dropout_seed], device=DEVICE)
    return attention(
        tensors.q,
        tensors.k,
        tensors.v,
        causal=p.causal,
        window_size=p.window,
        softmax_scale=p.scale,
        softcap=p.softcap,
        alibi_slopes=tensors.alibi_slopes,
        dropout_p=p.dropout,
        dropout_seed=seed,
        return_weights=True,
        **packing,
    )[2]


VARLEN = Varlen(seqlens_q=(70, 0, 5, 1), seqlens_k=(90, 3, 0, 200))


@pytest.mark.parametrize("head_dim", [24, 30])
@pytest.mark.parametrize("lengths", [Dense(batch=2, seqlen_q=130, seqlen_k=70), VARLEN])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"dtype": "bfloat16", "causal": "top_left", "scale": -0.3},
        {"causal": "bottom_right", "softcap": 3.0, "alibi": "per_batch_head", "window": (40, -1)},
    ],
)
def test_weights_are_the_references(lengths: Dense | Varlen, fields: dict[str, Any], head_dim: int) -> None:
    seed = 3 * 2**40 + 5
    p = Problem(lengths=lengths, heads_q=4, heads_kv=2, head_dim=head_dim, dropout=0.4, dropout_seed=seed, **fields)
    found = weights_of(p).double().cpu()
    untouched = torch.ones(found.shape, dtype=torch.bool)
    for step in steps(p, make_tensors(p)):
        batch, _, seqlen_q, seqlen_k = step.scores.shape
        where = (slice(step.block.first, step.block.first + batch), slice(None), slice(seqlen_q), slice(seqlen_k))
        got, seen = found[where], step.visible.expand(step.scores.shape)
        untouched[where] = ~seen
        # A score in fp32 is off by a rounding for each of its head_dim products and some for scale, cap and bias, of
        # what it is a sum of; lse by as much again. Then P is rounded once.
        terms = abs(p.softmax_scale) * (step.q.abs() @ step.k.abs().mT) + (0 if step.bias is None else step.bias.abs())
        error = 2 * (head_dim + 16) * EPS * (terms.amax(-1, keepdim=True) + 1) if terms.numel() else terms
        bound = step.p * (torch.expm1(error) + UNIT[p.dtype]) + ETA[p.dtype]
        assert ((got.abs() - step.p).abs() <= bound)[seen].all()
        for index in range(batch):
            mask = kept(p, step.block.first + index, seqlen_q, seqlen_k, torch.device("cpu"))
            assert torch.equal((got[index] < 0)[seen[index]], (~mask & (got[index] != 0))[seen[index]])
    assert not found[untouched].any()


def test_the_seed_stays_on_the_device() -> None:
    """A captured graph replays pointers: what the seed holds when a kernel runs counts, not what it held before."""
    q = make_tensors(Problem(lengths=Dense(seqlen_q=40, seqlen_k=40), head_dim=32), DEVICE).q
    seed = torch.tensor([1], device=DEVICE)
    outs = []
    for value in (1, 2**40 + 1, 1):
        seed.fill_(value)
        outs.append(attention(q, q, q, dropout_p=0.5, dropout_seed=seed)[0])
    assert torch.equal(outs[0], outs[2])
    assert not torch.equal(outs[0], outs[1])


def test_only_the_gradients_that_are_needed_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    original = backend.launch

    def recording(name: Any, *rest: Any) -> None:
        launched.append(name)
        original(name, *rest)

    monkeypatch.setattr(backend, "launch", recording)
    q, k, v = (torch.zeros(1, 5, 1, 16, dtype=torch.float16, device=DEVICE, requires_grad=True) for _ in range(3))
    for frozen, expected in (
        ((), ["forward", "preprocess", "backward", "postprocess"]),
        ((k, v), ["forward", "preprocess", "backward_dq"]),
        ((q, k), ["forward", "preprocess", "backward_dkdv"]),
    ):
        launched.clear()
        inputs = [x.detach() if any(x is y for y in frozen) else x for x in (q, k, v)]
        attention(*inputs)[0].sum().backward()
        assert launched == expected


def test_forward_and_backward_can_be_called_apart() -> None:
    kernel = EmulatedCudaKernel() if DEVICE.type == "cpu" else CudaKernel()
    assert isinstance(kernel, AutogradKernel)
    p = Problem(lengths=Varlen(seqlens_q=(9, 20), seqlens_k=(30, 4)), head_dim=32, direction="forward_backward")
    tensors = make_tensors(p, DEVICE)
    whole = kernel(p, tensors)
    inputs = [x.detach().requires_grad_() for x in (tensors.q, tensors.k, tensors.v)]
    out, lse = kernel.forward_of(p, tensors)(*inputs)
    assert lse is not None
    assert whole.lse is not None
    assert torch.equal(out, whole.out)
    assert torch.equal(lse, whole.lse)
    for got, want in zip(torch.autograd.grad(out, inputs, tensors.dout), (whole.dq, whole.dk, whole.dv), strict=True):
        assert want is not None
        assert torch.equal(got, want)
    assert not torch.equal(kernel(replace(p, scale=0.5), tensors).out, whole.out)


def test_a_device_without_kernels_is_refused_with_its_reason() -> None:
    (reason,) = backend.CudaBackend().unavailable(torch.device("mps"))
    assert reason == "the CUDA kernels run on cuda devices and, emulated, on the cpu, not on 'mps'"


def test_the_functions_are_there_by_name() -> None:
    assert set(fa2verify.kernels.cuda.__all__) <= set(dir(fa2verify.kernels.cuda))
    for name in fa2verify.kernels.cuda.__all__:
        assert getattr(fa2verify.kernels.cuda, name).__name__ == name
    with pytest.raises(AttributeError, match=r"'fa2verify\.kernels\.cuda' has no attribute 'flash_attn'"):
        fa2verify.kernels.cuda.flash_attn  # noqa: B018


def test_the_package_alone_brings_neither_torch_nor_operators() -> None:
    script = "import sys, fa2verify.kernels.cuda.build_evidence; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "False\n", done.stderr
