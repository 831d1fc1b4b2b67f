"""The known failures of the kernels that are built in: predicates, and the entries over them.

Each was found or confirmed by this suite and holds for the versions and devices on which it was seen, no others: where
nobody has looked, a failure is news. docs/findings has a page each, with what to expect and a line that shows it.
"""

import math
from dataclasses import replace

from fa2verify.kernels.peers.sdpa import asks_is_causal
from fa2verify.kernels.problem import Dense, Problem, Varlen
from fa2verify.verify.known_failures.built_in_large import LARGE
from fa2verify.verify.known_failures.ledger import KnownFailure, Ledger

# Values of q of mean 2.8, the largest of a family, need 23,395 elements to add up to fp16's largest number; a third of
# them is a safe lower limit.
_SUMMABLE = 2**13
_OF_ONE_SIGN = ("shifted_mean", "opposed")
# Blocks of queries below which flash-attn splits: 0.8 of twice the 132 multiprocessors of an H200. Smaller GPUs of its
# compute capability split less.
_SPLIT_BELOW = 0.8 * 2 * 132
# Rows of a block in create_block_mask, unless it is asked for another number.
_MASK_BLOCK = 128
# The log-sum-exp below which exp(-lse), times as large a gradient as there is, may pass the dtype's largest number:
# minus the logarithm of that, 11.1 and 88.7, less 4 and 6 for the gradient.
_LOW = {"float16": -7.0, "bfloat16": -82.0}
# Standard deviation of a score in scale * sqrt(head_dim). Other families have 1 or less, or high scores; that of real
# values is what covers every row that overflowed in 12,000 draws.
_SPREAD = {"large": 25, "huge_logit": 8, "outliers": 2, "activations": 4, "small": 0.01}
# The mean score of opposed values in scale * head_dim: minus the square of 2.8.
_OPPOSED = -7.8


def window_past_every_key(problem: Problem) -> bool:
    """A window, not causal, that flash-attn's host code makes another one by what it does to a far right side.

    A side of at least max_seqlen_k becomes unbounded, and then an unbounded right side beside a bounded left one
    max_seqlen_k. But the diagonal starts seqlen_q - seqlen_k in front of the first key: only a side of seqlen_q - 1
    reaches every key from every query.
    """
    left, right = problem.window
    longest = max(problem.seqlens_k)
    if problem.causal is not None or 0 <= right < longest:
        return False
    asked = right if right >= 0 else math.inf
    taken = longest if 0 <= left < longest else math.inf
    lengths = zip(problem.seqlens_q, problem.seqlens_k, strict=True)
    return any(k > 0 and min(asked, q - 1) != min(taken, q - 1) for q, k in lengths)


def no_query(problem: Problem) -> bool:
    """Packed sequences without a single query: a forward grid of no blocks."""
    return problem.is_varlen and not sum(problem.seqlens_q)


def no_key_backward(problem: Problem) -> bool:
    """Packed sequences with queries and without a single key, backward: a backward grid of no blocks."""
    return problem.is_varlen and problem.backward and not no_query(problem) and not sum(problem.seqlens_k)


def sum_beyond_fp16(problem: Problem) -> bool:
    """No key, and values of a mean that lets fp16 elements of q add up to more than fp16 holds."""
    elements = sum(problem.seqlens_q) * problem.heads_q * problem.head_dim
    large = problem.values in _OF_ONE_SIGN and elements > _SUMMABLE
    return problem.dtype == "float16" and not problem.is_varlen and not sum(problem.seqlens_k) and large


def without_a_key(problem: Problem) -> bool:
    """No key for several sequences or heads, one of which may hold what makes all of them NaN."""
    return not problem.is_varlen and not sum(problem.seqlens_k) and problem.batch * problem.heads_kv > 1


def many_gradient_sums(problem: Problem) -> bool:
    """Backward, with five or more sums rounded into dK and dV: one a query head of the group and block of queries.

    torch's CPU kernel cuts queries into blocks of 32, of 64 from 192 queries on and of 256 from 768 on. With fewer than
    six sums no problem has been seen to fail.
    """
    queries = max(problem.seqlens_q)
    block = 256 if queries >= 768 else 64 if queries >= 192 else 32
    return problem.backward and problem.group * math.ceil(queries / block) >= 5


def few_keys(problem: Problem) -> bool:
    """A sequence with fewer keys than the widest vector has fp32 elements, which are 16."""
    return any(0 < length < 16 for length in problem.seqlens_k)


def empty_sequence(problem: Problem) -> bool:
    """A sequence without a query or without a key."""
    return 0 in problem.seqlens_q or 0 in problem.seqlens_k


