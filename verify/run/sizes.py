"""How large drawn problems are: what one kernel call and its reference can do in well under a second."""

from fa2verify.strategies.size import Size

# Without a GPU our kernels run under an interpreter, at a few microseconds an element. So scores are few there; lengths
# need not be: a third tile of 128 is reached by few queries and many keys, or by one head.
SIZES = {
    "cpu": Size(max_seqlen=320, max_scores=2**15, max_batch=4, max_heads=8),
    "cuda": Size(max_seqlen=2048, max_scores=2**22, max_batch=8, max_heads=16),
}
