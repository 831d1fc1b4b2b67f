"""The Triton kernels' own functions: what they refuse, where they write, and the device functions one by one."""

import inspect
import math
from collections.abc import Callable
from typing import Any

# isort: on
import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

# isort: off  -- this import decides whether triton interprets, so it comes before triton's own.
import fa2verify.kernels.triton  # noqa: F401
from fa2verify.kernels.dropout import kept as reference_mask
from fa2verify.kernels.interface.call import Call
from fa2verify.kernels.problem import Causal, Dense, Problem, Varlen
from fa2verify.kernels.tensors import make_tensors
from fa2verify.kernels.triton import compile_check
from fa2verify.kernels.triton.arguments import arguments
from fa2verify.kernels.triton.attention import attention
from fa2verify.kernels.triton.backward_dkdv import backward_dkdv
from fa2verify.kernels.triton.backward_dq import backward_dq
from fa2verify.kernels.triton.configuration import BLOCK_DS, PASSES, Configuration, Pass, compiled_configuration
from fa2verify.kernels.triton.dropout import kept
from fa2verify.kernels.triton.forward import forward
from fa2verify.kernels.triton.kernel import TritonKernel
from fa2verify.kernels.triton.launch import prepare
from fa2verify.kernels.triton.mask import key_range, query_range
from fa2verify.kernels.triton.mode import interpreting
from fa2verify.kernels.triton.precision import rounded, storable
from fa2verify.kernels.triton.preprocess import preprocess
from fa2verify.kernels.triton.specialisation import UNSPECIALISED

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
def _ranges(found, length_q, length_k, lower, upper, block_m: tl.constexpr, block_n: tl.constexpr):  # type: ignore[no-untyped-def]
    block = tl.program_id(0)
    for_queries = key_range(block * block_m, length_q, length_k, lower, upper, block_m, block_n)
    for_keys = query_range(block * block_n, length_q, length_k, lower, upper, block_m, block_n)
    for index in tl.static_range(4):
        tl.store(found + block * 8 + index, for_queries[index])
        tl.store(found + block * 8 + 4 + index, for_keys[index])


def _runs(some: Tensor, every: Tensor, length: int, block: int, ragged: bool) -> tuple[set[int], set[int]]:
    """Blocks of which a score is visible, and those of which all are; `ragged` counts a last block that is cut off."""
    starts = range(0, length, block)
    touched = {start for start in starts if some[start : start + block].any()}
    whole = {start for start in starts if every[start : start + block].all() and (ragged or start + block <= length)}
    return touched, whole


def _check_runs(given: list[int], touched: set[int], whole: set[int], block: int) -> None:
    """Every visible block is visited once, and the maskless run holds only blocks that need no mask."""
    begin, full_begin, full_end, end = given
    left = list(range(begin, min(full_begin, end), block))
    middle = list(range(full_begin, full_end, block))
    right = list(range(max(full_begin, full_end), end, block))
    visited = left + middle + right
    assert visited == sorted(set(visited))
    assert touched <= set(visited)
    assert set(middle) == whole
    # Past the last row a band may end in the block that holds it: one block in vain, never two.
    assert len(set(visited) - touched) <= 1


@pytest.mark.parametrize(("block_m", "block_n"), [(4, 2), (2, 4)])
@pytest.mark.parametrize(("length_q", "length_k"), [(9, 9), (3, 10), (10, 3), (1, 7)])
@pytest.mark.parametrize("window", [(None, None), (None, 0), (0, None), (2, 1), (0, 0), (5, 3), (30, 30)])
def test_runs_hold_what_is_visible_and_nothing_else(
    window: tuple[int | None, int | None], length_q: int, length_k: int, block_m: int, block_n: int
) -> None:
    left, right = window
    for diagonal in (0, length_k - length_q):
        lower = None if left is None else diagonal - left
        upper = None if right is None else diagonal + right
        found = torch.full((10, 8), -1, dtype=torch.int32, device=DEVICE)
        _ranges[(10,)](found, length_q, length_k, lower, upper, block_m=block_m, block_n=block_n)
        seen = torch.ones(length_q, length_k, dtype=torch.bool)
        seen = seen if upper is None else seen.tril(upper)
        seen = seen if lower is None else seen.triu(lower)
        for block, row in enumerate(range(0, length_q, block_m)):
            rows = seen[row : row + block_m]
            _check_runs(found[block, :4].tolist(), *_runs(rows.any(0), rows.all(0), length_k, block_n, False), block_n)
        for block, column in enumerate(range(0, length_k, block_n)):
            columns = seen[:, column : column + block_n]
            ragged = lower is None
            _check_runs(
                found[block, 4:].tolist(),
                *_runs(columns.any(1), columns.all(1), length_q, block_m, ragged),
                block_m,
            )


