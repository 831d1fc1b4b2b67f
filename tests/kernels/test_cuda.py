"""Our CUDA kernels, on the emulator, within the suite's error bounds; on a GPU where there is one."""

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from fa2verify.kernels.cuda import configuration, emulator, kernel
from fa2verify.kernels.cuda.attention import attention
from fa2verify.kernels.cuda.backend import CudaBackend
from fa2verify.kernels.cuda.call import CallStructure, make_structure
from fa2verify.kernels.cuda.configuration import (
    MAX_SEQLEN,
    PADDED_HEAD_DIMS,
    SHARED_KB,
    Feature,
    Name,
    Variant,
    one_pass_tiles,
    variant,
    variants,
)
from fa2verify.kernels.cuda.host_compiler import library
from fa2verify.kernels.interface.call import Call
from fa2verify.kernels.interface.signature import placed
from fa2verify.kernels.kernel import Outputs
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.reference import steps
from fa2verify.kernels.tensors import make_tensors
from fa2verify.verify.judgement.judge import judge
from fa2verify.verify.judgement.truth import Truth

CUDA = torch.cuda.is_available() and not kernel.CudaKernel().unavailable(torch.device("cuda"))
DEVICES = ("cpu", "cuda") if CUDA else ("cpu",)
OUTPUTS = ("out", "lse", "dq", "dk", "dv")


def problem(seqlen_q: int = 70, seqlen_k: int = 70, batch: int = 1, **fields: Any) -> Problem:
    lengths = Dense(batch=batch, seqlen_q=seqlen_q, seqlen_k=seqlen_k)
    defaults: dict[str, Any] = {"lengths": lengths, "head_dim": 32, "direction": "forward_backward"}
    return Problem(**(defaults | fields))


def call(seqlen_q: int = 1, seqlen_k: int = 1, **fields: Any) -> Call:
    sizes: dict[str, Any] = {"batch": 1, "heads_q": 1, "heads_kv": 1, "head_dim": 8, "causal": None, "scale": 1.0}
    return Call(seqlen_q=seqlen_q, seqlen_k=seqlen_k, **(sizes | fields))


def compute(p: Problem, device: str) -> Outputs:
    chosen = kernel.EmulatedCudaKernel() if device == "cpu" else kernel.CudaKernel()
    assert chosen.unavailable(torch.device(device)) == ()
    assert chosen.unsupported(p) == ()
    return chosen(p, make_tensors(p, device))


def check_both(p: Problem) -> None:
    """The backward in one pass and in two."""
    for deterministic in (False, True):
        check(replace(p, deterministic=deterministic))


def check(p: Problem) -> None:
    for device in DEVICES:
        tensors = make_tensors(p, device)
        chosen = kernel.EmulatedCudaKernel() if device == "cpu" else kernel.CudaKernel()
        judgement = judge(p, chosen, compute(p, device), Truth.of(p, tensors))
        assert judgement.passed, f"{device}: {judgement.rule}: {judgement.message} for {p.to_json()}"


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("head_dim", [1, 8, 32, 37, 64, 80, 100, 128, 136, 256])
def test_every_width(head_dim: int, dtype: str) -> None:
    check_both(problem(90, 140, head_dim=head_dim, dtype=dtype, causal="bottom_right"))


# A group of heads makes more steps of a block than tiles of a head.
@pytest.mark.parametrize(
    ("head_dim", "shared_kb"),
    [(d, kb) for d, kb in product(PADDED_HEAD_DIMS, SHARED_KB) if one_pass_tiles(d, kb) != one_pass_tiles(d, 227)],
)
def test_tiles_of_gpus_with_less_shared_memory(head_dim: int, shared_kb: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "SHARED_KB", shared_kb)
    p = problem(150, 140, head_dim=head_dim, heads_q=2, causal="bottom_right")
    assert ("backward" in launched(p, monkeypatch)) == (one_pass_tiles(head_dim, shared_kb) is not None)
    check(p)


