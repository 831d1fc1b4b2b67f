"""Our torch operators over each backend: what torch's own checks say, torch.compile, gradients, seeds."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fa2verify.kernels.cuda import attention as cuda
from fa2verify.kernels.triton import attention as triton
from fa2verify.kernels.triton.mode import interpreting

BACKENDS: dict[str, Any] = {"triton": triton, "cuda": cuda}  # modules with flash-attn's functions and `attention`

DEVICE = torch.device("cpu" if interpreting() else "cuda")
LENGTHS_Q, LENGTHS_K = (8, 0, 12), (10, 3, 17)


@pytest.fixture(params=sorted(BACKENDS))
def functions(request: pytest.FixtureRequest) -> Any:
    """flash-attn's functions by one backend."""
    return BACKENDS[request.param]


def randn(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).half().to(DEVICE).requires_grad_()


def offsets(lengths: tuple[int, ...]) -> Tensor:
    return torch.tensor([0, *lengths], device=DEVICE).cumsum(0).int()


def operator_arguments(varlen: bool, features: bool, needs_grad: bool) -> tuple[Any, ...]:
    lead_q, lead_k = ((20,), (30,)) if varlen else ((2, 20), (2, 30))
    shapes = ((*lead_q, 4, 16), (*lead_k, 2, 16), (*lead_k, 2, 16))
    tensors = [randn(*shape, seed=index).requires_grad_(needs_grad) for index, shape in enumerate(shapes)]
    packing = (offsets(LENGTHS_Q), offsets(LENGTHS_K)) if varlen else (None, None)
    slopes = torch.linspace(0.1, 1, 4, device=DEVICE) if features else None
    seed = torch.tensor([5], device=DEVICE) if features else None
    numbers = ("bottom_right", 5, -1, 0.3, 7.0, 0.25) if features else (None, -1, -1, None, 0.0, 0.0)
    return *tensors, *packing, slopes, seed, 12, 17, *numbers, False


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("varlen", [False, True])
def test_opcheck(functions: Any, varlen: bool, features: bool) -> None:
    operators = functions.attention.operators
    torch.library.opcheck(operators.forward, operator_arguments(varlen, features, True))
    q, k, v, *options = operator_arguments(varlen, features, False)
    out, lse = operators.forward(q, k, v, *options)
    for dlse in (None, torch.ones_like(lse)):
        given = (torch.ones_like(out), dlse, q, k, v, out, lse)
        for needed in ((True, True), (False, True), (True, False)):
            torch.library.opcheck(operators.backward, (*given, *needed, *options))
    torch.library.opcheck(operators.probabilities, (q, k, lse, *options))


Loss = Callable[[tuple[Tensor, ...], float], Tensor]


@pytest.fixture
def loss(functions: Any) -> Loss:
    """A function of (q, k, v) and a dropout probability."""

    def of(inputs: tuple[Tensor, ...], dropout_p: float) -> Tensor:
        q, k, v = inputs
        out = functions.flash_attn_func(q, k, v, dropout_p, causal=True, window_size=(7, -1), softcap=3.0)
        assert isinstance(out, Tensor)
        return out.float().square().sum()

    return of


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_traces_the_whole_function_with_dynamic_shapes(loss: Loss, backend: str) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend=backend, fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for length in (20, 33, 47):
            inputs = tuple(randn(2, length + more, heads, 16, seed=more) for more, heads in ((0, 4), (3, 2), (3, 2)))
            for got, want in zip(
                torch.autograd.grad(compiled(inputs, 0.0), inputs),
                torch.autograd.grad(loss(inputs, 0.0), inputs),
                strict=True,
            ):
                assert torch.equal(got, want)


def test_compile_draws_the_seed_that_eager_mode_draws(loss: Loss) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    inputs = tuple(randn(1, 20, 2, 16, seed=index) for index in range(3))
    losses = []
    for function in (compiled, loss):
        torch.manual_seed(3)
        losses.append(function(inputs, 0.5))
    assert torch.equal(*losses)


def test_compile_traces_packed_sequences(functions: Any) -> None:
    torch._dynamo.reset()

    def both(inputs: tuple[Tensor, ...], begins: Tensor, longest: int) -> tuple[Tensor, ...]:
        q, k, v = inputs
        result = functions.flash_attn_varlen_func(q, k, v, begins, begins, longest, longest, return_attn_probs=True)
        assert isinstance(result, tuple)
        return result

    compiled = torch.compile(both, backend="aot_eager", fullgraph=True, dynamic=True)
    for total in (20, 33):
        inputs = tuple(randn(total, 2, 16, seed=index) for index in range(3))
        begins = offsets((8, total - 8))
        for got, want in zip(compiled(inputs, begins, 25), both(inputs, begins, 25), strict=True):
            assert torch.equal(got, want)


