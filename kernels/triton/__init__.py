"""Our FlashAttention-2 kernels in Triton.

On a machine without CUDA they run under Triton's interpreter. Triton reads TRITON_INTERPRET when its own modules are
first imported (its standard library is decorated then), so the variable has to be set here, before anything below
imports triton. Where triton came first, it stays as it is and `fa2verify.kernels.triton.mode` says what to do.
"""

import os
import sys

import torch

if "triton" not in sys.modules and not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