def test_tiles_beside_terms_of_a_score(monkeypatch: pytest.MonkeyPatch) -> None:
    """The emulator decides on features at run time, in tiles of plain scores but for this test."""
    beside = variant("forward", "float16", 128, Feature.DROPOUT).tiles
    plain = [variant("forward", "float16", 128, features).tiles for features in (Feature(0), Feature.NARROW)]
    assert beside not in plain
    assert plain[0] == plain[1]
    monkeypatch.setitem(configuration._FORWARD, 128, {SHARED_KB[0]: beside})
    p = problem(151, 141, head_dim=128, dropout=0.3, dropout_seed=7, softcap=5.0, causal="bottom_right")
    launched: list[Variant] = []
    run = emulator.launch
    monkeypatch.setattr(emulator, "launch", lambda chosen, *others: (launched.append(chosen), run(chosen, *others)))
    check(p)
    assert launched[0].tiles == beside


def test_atomics_of_gpus_that_add_one_float_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    emulator._function.cache_clear()
    monkeypatch.setattr(emulator, "library", lambda source: library(f"#define FA2_SCALAR_ATOMICS\n{source}"))
    try:
        check(problem(150, 140, causal="bottom_right"))
    finally:
        emulator._function.cache_clear()


def launched(p: Problem, monkeypatch: pytest.MonkeyPatch) -> list[Name]:
    """The kernels that a problem's forward and backward launch on the emulator, in order."""
    names: list[Name] = []
    with monkeypatch.context() as patch:
        patch.setattr(emulator, "launch", lambda chosen, *_: names.append(chosen.name))
        kernel.EmulatedCudaKernel()(p, make_tensors(p))
    return names


def test_one_pass_unless_bits_must_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    assert launched(problem(), monkeypatch) == ["forward", "preprocess", "backward", "postprocess"]
    two = ["forward", "preprocess", "backward_dkdv", "backward_dq"]
    assert launched(problem(deterministic=True), monkeypatch) == two


# Sequences share a tile of 128 rows in the packed tensor, and have tiles of 16 of their own in the sum.
@pytest.mark.parametrize("lengths", [(1, 1, 1), (16, 0, 32), (15, 17, 31, 33, 0), (130, 1)])
def test_the_sum_of_dq_has_room_for_every_sequence(lengths: tuple[int, ...]) -> None:
    check(problem(lengths=Varlen(seqlens_q=lengths, seqlens_k=(20,) * len(lengths)), heads_q=2))


@pytest.mark.parametrize("seqlens", [(1, 1), (16, 64), (64, 16), (128, 128), (129, 65), (127, 193), (300, 20)])
@pytest.mark.parametrize("causal", [None, "top_left", "bottom_right"])
def test_every_edge_of_a_tile(seqlens: tuple[int, int], causal: str | None) -> None:
    check(problem(*seqlens, causal=causal))


@pytest.mark.parametrize("window", [(0, 0), (3, 70), (-1, 5), (65, -1), (0, 2**31 - 1)])
@pytest.mark.parametrize("causal", [None, "bottom_right"])
def test_windows(window: tuple[int, int], causal: str | None) -> None:
    check_both(problem(150, 130, window=window, causal=causal))


@pytest.mark.parametrize(
    "fields",
    [
        {"softcap": 2.0},
        {"alibi": "per_head", "heads_q": 2, "heads_kv": 2},
        {"alibi": "per_batch_head", "heads_q": 2, "causal": "bottom_right"},
        {"dropout": 0.5, "dropout_seed": 2**40 + 7},
        {"dropout": 0.17, "heads_q": 4, "heads_kv": 2, "batch": 2},
        {"scale": -0.5},
        {"scale": 0.0},
        {"scale": 1e-41},
        {"scale": 2.0, "softcap": 30.0, "alibi": "per_head", "dropout": 0.1, "window": (40, 3)},
    ],
)
def test_what_changes_scores_and_weights(fields: dict[str, Any]) -> None:
    check_both(problem(**({"seqlen_q": 100, "seqlen_k": 130} | fields)))


