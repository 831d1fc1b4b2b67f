"""The peers that need a GPU: what they say without one, their limits, and how they say a problem to their library."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention.bias import CausalBias, CausalVariant

from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.peers import varlen
from fa2verify.kernels.peers.flash_attn import FlashAttnKernel
from fa2verify.kernels.peers.flex_cuda import FlexCudaKernel
from fa2verify.kernels.peers.sdpa import SdpaKernel
from fa2verify.kernels.peers.sdpa_cudnn import SdpaCudnnKernel
from fa2verify.kernels.peers.sdpa_efficient import SdpaEfficientKernel
from fa2verify.kernels.peers.sdpa_flash import SdpaFlashKernel
from fa2verify.kernels.peers.varlen import VarlenKernel
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.reference import reference
from fa2verify.kernels.tensors import make_tensors

CUDA_ONLY = (
    SdpaFlashKernel(),
    SdpaEfficientKernel(),
    SdpaCudnnKernel(),
    FlexCudaKernel(),
    VarlenKernel(),
    FlashAttnKernel(),
)
CUDA = torch.device("cuda")

by_name = pytest.mark.parametrize("kernel", CUDA_ONLY, ids=lambda kernel: kernel.name)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, int], None]:
    """A CUDA device of some compute capability, as far as a kernel's sentences can tell."""

    def pretend(major: int, minor: int) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr("torch.cuda.get_device_capability", lambda device=None: (major, minor))
        monkeypatch.setattr("torch.version.hip", None)

    return pretend


@by_name
def test_not_on_a_cpu(kernel: Kernel) -> None:
    assert kernel.unavailable(torch.device("cpu")) == ("It runs on CUDA devices alone, not on 'cpu'.",)