def test_torch_generator_selects_the_dropout_mask(functions: Any) -> None:
    inputs = [randn(1, 40, 2, 16, seed=index) for index in range(3)]
    outs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        outs.append(functions.flash_attn_func(*inputs, dropout_p=0.5))
    assert torch.equal(outs[0], outs[1])
    assert not torch.equal(outs[0], outs[2])
    # One call after the other draws anew.
    assert not torch.equal(outs[2], functions.flash_attn_func(*inputs, dropout_p=0.5))


@pytest.mark.parametrize("varlen", [False, True])
def test_s_dmask_is_what_out_was_made_of(functions: Any, varlen: bool) -> None:
    q, k, v = (x[0] if varlen else x[:1] for x in (randn(2, 70, 2, 16), randn(2, 40, 1, 16), randn(2, 40, 1, 16)))
    options: dict[str, Any] = {"dropout_p": 0.4, "causal": True, "softcap": 5.0, "return_attn_probs": True}
    if varlen:
        packing = (offsets((70,)), offsets((40,)), 70, 40)
        out, _, weights = functions.flash_attn_varlen_func(q, k, v, *packing, **options)
    else:
        out, _, weights = functions.flash_attn_func(q, k, v, **options)
    assert weights.shape == (1, 2, 128, 128)
    assert (weights[..., 70:, :] == 0).all()
    assert (weights[..., :, 40:] == 0).all()
    kept = weights[0, :, :70, :40].double().clamp(min=0) / 0.6
    values = v.double().reshape(40, 16)
    got = out.double().reshape(70, 2, 16).transpose(0, 1)
    # Weights are rounded once to fp16 here and, relative to another maximum, once on the way to out, which is too.
    bound = 2 * 2.0**-11 * (kept @ values.abs()) + 2.0**-11 * got.abs() + 2.0**-18
    assert ((got - kept @ values).abs() <= bound).all()
    fraction = (weights < 0).sum() / (weights != 0).sum()
    assert abs(fraction - 0.4) < 0.1  # 4.6 standard deviations of the visible 4,240 weights would be 0.035


def test_packed_functions_are_the_plain_one(functions: Any) -> None:
    qkv, kv, q = randn(2, 9, 3, 4, 16), randn(2, 12, 2, 2, 16), randn(2, 9, 4, 16)
    lengths = offsets((4, 5))
    for packed, plain, inputs in (
        (
            functions.flash_attn_qkvpacked_func(qkv, causal=True),
            functions.flash_attn_func(*qkv.unbind(2), causal=True),
            (qkv,),
        ),
        (
            functions.flash_attn_kvpacked_func(q, kv, causal=True),
            functions.flash_attn_func(q, *kv.unbind(2), causal=True),
            (q, kv),
        ),
        (
            functions.flash_attn_varlen_qkvpacked_func(qkv[0], lengths, 5, causal=True),
            functions.flash_attn_varlen_func(*qkv[0].unbind(1), lengths, lengths, 5, 5, causal=True),
            (qkv,),
        ),
        (
            functions.flash_attn_varlen_kvpacked_func(q[0], kv[0], lengths, offsets((2, 10)), 5, 10),
            functions.flash_attn_varlen_func(q[0], *kv[0].unbind(1), lengths, offsets((2, 10)), 5, 10),
            (q, kv),
        ),
    ):
        assert isinstance(packed, Tensor)
        assert isinstance(plain, Tensor)
        assert torch.equal(packed, plain)
        for got, want in zip(
            torch.autograd.grad(packed.square().sum(), inputs),
            torch.autograd.grad(plain.square().sum(), inputs),
            strict=True,
        ):
            assert torch.equal(got, want)


def test_triton_computes_only_the_gradients_that_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: list[str] = []
    for name in ("backward_dq", "backward_dkdv"):
        monkeypatch.setattr(f"fa2verify.kernels.triton.backend.{name}", lambda *_, name=name: launched.append(name))
    q, k, v = randn(1, 5, 1, 16), randn(1, 5, 1, 16), randn(1, 5, 1, 16)
    both = ["backward_dkdv", "backward_dq"]
    for frozen, expected in (((), both), ((k, v), both[1:]), ((q, k), both[:1])):
        launched.clear()
        inputs = [x.detach() if any(x is y for y in frozen) else x for x in (q, k, v)]
        triton.flash_attn_func(*inputs).sum().backward()
        assert launched == expected


def test_a_second_derivative_is_refused(functions: Any) -> None:
    q = randn(1, 5, 1, 16)
    out = functions.flash_attn_func(q, q, q)
    (gradient,) = torch.autograd.grad(out.sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivative"):
        torch.autograd.grad(gradient.sum(), q)
