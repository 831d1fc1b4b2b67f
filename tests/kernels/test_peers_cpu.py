"""The peers that run on a CPU, judged as the suite judges every kernel; and what they say they do not take."""

from dataclasses import replace

import pytest
import torch

from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.peers import flex
from fa2verify.kernels.peers.flex_cpu import FlexCpuKernel
from fa2verify.kernels.peers.sdpa_flash_cpu import SdpaFlashCpuKernel
from fa2verify.kernels.peers.sdpa_math import SdpaMathKernel
from fa2verify.kernels.problem import Dense, Layout, Problem, Varlen
from fa2verify.kernels.tensors import make_tensors
from fa2verify.verify.judgement.judge import judge
from fa2verify.verify.judgement.truth import Truth

WIDE = Dense(batch=2, seqlen_q=5, seqlen_k=9)
TALL = Dense(batch=2, seqlen_q=9, seqlen_k=5)
BLOCKS = Dense(seqlen_q=150, seqlen_k=70)

PROBLEMS = {
    "full": Problem(lengths=WIDE),
    "top-left": Problem(lengths=WIDE, causal="top_left"),
    "bottom-right": Problem(lengths=WIDE, causal="bottom_right"),
    "square": Problem(lengths=Dense(seqlen_q=7, seqlen_k=7), causal="bottom_right"),
    "top-left, more queries": Problem(lengths=TALL, causal="top_left"),
    "rows that see nothing": Problem(lengths=TALL, causal="bottom_right"),
    "blocks of rows that see nothing": Problem(lengths=BLOCKS, causal="bottom_right"),
    "window": Problem(lengths=WIDE, window=(1, 2)),
    "window, one side": Problem(lengths=WIDE, window=(-1, 1)),
    "window, causal": Problem(lengths=WIDE, causal="top_left", window=(2, 3)),
    "GQA": Problem(lengths=WIDE, heads_q=4, heads_kv=2, causal="bottom_right"),
    "MQA": Problem(lengths=WIDE, heads_q=3, heads_kv=1),
    "bf16": Problem(lengths=WIDE, dtype="bfloat16", causal="bottom_right"),
    "odd head_dim": Problem(lengths=WIDE, head_dim=37),
    "wide head_dim": Problem(lengths=WIDE, head_dim=264),
    "scale": Problem(lengths=WIDE, scale=0.3),
    "qkv packed": Problem(lengths=Dense(batch=2, seqlen_q=6, seqlen_k=6), heads_q=2, heads_kv=2, layout="qkv_packed"),
    "kv packed": Problem(lengths=WIDE, heads_q=2, heads_kv=2, layout="kv_packed"),
    "transposed": Problem(lengths=WIDE, heads_q=2, heads_kv=2, layout="transposed"),
    "sliced": Problem(lengths=WIDE, heads_q=2, heads_kv=2, layout="sliced"),
    "offset": Problem(lengths=WIDE, heads_q=2, heads_kv=2, layout="offset"),
}
SDPA = (SdpaMathKernel(), SdpaFlashCpuKernel())


def assert_right(kernel: Kernel, problem: Problem) -> None:
    assert kernel.unsupported(problem) == ()
    tensors = make_tensors(problem)
    judgement = judge(problem, kernel, kernel(problem, tensors), Truth.of(problem, tensors))
    assert judgement.passed, f"{kernel.name}, {problem.to_json()}: {judgement.rule}: {judgement.message}"


@pytest.mark.parametrize("problem", PROBLEMS.values(), ids=PROBLEMS)
@pytest.mark.parametrize("kernel", SDPA, ids=lambda kernel: kernel.name)
def test_sdpa_is_right_forward_and_backward(kernel: Kernel, problem: Problem) -> None:
    assert_right(kernel, replace(problem, direction="forward_backward"))


def test_math_answers_for_sequences_of_length_zero() -> None:
    for lengths in (Dense(seqlen_q=0, seqlen_k=4), Dense(seqlen_q=4, seqlen_k=0)):
        assert_right(SdpaMathKernel(), Problem(lengths=lengths, direction="forward_backward"))


@pytest.mark.parametrize("kernel", SDPA, ids=lambda kernel: kernel.name)
def test_sdpa_gives_the_same_bits_again_and_puts_torch_back(kernel: Kernel) -> None:
    problem = Problem(lengths=BLOCKS, heads_q=4, heads_kv=2, direction="forward_backward", deterministic=True)
    tensors = make_tensors(problem)
    first, second = kernel(problem, tensors), kernel(problem, tensors)
    assert first.dk is not None
    assert second.dk is not None
    assert torch.equal(first.dk, second.dk)
    assert not torch.are_deterministic_algorithms_enabled()


def test_sdpa_runs_one_backend_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # A refusal is heard: the flash backend, told to run on what it does not take, raises instead of falling back.
    kernel = SdpaFlashCpuKernel()
    monkeypatch.setattr(SdpaFlashCpuKernel, "backend", torch.nn.attention.SDPBackend.EFFICIENT_ATTENTION)
    problem = Problem(lengths=WIDE)
    with pytest.raises(RuntimeError, match="No viable backend"):
        kernel(problem, make_tensors(problem))


