"""What our kernels share in front: flash-attn 2's Python functions, torch operators and autograd, over any backend.

CUDA and Triton kernels fill tensors; everything that a caller sees (names, checks, messages, allocation, operators for
torch.compile, gradients) is written once here, so that they cannot differ. A backend is a
`fa2verify.kernels.interface.backend.Backend`.
"""