def partial_tile_of_lse(problem: Problem) -> bool:
    """Dense, split along the keys, and with rows of lse that do not fill the last tile of the kernel that combines.

    flash-attn splits a forward of two blocks of keys or more if it has few blocks of 64 queries. Above 132 of these it
    may come to one split all the same, which is not gone into here. One query of a group of heads is taken as a group
    of queries of one head, and head_dim as the next one that there is a kernel for.
    """
    if problem.is_varlen or problem.dropout:
        return False
    head_dim = 32 * math.ceil(problem.head_dim / 32)
    if head_dim > 128:
        head_dim = 192 if head_dim <= 192 else 256
    tile = 4 if head_dim % 128 == 0 else 8 if head_dim % 64 == 0 else 16
    block_k = 256 if head_dim <= 64 else 128 if head_dim <= 128 else 64
    queries, heads = problem.seqlens_q[0], problem.heads_q
    rows = problem.batch * heads * queries
    if queries == 1:
        queries, heads = problem.group, problem.heads_kv
    is_split = problem.batch * heads * math.ceil(queries / 64) < _SPLIT_BELOW and problem.seqlens_k[0] > block_k
    return is_split and rows % tile != 0


def decoding_tile_beyond_mask_block(problem: Problem) -> bool:
    """A mask, and a flex decoding whose tile, all queries of a group of heads, is larger than the mask's block.

    Flex decoding is chosen for fewer than 128 queries and a group that is a power of two, where batch is a constant:
    with dynamic shapes only a batch of 1 is.
    """
    queries, group = problem.seqlens_q[0], problem.group
    masked = problem.causal is not None or problem.window != (-1, -1)
    decoding = not problem.is_varlen and problem.batch == 1 and queries < 128 and group & (group - 1) == 0
    return masked and decoding and queries * group > _MASK_BLOCK


def low_rows_and_half_a_tile_of_keys(problem: Problem) -> bool:
    """Backward, keys that end in the middle of a tile of 128, and scores of which a whole row may be low.

    The keys past the end score 0, and weigh exp(-lse). is_causal hides them as it hides every later key; with more
    queries than keys it would not, which nobody has tried. lse itself is not a matter of fields: scores are taken to
    reach five standard deviations below their mean.
    """
    if problem.is_varlen or not problem.backward or problem.seqlens_k[0] % 128 != 64 or asks_is_causal(problem):
        return False
    scale = problem.head_dim**-0.5 if problem.scale is None else problem.scale
    mean = _OPPOSED * scale * problem.head_dim if problem.values == "opposed" else 0.0
    return mean - 5 * _SPREAD.get(problem.values, 1) * scale * math.sqrt(problem.head_dim) < _LOW[problem.dtype]


_WINDOW = KnownFailure(
    name="window-past-every-key",
    says="A window whose right side reaches past every key hides keys, or shows hidden ones, where a sequence has more "
    "queries than keys.",
    link="https://github.com/Dao-AILab/flash-attention/issues/895",
    kernels=("flash-attn",),
    covers=window_past_every_key,
    verdict="failed",
    rules=("R0", "R1", "R2"),
    packages={"flash-attn": ">=2.6,<3"},
    device="cuda",
    smallest=Problem(lengths=Varlen(seqlens_q=(3,), seqlens_k=(1,)), head_dim=8, window=(0, -1)),
)

