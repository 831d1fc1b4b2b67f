"""Our FlashAttention-2 kernels in CUDA C++, compiled at run time by NVRTC, or run on a CPU by an emulator."""
