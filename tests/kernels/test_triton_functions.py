"""The Triton kernels' own functions: what they refuse, where they write, and the device functions one by one."""

import math
from collections.abc import Callable
from typing import Any

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401

# isort: on
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.tensors import make_tensors
from fa2verify.kernels.triton.attention import attention, varlen_attention
from fa2verify.kernels.triton.backward import backward_dkdv, backward_dq
from fa2verify.kernels.triton.call import Call
from fa2verify.kernels.triton.configuration import BLOCK_DS, PASSES, Configuration, compiled_configuration
from fa2verify.kernels.triton.forward import forward
from fa2verify.kernels.triton.kernel import TritonKernel
from fa2verify.kernels.triton.launch import launch
from fa2verify.kernels.triton.mask import key_range, query_range
from fa2verify.kernels.triton.mode import interpreting
from fa2verify.kernels.triton.precision import rounded, storable
from fa2verify.kernels.triton.preprocess import preprocess

DEVICE = torch.device("cpu" if interpreting() else "cuda")


def half(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.float16, device=DEVICE)


def offsets(*begins: int) -> Tensor:
    return torch.tensor(begins, dtype=torch.int32, device=DEVICE)


@triton.jit  # type: ignore[untyped-decorator]
def _round(x, stored, operand, block: tl.constexpr):  # type: ignore[no-untyped-def]
    index = tl.program_id(0) * block + tl.arange(0, block)
    values = tl.load(x + index)
    tl.store(stored + index, storable(values, stored.dtype.element_ty))
    tl.store(operand + index, rounded(values, stored.dtype.element_ty).to(tl.float32))


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_rounding_is_to_nearest_even(dtype: torch.dtype) -> None:
    # Every upper half of an fp32 number, exact, just below a tie of bf16, on it and just above: all of bf16's cases,
    # and for fp16 ties of its own, subnormals and overflow.
    upper = torch.arange(2**16, dtype=torch.int64)[:, None] << 16
    x = (upper + torch.tensor([0, 0x7FFF, 0x8000, 0x8001])).flatten().to(torch.int32).view(torch.float32).to(DEVICE)
    stored, operand = torch.empty(x.shape, dtype=dtype, device=DEVICE), torch.empty_like(x)
    _round[(x.numel() // 16384,)](x, stored, operand, block=16384)
    torch.testing.assert_close(stored, x.to(dtype), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(operand, x.to(dtype).float(), rtol=0, atol=0, equal_nan=True)


@triton.jit  # type: ignore[untyped-decorator]
def _ranges(found, length_q, length_k, diagonal, block_m: tl.constexpr, block_n: tl.constexpr):  # type: ignore[no-untyped-def]
    block = tl.program_id(0)
    full, end = key_range(block * block_m, length_q, length_k, diagonal, True, block_m, block_n)
    tl.store(found + block * 4, full)
    tl.store(found + block * 4 + 1, end)
    begin, full = query_range(block * block_n, length_k, diagonal, True, block_m, block_n)
    tl.store(found + block * 4 + 2, begin)
    tl.store(found + block * 4 + 3, full)


@pytest.mark.parametrize(("block_m", "block_n"), [(4, 2), (2, 4)])
@pytest.mark.parametrize(("length_q", "length_k"), [(9, 9), (3, 10), (10, 3), (1, 7)])
def test_ranges_hold_what_is_visible_and_nothing_else(length_q: int, length_k: int, block_m: int, block_n: int) -> None:
    for diagonal in (0, length_k - length_q):
        found = torch.full((10, 4), -1, dtype=torch.int32, device=DEVICE)
        _ranges[(10,)](found, length_q, length_k, diagonal, block_m=block_m, block_n=block_n)
        seen = torch.ones(length_q, length_k, dtype=torch.bool).tril(diagonal)
        for block, row in enumerate(range(0, length_q, block_m)):
            full, end, _, _ = found[block].tolist()
            rows = seen[row : row + block_m]
            assert end == max([0, *(rows.any(0).nonzero().flatten() + 1).tolist()])
            assert full == int(rows.all(0).sum()) // block_n * block_n
        for block, column in enumerate(range(0, length_k, block_n)):
            _, _, begin, full = found[block].tolist()
            columns = seen[:, column : column + block_n]
            by_some, by_all = columns.any(1), columns.all(1)
            first = int(by_some.nonzero()[0]) if by_some.any() else length_q
            assert min(begin, length_q) == min(first // block_m * block_m, length_q) or not by_some.any()
            assert min(full, length_q) == min(-(-(length_q - int(by_all.sum())) // block_m) * block_m, length_q)
            assert not by_some[:begin].any()


def test_gradients_through_lse() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, 2, 16, generator=generator).half().to(DEVICE) for n in (20, 40, 40))
    weight = torch.randn(1, 2, 20, generator=generator).to(DEVICE)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    _, lse = attention(q, k, v)
    got = torch.autograd.grad((lse * weight).sum(), inputs)
    exact = [x.detach().double().requires_grad_() for x in inputs]
    scores = torch.einsum("bihd,bjhd->bhij", exact[0], exact[1]) / math.sqrt(16)
    want = torch.autograd.grad((torch.logsumexp(scores, -1) * weight).sum(), exact[:2])
    # dS = P * weight is rounded once to fp16 before it is summed, and the sum once: u each, and half of u for fp32.
    p = scores.softmax(-1)
    magnitude = (p * weight[..., None].abs()).detach() / math.sqrt(16)
    sums = (
        torch.einsum("bhij,bjhd->bihd", magnitude, exact[1].abs()),
        torch.einsum("bhij,bihd->bjhd", magnitude, exact[0].abs()),
    )
    for gradient, expected, bound in zip(got, want, sums, strict=False):
        assert ((gradient - expected).abs() <= 2.5 * 2.0**-11 * bound + 2.0**-24).all()
    assert (got[2] == 0).all()


def test_outputs_of_any_strides_are_written_and_nothing_beside_them() -> None:
    """Results with gaps of NaN between rows: every gap survives, and the values are those of plain results."""
    problem = Problem(lengths=Dense(batch=2, seqlen_q=5, seqlen_k=37), heads_q=2, heads_kv=1, head_dim=20)
    t = make_tensors(problem, DEVICE)
    call = Call(2, 5, 37, 2, 1, 20, causal="bottom_right", scale=0.2)

    def gapped(like: Tensor) -> tuple[Tensor, Tensor]:
        batch, length, heads, dim = like.shape
        store = like.new_full((batch + 1, heads, length + 3, dim + 4), float("nan"))
        return store, store[:batch, :, :length, :dim].transpose(1, 2)

    def run(make: Callable[[Tensor], Tensor]) -> list[Tensor]:
        out, dq, dk, dv = make(t.q), make(t.q), make(t.k), make(t.v)
        lse, delta, lse_log2 = (torch.empty(2, 2, 5, device=DEVICE) for _ in range(3))
        forward(call, t.q, t.k, t.v, out, lse)
        preprocess(call, out, t.dout, lse, None, delta, lse_log2)
        backward_dq(call, t.q, t.k, t.v, t.dout, lse_log2, delta, dq)
        backward_dkdv(call, t.q, t.k, t.v, t.dout, lse_log2, delta, dk, dv)
        return [out, dq, dk, dv]

    stores: list[Tensor] = []

    def remember(like: Tensor) -> Tensor:
        store, view = gapped(like)
        stores.append(store)
        return view

    for plain, strided, store in zip(run(torch.zeros_like), run(remember), stores, strict=True):
        assert torch.equal(plain, strided)
        assert int(store.isfinite().sum()) == plain.numel()


def test_rows_past_the_last_sequence_are_cleared() -> None:
    problem = Problem(lengths=Varlen(seqlens_q=(4, 3), seqlens_k=(5, 6)), head_dim=16, causal="top_left")
    t = make_tensors(problem, DEVICE)
    inputs = q, k, v = t.q.requires_grad_(), t.k.requires_grad_(), t.v.requires_grad_()
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)  # uninitialised memory is NaN
    out, lse = varlen_attention(q, k, v, offsets(0, 4, 5), offsets(0, 5, 8), 4, 5, causal="top_left")
    dq, dk, dv = torch.autograd.grad(out, inputs, t.dout)
    torch.use_deterministic_algorithms(before)
    assert (out[5:] == 0).all()
    assert (lse[:, 5:] == float("-inf")).all()
    assert all((x == 0).all() for x in (dq[5:], dk[8:], dv[8:]))
    assert all(x.isfinite().all() for x in (out, dq, dk, dv))


def test_a_gradient_that_is_not_contiguous_in_its_last_dimension() -> None:
    q = half(1, 4, 1, 16).normal_().requires_grad_()
    gradients = []
    for dout in (half(1, 4, 1, 1).add(2.0).expand(1, 4, 1, 16), half(1, 4, 1, 16).add(2.0)):
        out, _ = attention(q, q, q)
        gradients.append(torch.autograd.grad(out, q, dout)[0])
    assert torch.equal(*gradients)


class _Recorder:
    arg_names = ("blocks",)
    grid: Any = None

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        self.grid = grid
        return lambda **_: None


def test_the_grid_has_one_dimension_so_that_batch_times_heads_may_pass_65535() -> None:
    recorder = _Recorder()
    launch(recorder, (3, 16, 8300), Configuration(64, 64, 4, 1), {"q": half(1)}, {})
    assert recorder.grid == (3 * 16 * 8300,)


def test_a_grid_beyond_cuda_is_refused() -> None:
    with pytest.raises(ValueError, match="more than the 2,147,483,647 programs"):
        launch(_Recorder(), (2**16, 16, 2**12), Configuration(64, 64, 4, 1), {"q": half(1)}, {})


@pytest.mark.parametrize("dimension", [0, 1, 2])
def test_offsets_past_2_to_the_31(dimension: int) -> None:
    """A stride of 2^30 elements, in address space alone: memory that nobody touches is never committed."""
    size = (3, 3, 3, 16)
    strides = [144, 48, 16, 1]
    strides[dimension] = 2**30
    storage = torch.empty(2 * 2**30 + 4 * 27 * 16, dtype=torch.float16, device=DEVICE)
    far = [storage[tensor * 27 * 16 :].as_strided(size, strides) for tensor in range(4)]
    near = [half(*size).normal_() for _ in range(4)]
    for there, here in zip(far, near, strict=True):
        there.copy_(here)
    for causal in (None, "top_left"):
        results = []
        for *inputs, dout in (near, far):
            leaves = [x.detach().requires_grad_() for x in inputs]
            out, lse = attention(*leaves, causal=causal)
            results.append((out, lse, *torch.autograd.grad(out, leaves, dout)))
        assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"q": half(2, 3, 2, 300), "k": half(2, 3, 1, 300), "v": half(2, 3, 1, 300)},
            "head_dim is 300; it must be 1 to 256",
        ),
        ({"q": half(2, 3, 16)}, r"q must be \(batch, seqlen, heads, head_dim\), not of shape \(2, 3, 16\)"),
        ({"q": half(2, 3, 2, 16).float()}, "q must be float16 or bfloat16, not torch.float32"),
        ({"k": half(2, 3, 1, 16).bfloat16()}, "k is torch.bfloat16 on .* and q torch.float16"),
        ({"k": half(2, 3, 1, 32)[..., ::2]}, "k must be contiguous in its last dimension, not of strides"),
        ({"v": half(2, 4, 1, 16)}, r"k is \(2, 3, 1, 16\) and v \(2, 4, 1, 16\); they must be equal"),
        ({"q": half(2, 3, 2, 8)}, "q has head_dim 8 and k 16; they must be equal"),
        ({"k": half(2, 3, 4, 16), "v": half(2, 3, 4, 16)}, "q has 2 heads and k 4; q's must be a multiple of k's"),
        ({"q": half(1, 3, 2, 16)}, "q has batch 1 and k 2; they must be equal"),
        ({"causal": "bottom_left"}, "causal is 'bottom_left'; it must be None, 'top_left' or 'bottom_right'"),
        ({"scale": math.inf}, "scale is inf; it must be finite"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"q": half(2, 3, 2, 16), "k": half(2, 3, 1, 16), "v": half(2, 3, 1, 16)}
    with pytest.raises(ValueError, match=message):
        attention(**(good | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cu_seqlens_q": offsets(0, 3).long()}, "cu_seqlens_q must be contiguous int32 of shape .* not torch.int64"),
        ({"cu_seqlens_k": offsets(0, 1, 3)}, "cu_seqlens_q has 2 entries and cu_seqlens_k 3; both must have"),
        ({"max_seqlen_k": -1}, "max_seqlen_k is -1; a length is at least 0"),
    ],
)
def test_bad_packed_arguments_are_named(change: dict[str, Any], message: str) -> None:
    good: dict[str, Any] = {"q": half(3, 1, 16), "k": half(3, 1, 16), "v": half(3, 1, 16)}
    good |= {"cu_seqlens_q": offsets(0, 3), "cu_seqlens_k": offsets(0, 3), "max_seqlen_q": 3, "max_seqlen_k": 3}
    with pytest.raises(ValueError, match=message):
        varlen_attention(**(good | change))


def test_what_is_unsupported_is_said() -> None:
    kernel = TritonKernel()
    assert kernel.unsupported(Problem(causal="top_left", direction="forward_backward", deterministic=True)) == ()
    for field in ({"window": (1, 0)}, {"softcap": 1.0}, {"alibi": "per_head"}, {"dropout": 0.1}, {"head_dim": 257}):
        assert len(kernel.unsupported(Problem(**field))) == 1


@pytest.mark.skipif(not interpreting(), reason="only an interpreting process refuses cuda")
def test_an_interpreting_process_runs_on_the_cpu_alone() -> None:
    kernel = TritonKernel()
    assert kernel.unavailable(torch.device("cpu")) == ()
    assert "unset TRITON_INTERPRET" in kernel.unavailable(torch.device("cuda"))[0]
    assert "not on 'meta'" in kernel.unavailable(torch.device("meta"))[0]


@pytest.mark.skipif(not interpreting(), reason="only an interpreting process has an interpreter to refuse")
def test_an_interpreter_that_cannot_run_loops_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("triton.__version__", "3.6.0")
    monkeypatch.setattr("numpy.__version__", "2.4.1")
    (sentence,) = TritonKernel().unavailable(torch.device("cpu"))
    assert "install triton 3.7 or later, or numpy before 2.4" in sentence
    monkeypatch.setattr("numpy.__version__", "2.3.5")
    assert TritonKernel().unavailable(torch.device("cpu")) == ()


def test_every_gpu_with_enough_shared_memory_has_a_configuration() -> None:
    for name in PASSES:
        for block_d in BLOCK_DS:
            assert compiled_configuration(name, block_d, 228) == compiled_configuration(name, block_d, 227)
            assert compiled_configuration(name, block_d, 100) == compiled_configuration(name, block_d, 99)
    with pytest.raises(ValueError, match="64 KB of shared memory; the kernels need at least 99"):
        compiled_configuration("forward", 64, 64)
