"""Attention by our Triton kernels: one function with every choice, and flash-attn's functions.

Importing this module imports triton and registers the operators `torch.ops.fa2verify_triton`.
"""

from fa2verify.kernels.interface.attention import Attention
from fa2verify.kernels.interface.flash_attn import FlashAttention
from fa2verify.kernels.triton.backend import TritonBackend

attention = Attention(TritonBackend())

_functions = FlashAttention(attention)
flash_attn_func = _functions.flash_attn_func
flash_attn_kvpacked_func = _functions.flash_attn_kvpacked_func
flash_attn_qkvpacked_func = _functions.flash_attn_qkvpacked_func
flash_attn_varlen_func = _functions.flash_attn_varlen_func
flash_attn_varlen_kvpacked_func = _functions.flash_attn_varlen_kvpacked_func
flash_attn_varlen_qkvpacked_func = _functions.flash_attn_varlen_qkvpacked_func
