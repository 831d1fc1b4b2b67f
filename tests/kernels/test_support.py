"""The rows of the kernels x features matrix."""

from dataclasses import replace

import pytest
import torch

from fa2verify.kernels.features import FEATURES, features
from fa2verify.kernels.function import FunctionKernel
from fa2verify.kernels.kernel import Kernel
from fa2verify.kernels.peers.sdpa_math import SdpaMathKernel
from fa2verify.kernels.peers.varlen import VarlenKernel
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.kernels.support import plain_problem, probe, unsupported_features

PLAIN = (
    Problem(lengths=Dense(seqlen_q=128, seqlen_k=128)),
    Problem(lengths=Varlen(seqlens_q=(128, 128), seqlens_k=(128, 128)), dtype="bfloat16"),
)


class Choosy(SdpaMathKernel):
    def unsupported(self, problem: Problem) -> tuple[str, ...]:
        return () if problem.dtype == "bfloat16" and problem.causal == "bottom_right" else ("It is choosy.",)


@pytest.mark.parametrize("plain", PLAIN)
@pytest.mark.parametrize("feature", FEATURES)
def test_a_probe_has_its_feature(feature: str, plain: Problem) -> None:
    assert feature in features(probe(feature, plain))


def test_a_probe_of_the_mask_tells_the_alignments_apart() -> None:
    for plain in PLAIN:
        top_left, bottom_right = probe("causal top-left", plain), probe("causal bottom-right", plain)
        assert replace(top_left, causal="bottom_right") == bottom_right
        assert any(q != k for q, k in zip(top_left.seqlens_q, top_left.seqlens_k, strict=True))


@pytest.mark.parametrize("gpu", [False, True])
def test_reasons_are_the_kernel_s_own_and_in_order(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where torch sees a GPU, this kernel is deterministic only if cuBLAS is told.
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    lacking = unsupported_features(SdpaMathKernel())
    expected = ["varlen", "softcap", "ALiBi", "dropout", "rows past the last sequence"]
    assert list(lacking) == expected + ["deterministic"] * gpu
    assert lacking["softcap"] == ("scaled_dot_product_attention has no softcap.",)


@pytest.mark.parametrize("kernel", [VarlenKernel(), Choosy()])
def test_a_kernel_of_one_kind_is_asked_about_that_kind(kernel: Kernel) -> None:
    assert kernel.unsupported(plain_problem(kernel)) == ()
    lacking = unsupported_features(kernel)
    assert "forward" not in lacking
    assert "float16" in lacking or "dense" in lacking


def test_a_kernel_that_takes_nothing_lacks_everything() -> None:
    def nothing(q: object, k: object, v: object, cu_seqlens_q: object, cu_seqlens_k: object) -> None: ...

    kernel = FunctionKernel(nothing, "nothing")
    kernel.unsupported = lambda problem: ("Never.",)  # type: ignore[method-assign]
    assert set(unsupported_features(kernel)) == set(FEATURES)
