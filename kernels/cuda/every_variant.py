"""Calls every variant of the CUDA kernels on this GPU: what a tool that watches a program wants to see of them.

    export PYTORCH_NO_CUDA_MEMORY_CACHING=1
    compute-sanitizer --tool racecheck python -P -m fa2verify.kernels.cuda.every_variant

Each of 140 small problems has more than one tile of queries and of keys, and the last of both is partial. Between them
they take every kernel, dtype and padded head_dim without a feature, with each feature alone, and with all: what
`build_evidence` compiles. Exits 1 if any of these was not launched. Results are not looked at; the suite does that.

With `--first-calls` it writes what each variant's first launch took: from cold if `FA2VERIFY_CACHE` and
`CUDA_CACHE_PATH` are empty folders, from disk if they are those of a run before.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

import torch

from fa2verify.kernels.cuda import gpu
from fa2verify.kernels.cuda.backend import CudaBackend
from fa2verify.kernels.cuda.build_evidence import SINGLE
from fa2verify.kernels.cuda.configuration import (
    PADDED_HEAD_DIMS,
    Feature,
    Name,
    Variant,
    one_pass_tiles,
    relevant,
    variant,
)
from fa2verify.kernels.problem import Causal, Dense, DType, Lengths, Problem, Varlen
from fa2verify.kernels.tensors import make_tensors

# With tiles of at most 128 rows: two of queries and two of keys, of the second a part.
_SEQLEN_Q, _SEQLEN_K = 150, 170
_CAUSALS: tuple[Causal | None, ...] = (None, "bottom_right", "top_left")


@dataclass(frozen=True, slots=True)
class Case:
    """One problem, and the features of the variants that it takes."""

    problem: Problem
    features: Feature

    def variants(self, padded_head_dim: int, shared_kb: int) -> set[Variant]:
        """What its forward, its backward and, with dropout, its attention weights launch."""
        problem = self.problem
        one_pass = not problem.deterministic and one_pass_tiles(padded_head_dim, shared_kb) is not None
        names: list[Name] = ["forward", "preprocess"]
        names += ["backward", "postprocess"] if one_pass else ["backward_dkdv", "backward_dq"]
        names += ["probabilities"] if problem.dropout else []
        return {
            variant(name, problem.dtype, padded_head_dim, relevant(name, self.features), shared_kb) for name in names
        }


def cases() -> Iterator[tuple[int, Case]]:
    """Every case, with its padded head_dim; masks, alignments, packed and dense take turns."""
    subsets = [Feature(0), *SINGLE, sum(SINGLE, Feature(0)) & ~Feature.PRESCALE]
    dtypes: tuple[DType, ...] = get_args(DType)
    chosen = product(PADDED_HEAD_DIMS, dtypes, subsets, (False, True))
    for index, (head_dim, dtype, features, deterministic) in enumerate(chosen):
        yield head_dim, Case(_problem(index, head_dim, dtype, features, deterministic), features)


def _problem(index: int, head_dim: int, dtype: DType, features: Feature, deterministic: bool) -> Problem:
    lengths: Lengths = Dense(batch=2, seqlen_q=_SEQLEN_Q, seqlen_k=_SEQLEN_K)
    if index % 2:
        lengths = Varlen(seqlens_q=(_SEQLEN_Q, 0, 3), seqlens_k=(_SEQLEN_K, 5, 0))
    return Problem(
        lengths=lengths,
        dtype=dtype,
        heads_q=4,
        heads_kv=2,
        head_dim=head_dim - 4 if features & Feature.NARROW else head_dim,
        causal=_CAUSALS[index % len(_CAUSALS)],
        scale=-0.25 if features & Feature.PRESCALE else None,
        softcap=5.0 if features & Feature.SOFTCAP else 0.0,
        alibi="per_head" if features & Feature.ALIBI else None,
        dropout=0.25 if features & Feature.DROPOUT else 0.0,
        seed=index,
        deterministic=deterministic,
        direction="forward_backward",
    )


def call(problem: Problem, device: str) -> None:
    """Forward, attention weights and backward of one problem, through the public interface."""
    # Imported here: who only lists cases needs no torch operators.
    from fa2verify.kernels.cuda.attention import attention

    tensors = make_tensors(problem, device)
    inputs = [tensor.detach().requires_grad_() for tensor in (tensors.q, tensors.k, tensors.v)]
    packed: dict[str, Any] = {}
    if problem.is_varlen:
        names = ("cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k")
        packed = {name: getattr(tensors, name) for name in names}
    out, _, _ = attention(
        *inputs,
        causal=problem.causal,
        softmax_scale=problem.scale,
        softcap=problem.softcap,
        alibi_slopes=tensors.alibi_slopes,
        dropout_p=problem.dropout,
        deterministic=problem.deterministic,
        return_weights=bool(problem.dropout),
        **packed,
    )
    torch.autograd.grad(out, inputs, tensors.dout)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status: 2 where there is no GPU."""
    parser = argparse.ArgumentParser(prog="every_variant", description="Call every variant of the CUDA kernels.")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="every N-th problem, from the I-th on")
    parser.add_argument("--head-dim", nargs="+", type=int, choices=PADDED_HEAD_DIMS, default=PADDED_HEAD_DIMS)
    parser.add_argument(
        "--first-calls", type=Path, metavar="FILE", help="write the milliseconds of first launches here, JSON a line"
    )
    options = parser.parse_args(arguments)
    index, count = map(int, options.shard.split("/"))
    reasons = CudaBackend().unavailable(torch.device("cuda")) if torch.cuda.is_available() else ("torch sees no GPU",)
    if reasons:
        print(f"nothing to call them on: {'; '.join(reasons)}", file=sys.stderr)
        return 2
    chosen = [one for one in cases() if one[0] in options.head_dim][index - 1 :: count]
    shared_kb = gpu.shared_kb(torch.device("cuda", torch.cuda.current_device()))
    expected: set[Variant] = set()
    for head_dim, case in chosen:
        call(case.problem, "cuda")
        expected |= case.variants(head_dim, shared_kb)
    torch.cuda.synchronize()
    seconds = gpu.load_seconds()
    if options.first_calls:
        options.first_calls.write_text("".join(map(_line, seconds, seconds.values())))
    missing = expected - seconds.keys()
    print(f"{len(chosen)} problems, {len(expected)} variants, {len(missing)} of them not launched")
    for one in sorted(one.expression for one in missing):
        print(f"  {one}")
    return int(bool(missing))


def _line(one: Variant, seconds: float) -> str:
    return (
        json.dumps(
            {
                "kernel": one.name,
                "head_dim": one.head_dim,
                "dtype": one.dtype,
                "features": [feature.name for feature in SINGLE if feature & one.features],
                "ms": round(seconds * 1e3, 3),
            }
        )
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
