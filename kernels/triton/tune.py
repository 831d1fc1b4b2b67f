"""Time launch configurations on this GPU: `python -m fa2verify.kernels.triton.tune --seconds 300`.

For each pass, head_dim and mask it races a pruned list of configurations, interleaved round by round with torch's
FlashAttention-2 so that the clock of a warm GPU treats all alike, and prints the best. The rows of
`fa2verify.kernels.triton.configuration` come from here. What does not compile or fit is recorded with its reason, and
when the time is up the run ends with what it has.

TFLOP/s count the algorithm's products, 4 * batch * heads * seqlen^2 * head_dim forward, half of it if causal, 5/2 of it
backward, as published tables do: recomputed products are not counted.
"""

import argparse
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from fa2verify.kernels.interface.call import Call
from fa2verify.kernels.triton.configuration import Configuration, Pass
from fa2verify.kernels.triton.launch import compile_only
from fa2verify.kernels.triton.mode import interpreting

HIDDEN, TOKENS = 2048, 16384  # heads * head_dim and batch * seqlen, as flash-attn's benchmarks have them
_ROUNDS = 7
_FAR = 1.25
_MIN_MS = 3.0  # of launches between two events, so that their resolution (0.5 us) is far below the noise

Launch = Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One problem to time."""

    head_dim: int
    causal: bool
    seqlen: int

    @property
    def flops(self) -> float:
        """Of the forward's two products."""
        return 4 * TOKENS * self.seqlen * HIDDEN / (2 if self.causal else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What one configuration took, or why it could not run.

    milliseconds  median over rounds of the mean of a round's launches; NaN if it failed
    tflops        of the products that the pass computes: two forward, four for dK and dV, three for dQ
    failure       why it could not run, or empty
    """

    name: str
    shape: Shape
    config: Configuration | None
    milliseconds: float
    tflops: float
    failure: str = ""


def candidates(name: Pass, head_dim: int) -> Iterator[Configuration]:
    """Configurations worth timing: those whose accumulators fit the registers of their warps."""
    blocks: dict[Pass, list[tuple[int, int]]] = {
        "forward": [(64, 32), (64, 64), (64, 128), (128, 32), (128, 64), (128, 128), (256, 64)],
        "backward_dkdv": [(16, 64), (32, 64), (32, 128), (64, 64), (64, 128), (128, 64), (128, 128)],
        "backward_dq": [(64, 32), (64, 64), (64, 128), (128, 32), (128, 64), (128, 128)],
    }
    for block_m, block_n in blocks[name]:
        for num_warps in (4, 8):
            # A warpgroup's matrix instruction is 64 rows high: with fewer rows warpgroups split columns, and lose.
            if num_warps == 8 and head_dim <= 128 and (block_n if name == "backward_dkdv" else block_m) < 128:
                continue
            if _registers(name, head_dim, block_m, block_n) / (32 * num_warps) > _REGISTER_BUDGET:
                continue
            for num_stages, descriptors in product((1, 2) if head_dim > 128 else (2, 3), (False, True)):
                if _shared_kb(name, head_dim, block_m, block_n, num_stages) <= 227:
                    yield Configuration(block_m, block_n, num_warps, num_stages, descriptors)


# fp32 values a thread: 255 registers, of which addresses and indices need some. A little over it still may win.
_REGISTER_BUDGET = 250


def _registers(name: Pass, head_dim: int, block_m: int, block_n: int) -> int:
    """fp32 values that a program holds at its fullest: accumulators, scores, their gradient, operands half as wide."""
    scores = block_m * block_n
    if name == "forward":
        return block_m * head_dim + scores * 3 // 2
    if name == "backward_dq":
        return block_m * head_dim + scores * 5 // 2
    return 2 * block_n * head_dim + scores * 2


def _shared_kb(name: Pass, head_dim: int, block_m: int, block_n: int, num_stages: int) -> float:
    """KB of shared memory, near enough to leave out what cannot fit: resident tiles and the pipeline's."""
    resident, moving = {
        "forward": (block_m, 2 * block_n),
        "backward_dq": (2 * block_m, 2 * block_n),
        "backward_dkdv": (2 * block_n, 2 * block_m),
    }[name]
    return 2 * head_dim * (resident + moving * max(1, num_stages - 1)) / 1024


class Tensors:
    """A shape's tensors, and each pass as something to launch."""

    def __init__(self, shape: Shape, device: str = "cuda") -> None:
        from fa2verify.kernels.triton.forward import forward
        from fa2verify.kernels.triton.preprocess import preprocess

        heads, batch = HIDDEN // shape.head_dim, max(1, TOKENS // shape.seqlen)
        size = (batch, shape.seqlen, heads, shape.head_dim)
        generator = torch.Generator(device).manual_seed(0)

        def randn() -> Tensor:
            return torch.randn(size, generator=generator, device=device, dtype=torch.bfloat16)

        self.q, self.k, self.v, self.dout = (randn() for _ in range(4))
        self.out, self.dq, self.dk, self.dv = (torch.empty_like(self.q) for _ in range(4))
        self.lse, self.delta, self.lse_log2 = (
            torch.empty(batch, heads, shape.seqlen, device=device, dtype=torch.float32) for _ in range(3)
        )
        self.call = Call(
            batch=batch,
            seqlen_q=shape.seqlen,
            seqlen_k=shape.seqlen,
            heads_q=heads,
            heads_kv=heads,
            head_dim=shape.head_dim,
            causal="bottom_right" if shape.causal else None,
            scale=1 / math.sqrt(shape.head_dim),
        )
        forward(self.call, self.q, self.k, self.v, self.out, self.lse)
        preprocess(self.call, self.out, self.dout, self.lse, None, self.delta, self.lse_log2)

    def launch(self, name: Pass, config: Configuration) -> Launch:
        """One pass with one configuration."""
        from fa2verify.kernels.triton.backward_dkdv import backward_dkdv
        from fa2verify.kernels.triton.backward_dq import backward_dq
        from fa2verify.kernels.triton.forward import forward

        inputs = (self.call, self.q, self.k, self.v)
        backward = (*inputs, self.dout, self.lse_log2, self.delta)
        launches: dict[Pass, Launch] = {
            "forward": lambda: forward(*inputs, self.out, self.lse, config),
            "backward_dkdv": lambda: backward_dkdv(*backward, self.dk, self.dv, config),
            "backward_dq": lambda: backward_dq(*backward, self.dq, config),
        }
        return launches[name]

    def flash(self, name: Pass, causal: bool) -> Launch:
        """The same pass by torch's FlashAttention-2: the forward, or the whole backward."""
        q, k, v = (x.transpose(1, 2).detach().requires_grad_(name != "forward") for x in (self.q, self.k, self.v))
        dout = self.dout.transpose(1, 2)

        def run() -> Tensor:
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
                return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

        if name == "forward":
            return lambda: void(run())
        out = run()
        return lambda: void(torch.autograd.grad(out, (q, k, v), dout, retain_graph=True))


def void(_: object) -> None:
    """Drop a result."""


# Products of a pass over the forward's two.
_SHARES: dict[Pass, float] = {"forward": 1, "backward_dkdv": 2.0, "backward_dq": 1.5}
_BACKWARD = 2.5


def race(name: Pass, shape: Shape, deadline: float) -> list[Timing]:
    """Time every candidate of one pass, best first; failures last."""
    tensors = Tensors(shape)
    entrants: dict[Configuration | None, Launch] = {None: tensors.flash(name, shape.causal)}
    timings: list[Timing] = []
    launches = {config: tensors.launch(name, config) for config in candidates(name, shape.head_dim)}
    compile_all(list(launches.values()))
    for config, launch in launches.items():
        failure = attempt(launch)
        if failure:
            timings.append(_timing(name, shape, config, math.nan, failure))
        else:
            entrants[config] = launch
    samples: dict[Configuration | None, list[float]] = {config: [] for config in entrants}
    repeats = {entrant: math.ceil(_MIN_MS / max(_time(run, 1), _MIN_MS / 100)) for entrant, run in entrants.items()}
    for round_index in range(_ROUNDS):
        if round_index > 2 and time.monotonic() > deadline:
            break
        for entrant, run in entrants.items():
            samples[entrant].append(_time(run, repeats[entrant]))
        if round_index == 1 and len(samples) > 1:
            # Whatever is far behind after two rounds is not timed again.
            fastest = {entrant: min(times) for entrant, times in samples.items()}
            limit = _FAR * min(fast for entrant, fast in fastest.items() if entrant is not None)
            entrants = {
                entrant: run for entrant, run in entrants.items() if entrant is None or fastest[entrant] < limit
            }
    timings += [_timing(name, shape, entrant, statistics.median(times)) for entrant, times in samples.items()]
    return sorted(timings, key=lambda timing: timing.milliseconds if timing.milliseconds > 0 else math.inf)


def compile_all(launches: list[Launch]) -> None:
    """Compile what the launches need on all processors: one after the other would take most of the time there is."""
    import triton

    with ThreadPoolExecutor(os.cpu_count()) as pool, triton.AsyncCompileMode(pool, ignore_errors=True), compile_only():
        for launch in launches:
            launch()


def attempt(launch: Launch) -> str:
    """Launch once; why it could not, or an empty string."""
    import triton

    try:
        launch()
        torch.cuda.synchronize()
    except (triton.runtime.errors.OutOfResources, triton.compiler.CompilationError, RuntimeError) as error:
        if isinstance(error, torch.AcceleratorError):
            raise  # the context is lost: every later figure would be wrong
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return ""


def _time(launch: Launch, repeats: int) -> float:
    """Milliseconds a launch, over `repeats` in a row."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(repeats):
        launch()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / repeats


def _timing(name: Pass, shape: Shape, config: Configuration | None, milliseconds: float, failure: str = "") -> Timing:
    share = _BACKWARD if config is None and name != "forward" else _SHARES[name]
    return Timing(
        name=name if config is not None else f"{name} (torch flash)",
        shape=shape,
        config=config,
        milliseconds=milliseconds,
        tflops=shape.flops * share / milliseconds / 1e9,
        failure=failure,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the races; returns the exit status."""
    parser = argparse.ArgumentParser(prog="tune", description="Time launch configurations on this GPU.")
    parser.add_argument("--seconds", type=float, default=300, help="end within about this (default: %(default)s)")
    parser.add_argument("--name", action="append", choices=tuple(_SHARES), help="only this pass; repeatable")
    parser.add_argument("--head-dim", type=int, action="append", help="default: 128, 64, 256")
    parser.add_argument("--seqlen", type=int, action="append", help="default: 4096")
    parser.add_argument(
        "--out", type=Path, default=Path("tune.json"), help="JSON of every timing (default: %(default)s)"
    )
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available() or interpreting():
        print("tune needs a GPU that triton compiles for", file=sys.stderr)
        return 2
    names: tuple[Pass, ...] = tuple(chosen.name or _SHARES)
    shapes = [
        Shape(head_dim=head_dim, causal=causal, seqlen=seqlen)
        for seqlen in chosen.seqlen or [4096]
        for head_dim in chosen.head_dim or [128, 64, 256]
        for causal in (False, True)
    ]
    races = [(name, shape) for shape in shapes for name in names]
    end = time.monotonic() + chosen.seconds
    found: list[Timing] = []
    for index, (name, shape) in enumerate(races):
        left = end - time.monotonic()
        if left <= 0:
            print(f"time is up: {len(races) - index} of {len(races)} races not run")
            break
        # Each race may take an equal part of what is left, compiling included.
        timings = race(name, shape, time.monotonic() + left / (len(races) - index))
        found += timings
        _print(timings)
        if name == names[-1]:
            _summarise([timing for timing in found if timing.shape == shape])
        chosen.out.write_text(
            json.dumps(
                {
                    "device": torch.cuda.get_device_name(),
                    "torch": torch.__version__,
                    "timings": [asdict(timing) for timing in found],
                },
                indent=1,
            )
        )
    return 0


def _print(timings: list[Timing], most: int = 6) -> None:
    shape = timings[0].shape
    mask = "causal" if shape.causal else "full"
    failed = [timing for timing in timings if timing.failure]
    print(
        f"\nhead_dim {shape.head_dim} {mask} seqlen {shape.seqlen}: {len(timings)} timed, {len(failed)} could not run"
    )
    reference = [timing for timing in timings if timing.config is None]
    for timing in [*[t for t in timings if t.config is not None and not t.failure][:most], *reference]:
        print(f"  {timing.name:32} {_row(timing.config)}  {timing.milliseconds:8.3f} ms  {timing.tflops:6.1f} TFLOP/s")
    for failure in sorted({timing.failure[:100] for timing in failed}):
        print(f"  could not run: {failure}")
    sys.stdout.flush()


def _summarise(timings: list[Timing]) -> None:
    """The backward by both passes' best, without preprocess, beside torch's."""

    def best(name: str) -> float:
        return min((t.milliseconds for t in timings if t.name == name and not t.failure), default=math.nan)

    flops = timings[0].shape.flops * _BACKWARD
    of_flash = [t.milliseconds for t in timings if t.config is None and not t.name.startswith("forward")]
    for whose, milliseconds in (
        ("both passes", best("backward_dkdv") + best("backward_dq")),
        ("torch flash", min(of_flash, default=math.nan)),
    ):
        print(f"  backward {whose:12} {milliseconds:8.3f} ms  {flops / milliseconds / 1e9:6.1f} TFLOP/s")
    sys.stdout.flush()


def _row(config: Configuration | None) -> str:
    if config is None:
        return f"{'':32}"
    loads = "TMA" if config.descriptors else ""
    return f"{config.block_m:3} x {config.block_n:3}, {config.num_warps} warps, {config.num_stages} stages {loads:5}"


if __name__ == "__main__":
    sys.exit(main())