@pytest.mark.parametrize("layout", ["plain", "qkv_packed", "kv_packed", "transposed", "sliced", "offset"])
@pytest.mark.parametrize("head_dim", [24, 30])
@pytest.mark.parametrize("varlen", [False, True])
def test_layouts(layout: str, head_dim: int, varlen: bool) -> None:
    heads = {"heads_q": 2, "heads_kv": 2}
    p = problem(50, 50, batch=2, layout=layout, head_dim=head_dim, **heads)
    check(replace(p, lengths=Varlen(seqlens_q=(7, 0, 70), seqlens_k=(7, 0, 70))) if varlen else p)


def test_rows_past_the_last_sequence() -> None:
    lengths = Varlen(seqlens_q=(7, 0, 70), seqlens_k=(40, 2, 0))
    check(problem(lengths=lengths, heads_q=2, head_dim=24, causal="bottom_right", layout="tail"))


@pytest.mark.parametrize("causal", [None, "top_left", "bottom_right"])
def test_empty_sequences_anywhere(causal: str | None) -> None:
    lengths = Varlen(seqlens_q=(0, 5, 0, 130, 3, 0), seqlens_k=(4, 0, 0, 90, 66, 1))
    check_both(problem(lengths=lengths, causal=causal, heads_q=4, heads_kv=2))
    check(problem(0, 5, causal=causal))
    check(problem(5, 0, causal=causal))


def test_the_backward_has_the_same_bits_in_every_schedule() -> None:
    p = problem(200, 200, heads_q=4, heads_kv=2, causal="bottom_right", dropout=0.1, deterministic=True)
    for device in DEVICES:
        first, *others = [compute(p, device) for _ in range(3)]
        for other in others:
            for name in OUTPUTS:
                assert torch.equal(getattr(first, name), getattr(other, name)), name


def test_gradients_flow_through_lse() -> None:
    p = problem(70, 90, causal="bottom_right", dtype="float16")
    tensors = make_tensors(p)
    inputs = [tensor.requires_grad_() for tensor in (tensors.q, tensors.k, tensors.v)]
    _, lse, _ = attention(*inputs, causal=p.causal)
    dlse = torch.randn(lse.shape, generator=torch.Generator().manual_seed(0))
    found = torch.autograd.grad(lse, inputs, dlse)
    (step,) = steps(p, tensors)
    ds = step.p * dlse.double()[..., None]
    expected = {"dq": p.softmax_scale * ds @ step.k, "dk": p.softmax_scale * ds.mT @ step.q}
    magnitude = {"dq": p.softmax_scale * ds.abs() @ step.k.abs(), "dk": p.softmax_scale * ds.mT.abs() @ step.q.abs()}
    for name, gradient in zip(("dq", "dk"), found, strict=False):
        # dS and the result are rounded to fp16 (2^-11 each); the scores' fp32 error is far below half of that again.
        bound = 3 * 2.0**-11 * magnitude[name] + 2.0**-24
        assert ((gradient.transpose(1, 2) - expected[name]).abs() <= bound).all(), name
    assert not found[2].any()


def test_rows_past_the_last_sequence_are_cleared() -> None:
    begins_q, begins_k = (torch.tensor([0, length], dtype=torch.int32) for length in (3, 4))
    q, k, v = (torch.randn(rows, 1, 32, dtype=torch.float16, requires_grad=True) for rows in (5, 6, 6))
    out, lse, _ = attention(q, k, v, cu_seqlens_q=begins_q, cu_seqlens_k=begins_k, max_seqlen_q=3, max_seqlen_k=4)
    out.sum().backward()
    assert not out[3:].any()
    assert (lse[:, 3:] == float("-inf")).all()
    for tensor, end in ((q, 3), (k, 4), (v, 4)):
        assert tensor.grad is not None
        assert tensor.grad[:end].isfinite().all()
        assert not tensor.grad[end:].any()


