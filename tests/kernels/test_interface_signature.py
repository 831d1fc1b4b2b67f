"""What is kept by signature serves that signature alone, and no check is left out that no signature covers."""

import ctypes
import warnings
from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from fa2verify.kernels.cuda import attention as cuda
from fa2verify.kernels.cuda import backend, emulator
from fa2verify.kernels.cuda.call import CallStructure
from fa2verify.kernels.interface import operators
from fa2verify.kernels.interface.signature import MOST, Kept
from fa2verify.kernels.triton import attention as triton
from fa2verify.kernels.triton import preprocess, probabilities, walk
from fa2verify.kernels.triton.mode import interpreting

BACKENDS: dict[str, Any] = {"triton": triton, "cuda": cuda}
DEVICE = torch.device("cpu" if interpreting() else "cuda")
SHAPE = (2, 20, 2, 16)


@pytest.fixture(params=sorted(BACKENDS))
def functions(request: pytest.FixtureRequest) -> Any:
    """flash-attn's functions by one backend."""
    return BACKENDS[request.param]


def randn(seed: int = 0) -> Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).half().to(DEVICE)


def heads_first(x: Tensor) -> Tensor:
    return x.transpose(1, 2).contiguous().transpose(1, 2)


def one_element_on(x: Tensor) -> Tensor:
    """The same shape and strides, no longer at a multiple of 16 bytes."""
    memory = torch.zeros(x.numel() + 1, dtype=x.dtype, device=x.device)
    return memory[1:].view(x.shape).copy_(x)


def results(functions: Any, inputs: tuple[Tensor, ...], **options: Any) -> tuple[Tensor, ...]:
    """Out and the gradients of q, k and v."""
    given = [x.detach().requires_grad_() for x in inputs]
    out = functions.flash_attn_func(*given, **options)
    return out.detach(), *torch.autograd.grad(out, given, torch.ones_like(out), retain_graph=True)


def test_layout_and_place_of_a_tensor_are_part_of_what_is_kept(functions: Any) -> None:
    values = [tuple(randn(3 * number + index) for index in range(3)) for number in range(2)]
    plain = [results(functions, inputs) for inputs in values]
    layouts: tuple[Callable[[Tensor], Tensor], ...] = (torch.clone, heads_first, one_element_on)
    for make, (inputs, expected) in product((*layouts, *layouts), zip(values, plain, strict=True)):
        for got, want in zip(results(functions, tuple(map(make, inputs))), expected, strict=True):
            assert torch.equal(got, want), make


