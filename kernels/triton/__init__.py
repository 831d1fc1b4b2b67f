"""Our FlashAttention-2 kernels in Triton."""
