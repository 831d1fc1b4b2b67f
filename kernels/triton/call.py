"""What a launch needs to know of an attention call, and what a kernel is compiled for.

Of all this only a few facts become part of a compiled kernel: dtype, causal or not, varlen or not, the sign of the
scale, head_dim's padded size, and whether 16-byte accesses are legal. Lengths, heads, strides and the alignment of the
causal mask are run-time values, so that a run over thousands of drawn problems compiles tens of kernels.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from fa2verify.kernels.problem import Causal

MAX_HEAD_DIM = 256
_LOG2E = math.log2(math.e)
# Stands for a scale of 0, whose product with a masked score of -inf would be NaN. Scores times it vanish beside 1.
_TINY = 2.0**-126


@dataclass(frozen=True, slots=True)
class Call:
    """One attention call; see `fa2verify.kernels.problem.Problem` for the words.

    seqlen_q, seqlen_k          lengths, varlen: the longest
    cu_seqlens_q, cu_seqlens_k  int32 (batch + 1) on the tensors' device, varlen only
    """

    batch: int
    seqlen_q: int
    seqlen_k: int
    heads_q: int
    heads_kv: int
    head_dim: int
    causal: Causal | None
    scale: float
    cu_seqlens_q: Tensor | None = None
    cu_seqlens_k: Tensor | None = None

    @property
    def varlen(self) -> bool:
        """Whether sequences are packed one after the other."""
        return self.cu_seqlens_q is not None

    @property
    def block_d(self) -> int:
        """head_dim padded to a power of two, at least the 16 that a matrix instruction takes."""
        return max(16, 1 << (self.head_dim - 1).bit_length())

    def arguments(self, tensors: dict[str, Tensor]) -> dict[str, object]:
        """Kernel arguments by name: the call's, and the strides of `tensors`, (..., heads, head_dim) each."""
        aligned = all(self._is_aligned(tensor) for tensor in tensors.values())
        arguments: dict[str, object] = {
            "cu_seqlens_q": self.cu_seqlens_q,
            "cu_seqlens_k": self.cu_seqlens_k,
            "seqlen_q": self.seqlen_q,
            "seqlen_k": self.seqlen_k,
            "heads_q": self.heads_q,
            "heads_kv": self.heads_kv,
            "head_dim": self.head_dim,
            "bottom_right": int(self.causal == "bottom_right"),
            "scale": self.scale,
            "scale_log2": max(abs(self.scale) * _LOG2E, _TINY),
            "negative": self.scale < 0,
            "causal": self.causal is not None,
            "varlen": self.varlen,
            "aligned": aligned,
            "full": aligned and self.head_dim == self.block_d,
            "block_d": self.block_d,
        }
        for name, tensor in tensors.items():
            *sequence, row, head, _ = tensor.stride()
            arguments[f"{name}_sequence_stride"] = sequence[0] if sequence else row
            arguments[f"{name}_row_stride"] = row
            arguments[f"{name}_head_stride"] = head
        return arguments

    def lse_strides(self, lse: Tensor) -> dict[str, object]:
        """Strides of a contiguous (batch, heads_q, seqlen_q) or (heads_q, total_q) tensor of one number a row."""
        return {
            "lse_sequence_stride": 1 if self.varlen else lse.stride(0),
            "lse_head_stride": lse.stride(0 if self.varlen else 1),
        }

    def _is_aligned(self, tensor: Tensor) -> bool:
        """Whether every row of `tensor` begins at a multiple of 16 bytes and is as long as one."""
        chunk = 16 // tensor.element_size()
        strides = [stride for size, stride in zip(tensor.shape[:-1], tensor.stride()[:-1], strict=True) if size > 1]
        return tensor.data_ptr() % 16 == 0 and all(length % chunk == 0 for length in (self.head_dim, *strides))
