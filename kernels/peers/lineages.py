"""Whose code does the work behind each peer.

Two adapters of one lineage are one witness: a bug in the code that they share shows in both, and their agreement says
nothing about it. So a lineage names the upstream code itself, not the door that leads to it: torch's SDPA and torch's
varlen_attn both end in torch's copy of flash-attn 2, while torch's flash on a CPU was written from scratch.
"""

from typing import Final

# Plain PyTorch operations (matmul, softmax), one after the other: aten/src/ATen/native/transformers/attention.cpp.
ATEN_MATH: Final = "pytorch/aten math"
# third_party/flash-attention, compiled into torch for CUDA.
FLASH_ATTENTION_2_IN_TORCH: Final = "Dao-AILab/flash-attention 2 (torch's copy)"
# The flash-attn package, which may be years newer than torch's copy but is the same code base.
FLASH_ATTENTION_2: Final = "Dao-AILab/flash-attention 2"
# aten/src/ATen/native/cpu/FlashAttentionKernel.cpp: torch's own blocked kernel over CPU matrix products.
ATEN_CPU_FLASH: Final = "pytorch/aten cpu flash"
# aten/src/ATen/native/transformers/cuda/mem_eff_attention: xformers' kernels over CUTLASS.
XFORMERS_CUTLASS: Final = "xformers/cutlass fmha (torch's copy)"
CUDNN: Final = "NVIDIA cuDNN"
# torch/_inductor/kernel/flex: the Triton template on a GPU, the C++ template on a CPU. Different kernels.
FLEX_TRITON: Final = "pytorch/inductor flex template (triton)"
FLEX_CPP: Final = "pytorch/inductor flex template (c++)"
