"""Attention by our CUDA kernels: one function with every choice, and flash-attn's functions.

Importing this module registers the operators `torch.ops.fa2verify_cuda`.
"""

from fa2verify.kernels.cuda.backend import CudaBackend
from fa2verify.kernels.interface.attention import Attention
from fa2verify.kernels.interface.flash_attn import FlashAttention

attention = Attention(CudaBackend())

_functions = FlashAttention(attention)
flash_attn_func = _functions.flash_attn_func
flash_attn_kvpacked_func = _functions.flash_attn_kvpacked_func
flash_attn_qkvpacked_func = _functions.flash_attn_qkvpacked_func
flash_attn_varlen_func = _functions.flash_attn_varlen_func
flash_attn_varlen_kvpacked_func = _functions.flash_attn_varlen_kvpacked_func
flash_attn_varlen_qkvpacked_func = _functions.flash_attn_varlen_qkvpacked_func