@by_name
def test_not_without_a_device(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert kernel.unavailable(CUDA) == ("torch sees no CUDA device.",)


@by_name
def test_not_on_an_old_device(kernel: Kernel, gpu: Callable[[int, int], None]) -> None:
    gpu(7, 5)
    assert kernel.unavailable(CUDA) == ("It needs compute capability 8.0 or later; this device has 7.5.",)


@by_name
def test_not_under_rocm(kernel: Kernel, gpu: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(9, 0)
    monkeypatch.setattr("torch.version.hip", "7.0")
    (sentence,) = kernel.unavailable(CUDA)
    assert "ROCm" in sentence


def test_what_a_build_lacks(gpu: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(9, 0)
    monkeypatch.setattr("torch.backends.cuda.is_flash_attention_available", lambda: False)
    monkeypatch.setattr("torch.backends.cudnn.is_available", lambda: False)
    monkeypatch.setattr(varlen, "parameters", frozenset)
    assert SdpaFlashKernel().unavailable(CUDA) == ("This torch was built without flash attention.",)
    assert SdpaCudnnKernel().unavailable(CUDA) == ("This torch was built without cuDNN.",)
    (sentence,) = VarlenKernel().unavailable(CUDA)
    assert sentence.endswith("has no torch.nn.attention.varlen.varlen_attn.")


@pytest.mark.parametrize(
    ("spec", "version", "words"),
    [
        (None, None, "is not installed"),
        (object(), None, "no distribution flash-attn"),
        (object(), "2.5.9.post1", "2.5.9.post1 is installed"),
        (object(), "2.8.3", None),
    ],
)
def test_which_flash_attn_package_will_do(
    gpu: Callable[[int, int], None],
    monkeypatch: pytest.MonkeyPatch,
    spec: object | None,
    version: str | None,
    words: str | None,
) -> None:
    def found(name: str) -> str:
        if version is None:
            raise __import__("importlib.metadata").metadata.PackageNotFoundError(name)
        return version

    gpu(9, 0)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    monkeypatch.setattr("importlib.metadata.version", found)
    sentences = FlashAttnKernel().unavailable(CUDA)
    if words is None:
        assert sentences == ()
    else:
        (sentence,) = sentences
        assert words in sentence


SQUARE, WIDE, TALL = Dense(seqlen_q=8, seqlen_k=8), Dense(seqlen_q=4, seqlen_k=8), Dense(seqlen_q=8, seqlen_k=4)
PACKED = Varlen(seqlens_q=(4, 8), seqlens_k=(8, 8))

TAKEN = [
    (SdpaFlashKernel(), Problem(lengths=WIDE, causal="bottom_right", heads_q=4, heads_kv=2, head_dim=36)),
    (SdpaFlashKernel(), Problem(lengths=SQUARE, causal="top_left", head_dim=256)),
    (SdpaEfficientKernel(), Problem(lengths=TALL, causal="bottom_right")),
    (SdpaEfficientKernel(), Problem(lengths=WIDE, causal="top_left", window=(1, 1), head_dim=512)),
    (SdpaCudnnKernel(), Problem(lengths=WIDE, causal="bottom_right", heads_q=4, heads_kv=1)),
    (
        FlexCudaKernel(),
        Problem(lengths=WIDE, softcap=3.0, alibi="per_head", window=(1, 0), direction="forward_backward"),
    ),
    (VarlenKernel(), Problem(lengths=PACKED, causal="bottom_right", window=(3, -1))),
    (VarlenKernel(), Problem(lengths=Varlen(seqlens_q=(4, 0), seqlens_k=(4, 0)), causal="top_left")),
    (FlashAttnKernel(), Problem(lengths=PACKED, softcap=3.0, alibi="per_head", head_dim=20)),
    (FlashAttnKernel(), Problem(lengths=SQUARE, causal="top_left", deterministic=True)),
]


@pytest.mark.parametrize(("kernel", "problem"), TAKEN)
def test_what_is_taken(kernel: Kernel, problem: Problem) -> None:
    assert kernel.unsupported(problem) == ()


REFUSED = [
    (SdpaFlashKernel(), Problem(lengths=WIDE, causal="top_left"), "top-left only where seqlen_q == seqlen_k"),
    (SdpaFlashKernel(), Problem(lengths=TALL, causal="bottom_right"), "sees no key"),
    (SdpaFlashKernel(), Problem(lengths=SQUARE, window=(1, 1)), "takes no mask"),
    (SdpaFlashKernel(), Problem(lengths=SQUARE, head_dim=264), "up to 256, not 264"),
    (SdpaFlashKernel(), Problem(lengths=Dense(seqlen_q=0)), "never reaches the backend"),
    (SdpaEfficientKernel(), Problem(lengths=SQUARE, heads_q=2), "as many key heads"),
    (SdpaEfficientKernel(), Problem(lengths=SQUARE, head_dim=12), "multiple of 8, not 12"),
    (SdpaEfficientKernel(), Problem(lengths=Dense(seqlen_q=0)), "never reaches the backend"),
    (SdpaCudnnKernel(), Problem(lengths=SQUARE, head_dim=12), "multiple of 8, not 12"),
    (SdpaCudnnKernel(), Problem(lengths=SQUARE, head_dim=136), "up to 128"),
    (SdpaCudnnKernel(), Problem(lengths=Dense(seqlen_q=4, seqlen_k=1)), "no key sequence of length 1"),
    (SdpaCudnnKernel(), Problem(lengths=TALL, causal="bottom_right"), "sees no key"),
    (SdpaCudnnKernel(), Problem(lengths=SQUARE, deterministic=True, direction="forward_backward"), "not deterministic"),
    (FlexCudaKernel(), Problem(lengths=SQUARE, head_dim=8), "at least 16, not 8"),
    (VarlenKernel(), Problem(lengths=SQUARE), "packed sequences with cu_seqlens alone"),
    (VarlenKernel(), Problem(lengths=PACKED, causal="top_left"), "bottom-right and the problem's is top-left"),
    (VarlenKernel(), Problem(lengths=PACKED, head_dim=264), "up to 256, not 264"),
    (VarlenKernel(), Problem(lengths=PACKED, head_dim=20), "multiple of 8, not 20"),
    (VarlenKernel(), Problem(lengths=PACKED, dropout=0.1), "no dropout"),
    (VarlenKernel(), Problem(lengths=PACKED, softcap=1.0), "no softcap"),
    (VarlenKernel(), Problem(lengths=PACKED, alibi="per_head"), "no ALiBi"),
    (FlashAttnKernel(), Problem(lengths=WIDE, causal="top_left"), "bottom-right and the problem's is top-left"),
    (FlashAttnKernel(), Problem(lengths=WIDE, head_dim=264), "up to 256, not 264"),
    (FlashAttnKernel(), Problem(lengths=WIDE, dropout=0.1), "cannot be reproduced"),
]


@pytest.mark.parametrize(("kernel", "problem", "words"), REFUSED)
def test_what_is_refused_is_one_sentence(kernel: Kernel, problem: Problem, words: str) -> None:
    (sentence,) = kernel.unsupported(problem)
    assert words in sentence


def test_limits_that_hang_on_the_device(gpu: Callable[[int, int], None]) -> None:
    widest = Problem(lengths=SQUARE, head_dim=256)
    wide = Problem(lengths=SQUARE, head_dim=208, direction="forward_backward")
    gpu(9, 0)
    assert SdpaCudnnKernel().unsupported(widest) == ()
    assert SdpaFlashKernel().unsupported(wide) == ()
    gpu(8, 9)
    assert len(SdpaCudnnKernel().unsupported(widest)) == 1
    assert len(SdpaFlashKernel().unsupported(wide)) == 1


@pytest.mark.parametrize("kernel", [SdpaFlashKernel(), SdpaEfficientKernel()])
def test_bottom_right_is_the_backend_s_own_where_every_row_sees_a_key(kernel: SdpaKernel) -> None:
    bias = kernel._mask(Problem(lengths=WIDE, causal="bottom_right"), torch.device("cpu"))
    assert isinstance(bias, CausalBias)
    assert (bias.variant, bias.seq_len_q, bias.seq_len_kv) == (CausalVariant.LOWER_RIGHT, 4, 8)
    mask = kernel._mask(Problem(lengths=TALL, causal="bottom_right"), torch.device("cpu"))
    assert mask is not None
    assert mask.dtype == torch.bool
    assert not mask[:4].any()


def test_varlen_speaks_every_signature_that_torch_had(monkeypatch: pytest.MonkeyPatch) -> None:
    causal = Problem(lengths=PACKED, causal="bottom_right")
    window = Problem(lengths=PACKED, window=(3, 2), scale=0.5, heads_q=2)
    oldest, newest = frozenset({"is_causal"}), frozenset({"scale", "window_size", "enable_gqa"})
    assert varlen.options(causal, oldest) == {"is_causal": True}
    assert varlen.options(causal, newest) == {"window_size": (-1, 0)}
    assert varlen.options(window, newest) == {"window_size": (3, 2), "scale": 0.5, "enable_gqa": True}
    monkeypatch.setattr(varlen, "parameters", lambda: oldest)
    lacking = VarlenKernel().unsupported(window)
    assert [sentence.rsplit(" ", 1)[1] for sentence in lacking] == ["scale.", "window_size.", "enable_gqa."]


@pytest.mark.parametrize("kernel", [VarlenKernel(), FlashAttnKernel()], ids=lambda kernel: kernel.name)
def test_flash_attn_leaves_rows_past_the_last_sequence(kernel: Kernel) -> None:
    assert kernel.unsupported(Problem(lengths=PACKED)) == ()
    (reason,) = kernel.unsupported(Problem(lengths=PACKED, layout="tail"))
    assert "issue 2324" in reason


def test_varlen_finds_the_parameters_of_this_torch() -> None:
    varlen.parameters.cache_clear()
    assert {"query", "cu_seq_q", "return_aux"} <= varlen.parameters()


@pytest.mark.parametrize("lengths", [WIDE, TALL, PACKED])
@pytest.mark.parametrize("alibi", ["per_head", "per_batch_head"])
def test_flash_attn_is_called_as_the_problem_says(
    monkeypatch: pytest.MonkeyPatch, lengths: Dense | Varlen, alibi: Any
) -> None:
    """Against a stand-in for the package that has its conventions, lse under causal ALiBi included."""
    problem = Problem(
        lengths=lengths, heads_q=4, heads_kv=2, causal="bottom_right", alibi=alibi, softcap=2.0, scale=0.3
    )
    tensors = make_tensors(problem)
    exact = reference(problem, tensors)
    assert exact.lse is not None
    assert tensors.alibi_slopes is not None
    given: dict[str, Any] = {}
    # flash-attn adds slope * j, we -slope * |i + offset - j|: along a visible row they differ by slope * (i + offset).
    slopes = tensors.alibi_slopes.double().expand(problem.batch, -1)
    rows = [
        slopes[b, :, None] * (torch.arange(q) + k - q)
        for b, (q, k) in enumerate(zip(problem.seqlens_q, problem.seqlens_k, strict=True))
    ]
    raw = exact.lse + (torch.cat(rows, dim=1) if problem.is_varlen else torch.stack(rows))

    def stand_in(*tensors: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor, None]:
        given.update(options, count=len(tensors))
        return exact.out, raw, None

    package = SimpleNamespace(flash_attn_func=stand_in, flash_attn_varlen_func=stand_in)
    monkeypatch.setitem(__import__("sys").modules, "flash_attn", package)
    outputs = FlashAttnKernel()(problem, tensors)
    assert outputs.lse is not None
    visible = exact.lse > float("-inf")
    # In fp64 but for the shift, whose slopes and products are fp32: one rounding of a sum below 8.
    assert (outputs.lse - exact.lse)[visible].abs().max() <= 8 * 2**-24
    assert given["count"] == (7 if problem.is_varlen else 3)
    assert given["causal"] is True
    assert given["softcap"] == 2.0
    assert given["softmax_scale"] == 0.3
    assert given["alibi_slopes"] is tensors.alibi_slopes
