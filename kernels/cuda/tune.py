"""Time tiles on this GPU: `python -m fa2verify.kernels.cuda.tune --seconds 300`; `--list` shows them on any machine.

For each kernel, head_dim and mask it races candidates round by round with torch's FlashAttention-2, so that the clock
of a warm GPU treats all alike, and prints the best: what the table of `configuration.py` should hold. A candidate that
does not compile or fit, or whose results are further from the truth than flash-attn's rule allows, is recorded with the
reason and not timed. When the time is up the run ends with what it has.

TFLOP/s count the algorithm's products, 4 * batch * heads * seqlen^2 * head_dim forward, half of it if causal, 5/2 of it
backward, as published tables do: `backward_dkdv` and `backward_dq` are given their 2 and 3/2, and their sum is what the
one-pass backward must beat.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from fa2verify.kernels.baseline import baseline
from fa2verify.kernels.cuda import gpu, gpu_compiler
from fa2verify.kernels.cuda.backend import CudaBackend, dq_sum_shape, launch
from fa2verify.kernels.cuda.build_evidence import evidence
from fa2verify.kernels.cuda.candidates import Tuned, blocks_a_multiprocessor, candidates, loads_a_product
from fa2verify.kernels.cuda.configuration import PADDED_HEAD_DIMS, SHARED_KB, Feature, Tiles, variant
from fa2verify.kernels.interface.call import Call
from fa2verify.kernels.problem import Causal, Dense, Problem
from fa2verify.kernels.reference import reference
from fa2verify.kernels.tensors import Tensors, make_tensors

HIDDEN, TOKENS = 2048, 16384  # heads * head_dim and batch * seqlen, as flash-attn's benchmarks have them
_ROUNDS = 7
_FAR = 1.25  # times the fastest: what is slower after two rounds is not timed again
_MIN_MS = 3.0  # of launches between two events, whose resolution (0.5 us) is then far below the noise
# A kernel's products over the forward's two.
_SHARES: dict[Tuned, float] = {"forward": 1, "backward": 2.5, "backward_dkdv": 2, "backward_dq": 1.5}
_WRITES: dict[Tuned, tuple[str, ...]] = {
    "forward": ("out",),
    "backward": ("dq", "dk", "dv"),
    "backward_dkdv": ("dk", "dv"),
    "backward_dq": ("dq",),
}

Launch = Callable[[], object]


@dataclass(frozen=True, slots=True)
class Timing:
    """What one entrant took, or why it could not run.

    tiles         None: torch's FlashAttention-2, of the backward the whole of it
    milliseconds  median over rounds of the mean of a round's launches; NaN if it did not run
    tflops        of the products that the kernel stands for
    failure       why it did not run, or empty
    """

    kernel: Tuned
    head_dim: int
    causal: bool
    seqlen: int
    tiles: Tiles | None
    milliseconds: float
    tflops: float
    failure: str = ""


class Bench:
    """One problem's tensors, and our kernels on them."""

    def __init__(self, problem: Problem, device: str) -> None:
        self.problem = problem
        self.tensors: Tensors = make_tensors(problem, device)
        q, k, v, dout = self.tensors.q, self.tensors.k, self.tensors.v, self.tensors.dout
        lengths = problem.lengths
        if not isinstance(lengths, Dense) or dout is None:
            raise ValueError(f"tiles are timed on dense problems with a backward, not on {problem.to_json()}")
        self.call = Call(
            batch=lengths.batch,
            seqlen_q=lengths.seqlen_q,
            seqlen_k=lengths.seqlen_k,
            heads_q=problem.heads_q,
            heads_kv=problem.heads_kv,
            head_dim=problem.head_dim,
            causal=problem.causal,
            scale=problem.softmax_scale,
        )
        lse = q.new_empty(lengths.batch, problem.heads_q, lengths.seqlen_q, dtype=torch.float32)
        self.named: dict[str, Tensor | None] = {
            "q": q,
            "k": k,
            "v": v,
            "out": torch.empty_like(q),
            "lse": lse,
            "dout": dout,
            "dlse": None,
            "delta": torch.empty_like(lse),
            "dq": torch.empty_like(q),
            "dk": torch.empty_like(k),
            "dv": torch.empty_like(v),
            "dq_sum": q.new_empty(dq_sum_shape(self.call, q), dtype=torch.float32),
        }
        self.run("forward")
        self.preprocess()

    def run(self, kernel: Tuned, tiles: Tiles | None = None) -> None:
        """Launch one kernel."""
        reads = ("q", "k", "v") if kernel == "forward" else ("q", "k", "v", "dout", "lse", "delta")
        writes = {"forward": ("out", "lse"), "backward": ("dq_sum", "dk", "dv")}.get(kernel, _WRITES[kernel])
        launch(kernel, self.call, self._of(reads + writes), tiles)

    def preprocess(self) -> None:
        """What comes before a backward."""
        launch("preprocess", self.call, self._of(("out", "dout", "delta", "dlse", "dq_sum")))

    def whole(self, kernel: Tuned, tiles: Tiles) -> None:
        """The kernel with what else the one-pass backward has to launch, which is thus part of its time."""
        if kernel == "backward":
            self.preprocess()
        self.run(kernel, tiles)
        if kernel == "backward":
            launch("postprocess", self.call, self._of(("dq", "dq_sum")))

    def flash(self, kernel: Tuned) -> Launch:
        """The same by torch's FlashAttention-2: the forward, or the whole backward."""
        q, k, v, dout = (
            tensor.detach().transpose(1, 2)
            for tensor in (self.tensors.q, self.tensors.k, self.tensors.v, self.named["dout"])
            if tensor is not None
        )
        inputs = [tensor.requires_grad_(kernel != "forward") for tensor in (q, k, v)]

        def forward() -> Tensor:
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
                return torch.nn.functional.scaled_dot_product_attention(
                    inputs[0], inputs[1], inputs[2], is_causal=self.problem.causal is not None
                )

        if kernel == "forward":
            return forward
        out = forward()
        return lambda: torch.autograd.grad(out, inputs, dout, retain_graph=True)

    def _of(self, names: Sequence[str]) -> dict[str, Tensor | None]:
        return {name: self.named[name] for name in names}


