"""The run-time arguments by which Triton must not specialise.

Left alone, Triton compiles again for each argument that is 1, is a multiple of 16, or points to a multiple of 16 bytes:
with two dozen lengths, strides and pointers, drawn problems would compile for hours. What matters of it (16-byte
accesses) is one flag for all of them, see `fa2verify.kernels.triton.tile`.
"""

VIEWS = ("q", "k", "v", "out", "dout", "dq", "dk", "dv")
ROWS = ("lse", "dlse", "delta", "lse_log2")
_FEATURES = ("window_left", "window_right", "alibi_sequence_stride", "dropout_threshold")
_WEIGHTS = ("weights", "weights_rows", "weights_columns", "column_blocks")
_SIZES = ("blocks", "seqlen_q", "seqlen_k", "heads_q", "heads_kv", "head_dim", "bottom_right", *_FEATURES)

UNSPECIALISED: list[str] = [
    *VIEWS,
    *ROWS,
    "cu_seqlens_q",
    "cu_seqlens_k",
    "alibi_slopes",
    "dropout_seed",
    *_SIZES,
    *_WEIGHTS,
    *(f"{name}_{dimension}_stride" for name in VIEWS for dimension in ("sequence", "row", "head")),
    "lse_sequence_stride",
    "lse_head_stride",
]
