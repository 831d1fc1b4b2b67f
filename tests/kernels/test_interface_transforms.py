"""Our functions under torch.func: what is claimed gives what autograd gives, to the bit; what is not is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fa2verify.kernels.cuda import attention as cuda
from fa2verify.kernels.triton import attention as triton
from fa2verify.kernels.triton.mode import interpreting

# That a sample is a call of its own; what torch imports to make a dual tensor.
pytestmark = [
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated"),
]

BACKENDS: dict[str, Any] = {"triton": triton, "cuda": cuda}
DEVICE = torch.device("cpu" if interpreting() else "cuda")
# Sums in one order, so that bits can be compared.
FIXED: dict[str, bool] = {"deterministic": True, "return_attn_probs": True}
Result = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def half(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).half().to(DEVICE)


def offsets(*lengths: int) -> Tensor:
    return torch.tensor([0, *lengths], device=DEVICE).cumsum(0).int()


@pytest.fixture(params=sorted(BACKENDS))
def functions(request: pytest.FixtureRequest) -> Any:
    """flash-attn's functions by one backend."""
    return BACKENDS[request.param]


@pytest.fixture(params=["dense", "packed"])
def call(functions: Any, request: pytest.FixtureRequest) -> tuple[Result, tuple[Tensor, ...]]:
    """A function of q, k and v that gives out and lse, and what it can be called with."""
    if request.param == "dense":
        inputs = half(1, 9, 2, 16, seed=1), half(1, 11, 1, 16, seed=2), half(1, 11, 1, 16, seed=3)
        slopes = torch.tensor([0.5, 0.25], device=DEVICE)

        def dense(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            found = functions.flash_attn_func(q, k, v, causal=True, alibi_slopes=slopes, **FIXED)
            return found[0], found[1]

        return dense, inputs
    begins_q, begins_k = offsets(3, 0, 6), offsets(4, 2, 5)

    def packed(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        found = functions.flash_attn_varlen_func(q, k, v, begins_q, begins_k, 6, 5, **FIXED)
        return found[0], found[1]

    return packed, (half(9, 2, 16, seed=1), half(11, 1, 16, seed=2), half(11, 1, 16, seed=3))


Call = tuple[Result, tuple[Tensor, ...]]


def weighed(found: tuple[Tensor, Tensor]) -> Tensor:
    """A scalar to which every element of out and lse counts, and none as another."""
    out, lse = (each.float() for each in found)
    both = torch.cat([out.flatten(), lse.flatten()])
    return both @ torch.linspace(-1, 1, both.numel(), device=both.device)


def gradients(function: Result, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Autograd's."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    return torch.autograd.grad(weighed(function(*leaves)), leaves)


def same(found: Any, expected: Any) -> None:
    for got, want in zip(found, expected, strict=True):
        assert torch.equal(got, want)


def test_grad(call: Call) -> None:
    function, inputs = call
    found = torch.func.grad(lambda *each: weighed(function(*each)), argnums=(0, 1, 2))(*inputs)
    same(found, gradients(function, inputs))
    assert all(bool(each.any()) for each in found)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_vjp_of_one_input(call: Call, position: int) -> None:
    function, inputs = call

    def of_one(one: Tensor) -> tuple[Tensor, Tensor]:
        return function(*inputs[:position], one, *inputs[position + 1 :])

    found, pull = torch.func.vjp(of_one, inputs[position])
    same(found, function(*inputs))
    directions = tuple(
        torch.linspace(-1, 1, each.numel(), device=DEVICE).view_as(each).to(each.dtype) for each in found
    )
    leaf = inputs[position].clone().requires_grad_()
    (expected,) = torch.autograd.grad(of_one(leaf), leaf, directions)
    same(pull(directions), (expected,))


def test_vmap_is_a_call_for_each_sample(call: Call) -> None:
    """Also where k is the same for all samples, and where q's lie along another dimension."""
    function, (q, k, v) = call
    many_q, many_v = torch.stack([q, q.flip(-1), 2 * q], dim=1), torch.stack([v, v + 1, v.flip(0)])
    found = torch.func.vmap(function, in_dims=(1, None, 0))(many_q, k, many_v)
    each = [function(many_q[:, index].contiguous(), k, many_v[index]) for index in range(3)]
    same(found, [torch.stack(outputs) for outputs in zip(*each, strict=True)])


def test_gradients_of_each_sample(call: Call) -> None:
    function, inputs = call
    many = [torch.stack([tensor, tensor.flip(-1)]) for tensor in inputs]
    of_one = torch.func.grad(lambda *each: weighed(function(*each)), argnums=(0, 1, 2))
    each = [gradients(function, tuple(tensor[index] for tensor in many)) for index in range(2)]
    same(torch.func.vmap(of_one)(*many), [torch.stack(outputs) for outputs in zip(*each, strict=True)])


def test_a_jacobian_by_rows(call: Call) -> None:
    function, (q, k, v) = call
    rows = torch.func.jacrev(lambda q: function(q, k, v)[1])(q)
    leaf = q.clone().requires_grad_()
    lse = function(leaf, k, v)[1]
    for index in [(0,) * lse.dim(), tuple(size - 1 for size in lse.shape)]:
        (expected,) = torch.autograd.grad(lse[index], leaf, retain_graph=True)
        assert torch.equal(rows[index], expected)
        assert expected.any()


def test_functionalize(call: Call) -> None:
    function, inputs = call
    same(torch.func.functionalize(function)(*inputs), function(*inputs))


def test_compiled(call: Call) -> None:
    function, inputs = call
    torch._dynamo.reset()
    many = [torch.stack([tensor, tensor.flip(-1)]) for tensor in inputs]
    over_samples = torch.func.vmap(function)
    same(torch.compile(over_samples, backend="aot_eager", fullgraph=True)(*many), over_samples(*many))
    slope = torch.func.grad(lambda *each: weighed(function(*each)))
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.compile(slope, backend="aot_eager", fullgraph=True)(*inputs)


def test_a_second_derivative_is_refused(call: Call) -> None:
    function, (q, k, v) = call

    def slope(q: Tensor) -> Tensor:
        return torch.func.grad(lambda q: weighed(function(q, k, v)))(q).float().sum()

    with pytest.raises(NotImplementedError, match="attention has no second derivative"):
        torch.func.grad(slope)(q)


def test_a_forward_mode_derivative_is_refused(call: Call) -> None:
    function, (q, k, v) = call
    with pytest.raises(ValueError, match=r"k has a forward-mode tangent, which is not computed; .* use reverse mode"):
        torch.func.jvp(lambda k: function(q, k, v), (k,), (k,))
    # Over reverse mode, torch looks for the rule itself.
    with pytest.raises(NotImplementedError, match="jvp"):
        torch.func.hessian(lambda q: weighed(function(q, k, v)))(q)


def test_dropout_draws_a_seed_for_each_sample_if_asked_to(functions: Any) -> None:
    q = half(1, 40, 1, 16, seed=1)
    many = torch.stack([q, q])

    def dropped(q: Tensor) -> Tensor:
        found: Tensor = functions.flash_attn_func(q, q, q, 0.5)
        return found

    with pytest.raises(RuntimeError, match="randomness"):
        torch.func.vmap(dropped)(many)
    one, other = torch.func.vmap(dropped, randomness="different")(many)
    assert not torch.equal(one, other)
    one, other = torch.func.vmap(dropped, randomness="same")(many)
    assert torch.equal(one, other)


def test_dropout_has_one_mask_forwards_and_backwards(functions: Any) -> None:
    q, k, v = (half(1, 40, 1, 16, seed=seed) for seed in (1, 2, 3))

    def dropped(v: Tensor) -> Tensor:
        torch.manual_seed(4)
        found: Tensor = functions.flash_attn_func(q, k, v, 0.5, deterministic=True).float().sum()
        return found

    leaf = v.clone().requires_grad_()
    (expected,) = torch.autograd.grad(dropped(leaf), leaf)
    assert torch.equal(torch.func.grad(dropped)(v), expected)