@pytest.mark.parametrize("layout", ["plain", "transposed", "sliced"])
def test_sdpa_does_not_copy_its_inputs(monkeypatch: pytest.MonkeyPatch, layout: Layout) -> None:
    seen: list[tuple[int, ...]] = []
    real = torch.nn.functional.scaled_dot_product_attention

    def spy(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: object) -> torch.Tensor:
        seen.append((q.data_ptr(), k.data_ptr(), v.data_ptr()))
        return real(q, k, v, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("fa2verify.kernels.peers.sdpa.scaled_dot_product_attention", spy)
    # Two heads: with one, the transposed view of a plain tensor is contiguous too, and a copy would not show.
    problem = Problem(lengths=WIDE, heads_q=2, heads_kv=2, layout=layout)
    tensors = make_tensors(problem)
    SdpaMathKernel()(problem, tensors)
    assert seen == [(tensors.q.data_ptr(), tensors.k.data_ptr(), tensors.v.data_ptr())]


# Each costs seconds of C++ compilation: between them they have both alignments, a window, grouped heads, strides, rows
# that see nothing, several blocks, softcap and ALiBi.
FLEX_PROBLEMS = (
    Problem(lengths=BLOCKS, heads_q=4, heads_kv=2, causal="bottom_right", layout="transposed"),
    Problem(lengths=WIDE, heads_q=4, heads_kv=2, causal="top_left", window=(2, 1), softcap=2.0, alibi="per_batch_head"),
)


@pytest.mark.skipif(
    bool(FlexCpuKernel().unavailable(torch.device("cpu"))), reason="needs a C++ compiler and AVX2, see unavailable()"
)
@pytest.mark.parametrize("problem", FLEX_PROBLEMS, ids=["mask", "score_mod"])
def test_flex_is_right_forward(problem: Problem) -> None:
    assert_right(FlexCpuKernel(), problem)


def test_flex_never_goes_on_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    # Dynamo's limit, reached: what was compiled is dropped and the call made again.
    from torch._dynamo.exc import FailOnRecompileLimitHit

    calls: list[str] = []

    def compiled(*_args: object, **_options: object) -> str:
        calls.append("call")
        if calls == ["call"]:
            raise FailOnRecompileLimitHit("enough")
        return "result"

    monkeypatch.setattr(flex, "_compile", lambda: compiled)
    monkeypatch.setattr("torch._dynamo.reset", lambda: calls.append("reset"))
    assert flex._compiled() == "result"
    assert calls == ["call", "reset", "call"]


SENTENCES = [
    (SdpaMathKernel(), Problem(lengths=Varlen(seqlens_q=(3,), seqlens_k=(3,))), "takes no packed sequences"),
    (SdpaMathKernel(), Problem(softcap=5.0), "has no softcap"),
    (SdpaMathKernel(), Problem(alibi="per_head"), "rounded to the problem's dtype"),
    (SdpaMathKernel(), Problem(dropout=0.5), "cannot be reproduced"),
    (SdpaFlashCpuKernel(), Problem(lengths=Dense(seqlen_k=0)), "never reaches the backend"),
    (FlexCpuKernel(), Problem(direction="forward_backward"), "no backward on a CPU"),
    (FlexCpuKernel(), Problem(dropout=0.5), "flex_attention has no dropout"),
    (FlexCpuKernel(), Problem(lengths=Varlen(seqlens_q=(3,), seqlens_k=(3,))), "dense batches alone"),
]


@pytest.mark.parametrize(("kernel", "problem", "words"), SENTENCES)
def test_what_is_unsupported_is_one_sentence(kernel: Kernel, problem: Problem, words: str) -> None:
    (sentence,) = kernel.unsupported(problem)
    assert words in sentence


def test_cpu_peers_say_where_they_do_not_run() -> None:
    meta, cuda = torch.device("meta"), torch.device("cuda")
    assert SdpaMathKernel().unavailable(meta) == ("This adapter runs on 'cpu' and 'cuda', not on 'meta'.",)
    for kernel in (SdpaFlashCpuKernel(), FlexCpuKernel()):
        assert kernel.unavailable(cuda) == ("It runs on the CPU alone, not on 'cuda'.",)


def test_flex_says_what_the_compiler_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("torch.cpu._is_avx2_supported", lambda: False)
    compiler, processor = FlexCpuKernel().unavailable(torch.device("cpu"))
    assert "'no-such-compiler'" in compiler
    assert "AVX2" in processor


def test_math_needs_cublas_told_for_deterministic_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem(deterministic=True, direction="forward_backward")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    (sentence,) = SdpaMathKernel().unsupported(problem)
    assert "CUBLAS_WORKSPACE_CONFIG" in sentence
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    assert SdpaMathKernel().unsupported(problem) == ()
