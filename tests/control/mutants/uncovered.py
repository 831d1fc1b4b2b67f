"""What the mutants do not prove: those that a run may miss, bugs that no mutant stands for, and why.

The second list is what a problem, or one process on a CPU, cannot show.
"""

# Mutant to why a run in the default profile may not reject it, and what would make it.
GAPS = {
    "padded columns from the second query block": (
        "it takes more than 32 queries, few keys, fp16 and a row of low scores alone at once"
    ),
    "contiguous at head_dim 256": "it takes one head dimension of 256 and a layout at once",
}

UNCOVERED = {
    "FA 1500, 2260, 2611, offsets past 2^31": (
        "it takes more than 2^31 elements, which no drawn problem has. On a GPU verify/test_sizes.py tries some that "
        "do; an index that wraps is planted in small: tests/verify/judgement/test_sampled.py."
    ),
    "FA 359, 2481 as races": (
        "a race needs threads that run at once; the mutants here plant what it leaves. The missing barrier itself is "
        "planted in the CUDA source and found by the emulator: tests/kernels/test_cuda_barriers.py."
    ),
    "FA 1782, 2356, candle 3596, wrong device or stream": "it takes two GPUs, or a stream.",
    "TransformerEngine 3216, dQ wrong by a factor on real activations": (
        "its cause is not known, so it cannot be planted; the family of real activations is what would show it."
    ),
    "flashinfer 3605, every call is refused or right": (
        "a promise of an interface, not one kernel's fault: tests/kernels/test_interface_checks.py."
    ),
    "flash-linear-attention 350, 474, symmetric random inputs": (
        "a fault of tests, answered by decoys and value families."
    ),
    "pytorch 135590, unexplained tolerances": "a fault of tests, answered by [the numerics](numerics.md).",
    "llama.cpp 13438, 28358, races that the ordinary test passes": "it takes a GPU and racecheck.",
}