@cache
def defect(kernel: Tuned, head_dim: int, tiles: Tiles, device: str = "cuda") -> str:
    """Why a candidate must not be timed: it fails, or is off by more than twice PyTorch's error; or empty.

    The rule is flash-attn's own, over whole tensors, on a problem whose lengths are no multiple of any tile, once with
    a causal mask and once without.
    """
    causals: tuple[Causal | None, ...] = (None, "bottom_right")
    for causal in causals:
        problem = Problem(
            lengths=Dense(seqlen_q=290, seqlen_k=330),
            dtype="bfloat16",
            head_dim=head_dim,
            heads_q=4,
            heads_kv=2,
            causal=causal,
            direction="forward_backward",
        )
        bench = Bench(problem, device)
        for name in _WRITES[kernel]:
            tensor = bench.named[name]
            if tensor is not None:
                tensor.fill_(math.nan)
        try:
            bench.whole(kernel, tiles)
            if device == "cuda":
                torch.cuda.synchronize()
        except torch.AcceleratorError:
            raise  # the context is lost: every later figure would be wrong
        except Exception as error:  # noqa: BLE001 - the compiler's error has no public type
            return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
        truth, plain = reference(problem, bench.tensors), baseline(problem, bench.tensors)
        for name in _WRITES[kernel]:
            expected, result = getattr(truth, name), bench.named[name]
            assert result is not None  # only dlse is
            found, allowed = (float((one.double() - expected).abs().max()) for one in (result, getattr(plain, name)))
            if not found <= 2 * allowed:
                return f"{name} is off by {found:.3g}, more than twice PyTorch's {allowed:.3g} ({problem.to_json()})"
    return ""


def race(kernel: Tuned, problem: Problem, shared_kb: int, deadline: float, device: str = "cuda") -> list[Timing]:
    """Time every candidate of one kernel until `deadline` (time.monotonic), fastest first, failures last."""
    bench = Bench(problem, device)
    entrants: dict[Tiles | None, Launch] = {None: bench.flash(kernel)}
    failures: dict[Tiles | None, str] = {}
    for tiles in candidates(kernel, problem.head_dim, shared_kb):
        if failure := defect(kernel, problem.head_dim, tiles, device):
            failures[tiles] = failure
        else:
            entrants[tiles] = lambda tiles=tiles: bench.whole(kernel, tiles)  # type: ignore[misc]
    samples: dict[Tiles | None, list[float]] = {entrant: [] for entrant in entrants}
    repeats = {entrant: math.ceil(_MIN_MS / max(_time(run, 1), _MIN_MS / 100)) for entrant, run in entrants.items()}
    for index in range(_ROUNDS):
        if index > 2 and time.monotonic() > deadline:
            break
        for entrant, run in entrants.items():
            samples[entrant].append(_time(run, repeats[entrant]))
        if index == 1:
            limit = _FAR * min(min(times) for times in samples.values())
            entrants = {one: run for one, run in entrants.items() if one is None or min(samples[one]) < limit}
    medians = {entrant: statistics.median(times) for entrant, times in samples.items()}
    timings = [_timing(kernel, problem, entrant, took) for entrant, took in medians.items()]
    timings.sort(key=lambda timing: timing.milliseconds)
    return timings + [_timing(kernel, problem, tiles, math.nan, failure) for tiles, failure in failures.items()]


def _timing(kernel: Tuned, problem: Problem, tiles: Tiles | None, milliseconds: float, failure: str = "") -> Timing:
    share = 2.5 if tiles is None and kernel != "forward" else _SHARES[kernel]
    lengths = problem.lengths
    assert isinstance(lengths, Dense)  # `Bench` has looked
    products = 4 * lengths.batch * lengths.seqlen_q * lengths.seqlen_k * problem.heads_q * problem.head_dim
    flops = share * products / (2 if problem.causal else 1)
    causal = problem.causal is not None
    tflops = flops / milliseconds / 1e9
    return Timing(kernel, problem.head_dim, causal, lengths.seqlen_q, tiles, milliseconds, tflops, failure)