def test_an_offset_past_the_tensor_is_reported() -> None:
    # Not through the interface, which looks at offsets on the CPU.
    asked = call(
        5,
        9,
        head_dim=32,
        cu_seqlens_q=torch.tensor([0, 5], dtype=torch.int32),
        cu_seqlens_k=torch.tensor([0, 9], dtype=torch.int32),
    )
    q, k = torch.randn(5, 1, 32, dtype=torch.float16), torch.randn(8, 1, 32, dtype=torch.float16)
    with pytest.raises(
        emulator.EmulatorError,
        match=r"forward: block 0: tile\.cuh:\d+: copy of 16 bytes at byte 5\d\d of k, which has 512",
    ):
        CudaBackend().forward(asked, q, k, k, torch.empty_like(q), torch.empty(1, 5))


def test_what_no_kernel_writes_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator, "launch", lambda *_: None)
    p = problem(lengths=Varlen(seqlens_q=(3, 2), seqlens_k=(1, 4)))
    found = kernel.EmulatedCudaKernel()(p, make_tensors(p))
    for name in OUTPUTS:
        assert getattr(found, name).isnan().all(), name


def test_strides_pass_32_bits() -> None:
    strides = (2**33, 2**32, 2**31)
    distant = torch.empty(0, dtype=torch.float16).as_strided((0, 1, 1, 8), (*strides, 1))
    view = make_structure(call(), placed({"q": distant})[0]).q
    assert (view.sequence_stride, view.row_stride, view.head_stride) == strides


def tensor(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.zeros(*shape, dtype=dtype)


def test_a_length_that_32_bits_cannot_index_is_refused() -> None:
    short, long = tensor(1, 1, 1, 8), tensor(1, 1, 1, 8).expand(1, MAX_SEQLEN + 1, 1, 8)
    with pytest.raises(ValueError, match=f"k has a length of {MAX_SEQLEN + 1}; the CUDA kernels take at most"):
        attention(short, long, long)


def test_only_what_a_call_asks_for_is_compiled() -> None:
    def features(head_dim: int = 8, **fields: Any) -> Feature:
        asked = call(head_dim=head_dim, **fields)
        tensors = {"q": tensor(1, 1, 1, head_dim)} | asked.tensors
        return Feature(make_structure(asked, placed(tensors)[0]).features)

    assert features() == Feature(0)
    assert features(head_dim=4) == Feature.NARROW
    assert features(softcap=1.0, scale=-1.0) == Feature.SOFTCAP
    assert features(scale=-1.0) == Feature.PRESCALE
    assert features(dropout=0.5) == Feature.DROPOUT
    assert features(alibi_slopes=torch.ones(1)) == Feature.ALIBI


def test_a_scale_far_above_the_softcap_stays_finite() -> None:
    for scale in (1e38, -1e38):
        found = make_structure(call(scale=scale, softcap=1e-30), ()).scale_over_cap
        assert found == scale / abs(scale) * 2.0**125


@pytest.mark.parametrize("shared_kb", SHARED_KB)
def test_every_variant_fits_its_shared_memory(shared_kb: int) -> None:
    for head_dim in PADDED_HEAD_DIMS:
        for one in variants("float16", head_dim, Feature(0), shared_kb):
            assert one.shared_bytes <= shared_kb * 1024


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no forward of head_dim 64 fits 64 KB of shared memory"):
        variant("forward", "float16", 64, Feature(0), 64)
    with pytest.raises(ValueError, match="no backward of head_dim 256 fits 99 KB of shared memory"):
        variant("backward", "float16", 256, Feature(0), 99)


def test_an_empty_call_launches_nothing() -> None:
    emulator.launch(variant("forward", "float16", 32, Feature.ANY), 0, CallStructure(), {})