# A 1 would become a constant of the compiled kernel, and `kept` takes values.
@triton.jit(do_not_specialize=["sequence", "head"])  # type: ignore[untyped-decorator]
def _keep(found, dropout_seed, threshold, sequence, head, row, column, block_m: tl.constexpr, block_n: tl.constexpr):  # type: ignore[no-untyped-def]
    mask = kept(tl.load(dropout_seed), threshold, sequence, head, row, column, block_m, block_n)
    at = tl.arange(0, block_m)[:, None] * block_n + tl.arange(0, block_n)[None, :]
    tl.store(found + at, mask.to(tl.int8))


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize(("seed", "dropout"), [(0, 0.5), (2**63 - 1, 0.17), (3 * 2**32 + 5, 0.9)])
def test_the_dropout_mask_is_the_reference_mask(seed: int, dropout: float) -> None:
    problem = Problem(lengths=Dense(batch=3, seqlen_q=40, seqlen_k=64), heads_q=2, dropout=dropout, dropout_seed=seed)
    want = reference_mask(problem, 2, 40, 64, DEVICE)[1, 8:40, 16:64]
    given = torch.tensor([seed], device=DEVICE)
    call = Call(batch=3, seqlen_q=40, seqlen_k=64, heads_q=2, heads_kv=1, head_dim=16, causal=None, scale=1.0,
                dropout=dropout, dropout_seed=given)  # fmt: skip
    threshold = arguments(call, ())["dropout_threshold"]
    found = torch.empty(32, 16, dtype=torch.int8, device=DEVICE)
    for column in (16, 32, 48):
        _keep[(1,)](found, given, threshold, 2, 1, 8, column, block_m=32, block_n=16)
        assert torch.equal(found.bool(), want[:, column - 16 : column])


def test_gradients_through_lse() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, n, 2, 16, generator=generator).half().to(DEVICE) for n in (20, 40, 40))
    weight = torch.randn(1, 2, 20, generator=generator).to(DEVICE)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    _, lse, _ = attention(q, k, v)
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
    call = Call(batch=2, seqlen_q=5, seqlen_k=37, heads_q=2, heads_kv=1, head_dim=20, causal="bottom_right", scale=0.2)

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
    packing: dict[str, Any] = {"cu_seqlens_q": offsets(0, 4, 5), "cu_seqlens_k": offsets(0, 5, 8)}
    out, lse, _ = attention(q, k, v, **packing, max_seqlen_q=4, max_seqlen_k=5, causal="top_left")
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
        out, _, _ = attention(q, q, q)
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
    prepare(recorder, (3, 16, 8300), Configuration(64, 64, 4, 1), {})({"q": half(1)}, DEVICE, torch.float16)
    assert recorder.grid == (3 * 16 * 8300,)


class _Compiling:
    """A kernel that says which compiled kernel ran, and on what."""

    arg_names = ("q", "blocks", "scale", "alibi_slopes", "block_m")

    def __init__(self) -> None:
        self.ran: list[object] = []

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., Any]:
        def compile_and_run(**given: object) -> Any:
            self.ran.append(given)
            name = f"compiled for {given['q']}"
            return {(grid[0], 1, 1): lambda *arguments: self.ran.append((name, arguments))}

        return compile_and_run


def test_a_compiled_kernel_is_found_once_for_a_dtype_and_then_given_every_argument_in_order() -> None:
    kernel = _Compiling()
    launch = prepare(kernel, (3, 1, 1), Configuration(64, 32, 4, 1), {"scale": 0.5})
    for tensor, dtype in (("a", torch.float16), ("b", torch.float16), ("c", torch.bfloat16), ("d", torch.float16)):
        launch({"q": tensor}, DEVICE, dtype)
    first = {"q": "a", "blocks": 3, "scale": 0.5, "alibi_slopes": None, "block_m": 64, "num_warps": 4, "num_stages": 1}
    assert kernel.ran == [
        first,
        ("compiled for a", ("b", 3, 0.5, None, 64)),
        first | {"q": "c"},
        ("compiled for a", ("d", 3, 0.5, None, 64)),
    ]


@pytest.mark.parametrize("name", PASSES)
def test_nothing_but_fp32_numbers_and_dtypes_is_left_to_specialise_by(name: Pass) -> None:
    """What a kept compiled kernel relies on."""
    parameters = inspect.signature(compile_check._kernels()[name].fn).parameters
    at_run_time = {name for name, parameter in parameters.items() if parameter.annotation is not tl.constexpr}
    assert at_run_time - set(UNSPECIALISED) <= {"scale", "scale_log2", "cap_scale", "dropout_rescale"}


def test_a_grid_beyond_cuda_is_refused() -> None:
    with pytest.raises(ValueError, match="more than the 2,147,483,647 programs"):
        prepare(_Recorder(), (2**16, 16, 2**12), Configuration(64, 64, 4, 1), {})


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
    choices: tuple[Causal | None, ...] = (None, "top_left")
    for causal in choices:
        results = []
        for *inputs, dout in (near, far):
            leaves = [x.detach().requires_grad_() for x in inputs]
            out, lse, _ = attention(*leaves, causal=causal)
            results.append((out, lse, *torch.autograd.grad(out, leaves, dout)))
        assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_only_wide_heads_are_unsupported() -> None:
    kernel = TritonKernel()
    everything = Problem(causal="top_left", window=(1, 0), softcap=1.0, alibi="per_head", dropout=0.1, head_dim=256)
    assert kernel.unsupported(everything) == ()
    (sentence,) = kernel.unsupported(Problem(head_dim=257))
    assert "head_dim 257 is above 256" in sentence


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