def _time(run: Launch, repeats: int) -> float:
    """Milliseconds a launch, over `repeats` in a row."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / repeats


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the races; returns the exit status: 2 where there is no GPU to time."""
    parser = argparse.ArgumentParser(prog="tune", description="Time tiles of the CUDA kernels on this GPU.")
    parser.add_argument("--list", action="store_true", help="show the candidates and what they take; needs no GPU")
    parser.add_argument("--seconds", type=float, default=300, help="end within about this (default: %(default)s)")
    parser.add_argument("--kernel", nargs="+", choices=get_args(Tuned), default=["backward", "forward"])
    parser.add_argument("--head-dim", nargs="+", type=int, choices=PADDED_HEAD_DIMS, default=[128, 64, 256])
    parser.add_argument("--seqlen", nargs="+", type=int, default=[4096])
    parser.add_argument(
        "--shared-kb", type=int, choices=SHARED_KB, default=SHARED_KB[-1], help="for --list (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, default=Path("tune.json"), help="every timing (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    if chosen.list:
        for kernel in chosen.kernel:
            for head_dim in chosen.head_dim:
                _print_candidates(kernel, head_dim, chosen.shared_kb)
        return 0
    reasons = CudaBackend().unavailable(torch.device("cuda")) if torch.cuda.is_available() else ("torch sees no GPU",)
    if reasons:
        print(f"nothing to time on: {'; '.join(reasons)}. --list shows the candidates.", file=sys.stderr)
        return 2
    causals: tuple[Causal | None, ...] = (None, "bottom_right")
    races = [
        (kernel, _problem(head_dim, seqlen, causal))
        for seqlen in chosen.seqlen
        for head_dim in chosen.head_dim
        for kernel in chosen.kernel
        for causal in causals
    ]
    shared_kb = gpu.shared_kb(torch.device("cuda", torch.cuda.current_device()))
    end = time.monotonic() + chosen.seconds
    found: list[Timing] = []
    for index, (kernel, problem) in enumerate(races):
        left = end - time.monotonic()
        if left <= 0:
            print(f"time is up: {len(races) - index} of {len(races)} races not run")
            break
        timings = race(kernel, problem, shared_kb, time.monotonic() + left / (len(races) - index))
        found += timings
        _print(timings)
        device = {"device": torch.cuda.get_device_name(), "shared_kb": shared_kb, "torch": torch.__version__}
        chosen.out.write_text(json.dumps({**device, "timings": [asdict(timing) for timing in found]}, indent=1) + "\n")
    return 0


def _problem(head_dim: int, seqlen: int, causal: Causal | None) -> Problem:
    heads = HIDDEN // head_dim
    return Problem(
        lengths=Dense(batch=max(1, TOKENS // seqlen), seqlen_q=seqlen, seqlen_k=seqlen),
        dtype="bfloat16",
        head_dim=head_dim,
        heads_q=heads,
        heads_kv=heads,
        causal=causal,
        direction="forward_backward",
    )


def _print(timings: Sequence[Timing]) -> None:
    first = timings[0]
    failed = [timing for timing in timings if timing.failure]
    mask = "causal" if first.causal else "full"
    print(f"\n{first.kernel} head_dim {first.head_dim} {mask} seqlen {first.seqlen}: {len(failed)} could not run")
    for timing in timings:
        if timing.failure:
            print(f"  {_tiles(timing.tiles)}  {timing.failure[:140]}")
        else:
            print(f"  {_tiles(timing.tiles)}  {timing.milliseconds:8.3f} ms  {timing.tflops:6.1f} TFLOP/s")
    sys.stdout.flush()


def _tiles(tiles: Tiles | None) -> str:
    if tiles is None:
        return f"{'torch flash':56}"
    spread = f", spread {'/'.join(map(str, tiles.spread))}" if any(tiles.spread) else ""
    level = f", -O{tiles.level}" if tiles.level != 3 else ""
    text = f"{tiles.block_m} x {tiles.block_n}, {tiles.warps} warps, {tiles.stages} stages{spread}{level}"
    return f"{text:56}"


def _print_candidates(kernel: Tuned, head_dim: int, shared_kb: int) -> None:
    print(f"\n{kernel} head_dim {head_dim}, {shared_kb} KB of shared memory a block; the table's tiles first")
    arch = {99: "sm_86", 163: "sm_80", 227: "sm_90"}[shared_kb]
    compiles = not gpu_compiler.unavailable()
    for tiles in candidates(kernel, head_dim, shared_kb):
        one = variant(kernel, "bfloat16", head_dim, Feature(0), tiles=tiles)
        line = f"  {_tiles(tiles)}  {one.shared_bytes / 1024:6.1f} KB"
        if kernel == "backward":
            line += f"  {loads_a_product(tiles, head_dim):.2f} loads a product"
        if compiles:
            took = evidence(one, arch)
            blocks = blocks_a_multiprocessor(one.shared_bytes, one.threads, took.registers, shared_kb)
            line += f"  {took.registers} registers, {took.spill_stores + took.spill_loads} bytes spilled"
            line += f"  {blocks * tiles.warps} warps a multiprocessor"
        print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