def test_options_are_part_of_what_is_kept(functions: Any) -> None:
    inputs = tuple(randn(index) for index in range(3))
    options: tuple[dict[str, Any], ...] = (
        {},
        {"causal": True},
        {"window_size": (3, 0)},
        {"window_size": (0, 3)},
        {"softmax_scale": 1.0},
        {"softcap": 1.0},
        {"alibi_slopes": torch.ones(2, device=DEVICE)},
        {"alibi_slopes": torch.arange(4.0, device=DEVICE).view(2, 2)},
    )
    outs = [results(functions, inputs, **given) for given in options]
    for first, second in combinations(outs, 2):
        assert not any(torch.equal(a, b) for a, b in zip(first, second, strict=True) if a is not b)
    again = [results(functions, inputs, **given) for given in options]
    for first, second in zip(outs, again, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_memory_is_checked_in_every_call(functions: Any) -> None:
    inputs = {"q": randn(), "k": randn(1), "v": randn(2)}
    slopes = torch.ones(2, device=DEVICE)
    functions.flash_attn_func(**inputs, alibi_slopes=slopes)
    for name, tensor in (*inputs.items(), ("alibi_slopes", slopes)):
        storage = tensor.untyped_storage()
        size = storage.nbytes()
        storage.resize_(size - 1)
        with pytest.raises(ValueError, match=f"{name} has {size - 1} bytes of memory; it must have the {size} bytes"):
            functions.flash_attn_func(**inputs, alibi_slopes=slopes)
        storage.resize_(size)
    functions.flash_attn_func(**inputs, alibi_slopes=slopes)


@pytest.mark.skipif(DEVICE.type != "cpu", reason="values of cu_seqlens are checked on the CPU alone")
def test_values_of_cu_seqlens_are_checked_in_every_call(functions: Any) -> None:
    q = randn()[0]
    begins = torch.tensor([0, 8, 20], dtype=torch.int32)
    keys = begins.clone()

    def call() -> None:
        functions.flash_attn_varlen_func(q, q, q, begins, keys, 12, 12)

    call()
    for offsets, name in ((begins, "cu_seqlens_q"), (keys, "cu_seqlens_k")):
        offsets[1] = 21
        with pytest.raises(ValueError, match=f"{name} falls from 21 to 20"):
            call()
        offsets[1] = 8
    call()


def test_derivatives_are_checked_in_every_call(functions: Any) -> None:
    q, slopes = randn(), torch.ones(2, device=DEVICE)
    functions.flash_attn_func(q, q, q, alibi_slopes=slopes)
    with pytest.raises(ValueError, match="alibi_slopes requires a gradient"):
        functions.flash_attn_func(q, q, q, alibi_slopes=slopes.requires_grad_())
    with forward_ad.dual_level(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, when it first makes a dual tensor
        dual = forward_ad.make_dual(q, q)  # type: ignore[no-untyped-call]
        with pytest.raises(ValueError, match="k has a forward-mode tangent"):
            functions.flash_attn_func(q, dual, q)
    with torch.inference_mode():
        inference = randn()
    with pytest.raises(ValueError, match="v is an inference tensor"):
        functions.flash_attn_func(q.clone().requires_grad_(), q, inference)


def test_what_only_equals_an_accepted_option_is_refused(functions: Any) -> None:
    q = randn()
    for accepted, refused in (
        ({"window_size": (1, -1)}, {"window_size": (True, -1)}),
        ({"softmax_scale": 0.5}, {"softmax_scale": np.float32(0.5)}),
        ({"softcap": 1.0}, {"softcap": True}),
        ({"dropout_p": 0}, {"dropout_p": False}),
        ({"deterministic": True}, {"deterministic": 1}),
    ):
        functions.flash_attn_func(q, q, q, **accepted)
        with pytest.raises(TypeError, match=next(iter(refused))):
            functions.flash_attn_func(q, q, q, **refused)


def test_a_mode_sees_the_operators_of_a_known_call(functions: Any) -> None:
    """Memory gauges and tracers are such modes; calls without gradients take a shorter way."""

    class Names(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "fa2verify" in str(function):
                seen.append(str(function).split(".")[1])
            return function(*args, **(kwargs or {}))

    q = randn()
    functions.flash_attn_func(q, q, q)
    seen: list[str] = []
    with Names(), torch.no_grad():
        functions.flash_attn_func(q, q, q)
    assert seen == ["forward"]
    seen.clear()
    with Names():
        results(functions, (q, q, q))
    assert seen == ["forward", "backward"]


def test_a_launch_has_a_structure_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread may be at the same launch, and what is kept must not hold its addresses."""
    structures: list[Any] = []
    module = emulator if DEVICE.type == "cpu" else backend.gpu
    monkeypatch.setattr(module, "launch", lambda variant, blocks, structure, *_: structures.append(structure))
    tensors = [randn(index) for index in range(2)]
    for x in tensors:
        cuda.flash_attn_func(x, x, x)
    found = [CallStructure.from_buffer_copy(bytes(structure)) for structure in structures]
    assert [one.q.data for one in found] == [one.v.data for one in found] == [x.data_ptr() for x in tensors]
    assert len({ctypes.addressof(structure) for structure in structures}) == 2


def test_what_is_kept_is_bounded() -> None:
    kept: Kept[int] = Kept(most=3)
    for number in range(10):
        kept.keep((number,), number)
        assert kept.get((number,)) == number
        assert len(kept) <= 3
    kept.keep(None, 1)
    kept.keep(([],), 1)
    assert kept.get(None) is None
    assert kept.get(([],)) is None
    kept_by = (backend, walk, preprocess, probabilities)
    for cached in (operators._plain_call, *(module._prepare for module in kept_by)):
        assert cached.cache_parameters()["maxsize"] == MOST