LEDGER = Ledger(
    (
        _WINDOW,
        replace(
            _WINDOW,
            name="window-past-every-key-in-torch",
            link="docs/findings/flash-attn-window-past-every-key.md",
            kernels=("torch-varlen",),
            packages={"torch": "==2.11.*"},
            capabilities=((9, 0),),
        ),
        KnownFailure(
            name="varlen-without-a-query",
            says="Without a single query the forward launches a grid of no blocks, which CUDA refuses.",
            link="docs/findings/varlen-attn-without-a-token.md",
            kernels=("torch-varlen",),
            covers=no_query,
            verdict="crashed",
            rules=("raised AcceleratorError",),
            packages={"torch": "==2.11.*"},
            device="cuda",
            capabilities=((9, 0),),
            smallest=Problem(lengths=Varlen(seqlens_q=(0,), seqlens_k=(1,)), head_dim=8),
        ),
        KnownFailure(
            name="varlen-without-a-key",
            says="Without a single key the backward launches a grid of no blocks, which CUDA refuses.",
            link="docs/findings/varlen-attn-without-a-token.md",
            kernels=("torch-varlen",),
            covers=no_key_backward,
            verdict="crashed",
            rules=("raised AcceleratorError",),
            packages={"torch": "==2.11.*"},
            device="cuda",
            capabilities=((9, 0),),
            smallest=Problem(lengths=Varlen(seqlens_q=(1,), seqlens_k=(0,)), head_dim=8, direction="forward_backward"),
        ),
        KnownFailure(
            name="flash-lse-past-its-end",
            says="Split along the keys, the forward writes a whole tile of lse at its end, past lse's memory.",
            link="docs/findings/flash-attn-combine-past-lse.md",
            kernels=("torch-flash",),
            covers=partial_tile_of_lse,
            verdict="failed",
            rules=("R0 memory around a workspace",),
            packages={"torch": "==2.11.*"},
            device="cuda",
            capabilities=((9, 0),),
            smallest=Problem(lengths=Dense(seqlen_k=257), head_dim=8),
        ),
        KnownFailure(
            name="flex-decoding-without-a-tile",
            says="With a mask, and more than 128 queries in a group of heads, flex decoding has no configuration left.",
            link="docs/findings/flex-decoding-tile-beyond-mask-block.md",
            kernels=("torch-flex",),
            covers=decoding_tile_beyond_mask_block,
            verdict="crashed",
            rules=("raised InductorError",),
            packages={"torch": "==2.11.*"},
            device="cuda",
            capabilities=((9, 0),),
            # Any number of queries below 128 runs on what was compiled for another, so this must be a kernel that no
            # drawn problem has compiled before: 64 heads on one.
            smallest=Problem(
                dtype="bfloat16",
                lengths=Dense(seqlen_q=3, seqlen_k=3),
                heads_q=64,
                head_dim=16,
                causal="bottom_right",
            ),
        ),
        KnownFailure(
            name="cudnn-keys-past-the-end",
            says="Where keys end in the middle of a tile of 128, dQ is NaN for rows of low log-sum-exp.",
            link="docs/findings/cudnn-backward-nan-past-the-last-key.md",
            kernels=("torch-cudnn",),
            covers=low_rows_and_half_a_tile_of_keys,
            verdict="failed",
            rules=("R0 dq finite",),
            packages={"torch": "==2.11.*"},
            device="cuda",
            capabilities=((9, 0),),
            # One key for the last query, whose score is below -11. Any other kernel of cuDNN's may be right.
            smallest=Problem(
                lengths=Dense(seqlen_q=63, seqlen_k=64),
                head_dim=96,
                window=(0, -1),
                scale=1.0,
                direction="forward_backward",
            ),
        ),
        KnownFailure(
            name="sdpa-without-a-key",
            says="Without a key out is NaN where fp16 elements of q add up to more than fp16 holds.",
            link="docs/findings/sdpa-without-a-key.md",
            kernels=("torch-math",),
            covers=sum_beyond_fp16,
            verdict="failed",
            rules=("R0 out finite",),
            packages={"torch": "==2.13.*"},
            device="cpu",
            smallest=Problem(
                lengths=Dense(seqlen_q=39, seqlen_k=0),
                heads_q=7,
                heads_kv=7,
                head_dim=120,
                values="shifted_mean",
            ),
        ),
        KnownFailure(
            name="sdpa-without-a-key-foreign",
            says="Without a key NaN in the q of one sequence or head makes out of all of them NaN.",
            link="docs/findings/sdpa-without-a-key.md",
            kernels=("torch-math",),
            covers=without_a_key,
            verdict="failed",
            rules=("R4 foreign values",),
            packages={"torch": "==2.13.*"},
            device="cpu",
            smallest=Problem(lengths=Dense(batch=2, seqlen_k=0), head_dim=8),
        ),
        KnownFailure(
            name="cpu-gradients-rounded-by-block",
            says="dK and dV are summed in the problem's dtype, and rounded after each block of queries and each head.",
            link="docs/findings/sdpa-cpu-gradients-rounded-block-by-block.md",
            kernels=("torch-flash-cpu",),
            covers=many_gradient_sums,
            verdict="failed",
            rules=("R1 dk", "R1 dv", "R2 dk", "R2 dv"),
            packages={"torch": "==2.13.*"},
            device="cpu",
            # The smallest of many: with fewer sums it depends on the processor's order of addition.
            smallest=Problem(
                dtype="bfloat16",
                lengths=Dense(seqlen_q=160, seqlen_k=8),
                heads_q=64,
                head_dim=8,
                values="shifted_mean",
                direction="forward_backward",
            ),
        ),
        KnownFailure(
            name="cpu-nan-becomes-zero",
            says="A row whose scores are all NaN gives 0 where it has fewer keys than a vector has elements.",
            link="docs/findings/sdpa-cpu-nan-becomes-zero.md",
            kernels=("torch-flash-cpu",),
            covers=few_keys,
            verdict="failed",
            rules=("R4 visible NaN out",),
            packages={"torch": "==2.13.*"},
            device="cpu",
            smallest=Problem(head_dim=8),
        ),
        KnownFailure(
            name="flex-cpu-empty-sequence",
            says="Compiled for a CPU, flex_attention ends the process without a query or without a key.",
            link="docs/findings/flex-attention-cpu-empty-sequence.md",
            kernels=("torch-flex-cpu",),
            covers=empty_sequence,
            verdict="crashed",
            rules=("process died",),
            packages={"torch": "==2.13.*"},
            device="cpu",
            smallest=Problem(lengths=Dense(seqlen_k=0), head_dim=8),
        ),
        *LARGE,
    )
)
