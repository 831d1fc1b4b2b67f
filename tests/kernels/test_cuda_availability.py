"""Where our CUDA kernels cannot run they say why, and the package can be imported all the same."""

import subprocess
import sys

import pytest
import torch

from fa2verify.kernels.cuda import gpu_compiler, host_compiler
from fa2verify.kernels.cuda.kernel import CudaKernel, EmulatedCudaKernel
from fa2verify.kernels.problem import Problem

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_each_kernel_has_its_device() -> None:
    (reason,) = CudaKernel().unavailable(CPU)
    assert reason == "it runs on cuda devices, not on 'cpu'; fa2verify-cuda-emulated runs on the cpu"
    (reason,) = EmulatedCudaKernel().unavailable(CUDA)
    assert reason == "the emulator runs on the cpu, not on 'cuda'; fa2verify-cuda runs on GPUs"
    assert EmulatedCudaKernel().unavailable(CPU) == ()


def test_both_are_one_witness() -> None:
    assert CudaKernel.lineage == EmulatedCudaKernel.lineage
    assert CudaKernel.name != EmulatedCudaKernel.name


def test_a_wide_head_is_the_one_thing_not_supported() -> None:
    assert CudaKernel().unsupported(Problem(head_dim=256)) == ()
    assert CudaKernel().unsupported(Problem(head_dim=257)) == (
        "head_dim 257 is above 256, the widest tile that it is made for",
    )


def test_without_a_compiler_the_emulator_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_compiler, "_compiler", lambda: None)
    (reason,) = EmulatedCudaKernel().unavailable(CPU)
    assert "install g++" in reason
    with pytest.raises(host_compiler.HostCompilerError, match=r"install g\+\+"):
        host_compiler.library("int x;")


def test_on_another_processor_the_emulator_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_compiler, "_processor_flags", lambda: frozenset({"avx2"}))
    assert EmulatedCudaKernel().unavailable(CPU) == ("the emulator needs a processor with f16c, fma",)


def test_source_that_does_not_compile_gets_the_compilers_words() -> None:
    with pytest.raises(host_compiler.HostCompilerError, match="nonsense"):
        host_compiler.library("nonsense")


def test_without_cuda_core_the_kernel_says_what_to_install() -> None:
    # In a process of its own, in which nothing of cuda can be found.
    script = """
import sys
sys.modules["cuda"] = None
from fa2verify.kernels.cuda import gpu_compiler, kernel
print(*gpu_compiler.unavailable())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "cuda.core and cuda.bindings cannot be imported; install fa2verify[cuda]\n"


def test_without_nvrtc_the_kernel_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    from cuda.bindings import nvrtc

    def missing() -> None:
        raise RuntimeError("no such library")

    monkeypatch.setattr(nvrtc, "nvrtcVersion", missing)
    assert gpu_compiler.unavailable() == ("NVRTC cannot be loaded (no such library); install fa2verify[cuda]",)
