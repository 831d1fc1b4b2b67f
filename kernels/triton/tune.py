"""Time launch configurations on this GPU: `python -m fa2verify.kernels.triton.tune --seconds 300`.

For each pass, head_dim and mask it races a pruned list of configurations, interleaved round by round with torch's
FlashAttention-2, and prints the best. The rows of `fa2verify.kernels.triton.configuration` come from here. What does
not compile or fit is recorded with its reason, and when the time is up the run ends with what it has.

TFLOP/s count the algorithm's products, 4 * batch * heads * seqlen^2 * head_dim forward, half of it if causal, 5/2 of it
backward, as published tables do: recomputed products are not counted.
"""

import argparse
import json
import math
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from fa2verify.kernels.triton.candidates import RACED, candidates
from fa2verify.kernels.triton.configuration import Configuration, Pass
from fa2verify.kernels.triton.mode import interpreting
from fa2verify.kernels.triton.race import Launch, Shape, Tensors, compile_all, race

HIDDEN, TOKENS = 2048, 16384  # heads * head_dim and batch * seqlen, as flash-attn's benchmarks have them
_ROUNDS = 7


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


def flash(tensors: Tensors, name: Pass, causal: bool) -> Launch:
    """One pass by torch's FlashAttention-2: the forward, or the whole backward."""
    q, k, v = (x.transpose(1, 2).detach().requires_grad_(name != "forward") for x in (tensors.q, tensors.k, tensors.v))
    dout = tensors.dout.transpose(1, 2)

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


def race_all(name: Pass, shape: Shape, deadline: float) -> list[Timing]:
    """Time every candidate of one pass, best first; failures last."""
    tensors = Tensors(shape, torch.device("cuda", torch.cuda.current_device()))
    entrants: dict[Configuration | None, Launch] = {None: flash(tensors, name, shape.causal)}
    launches = {config: tensors.launch(name, config) for config in candidates(name, shape.head_dim)}
    compile_all(list(launches.values()))
    result = race({**entrants, **launches}, None, _ROUNDS, deadline)
    timings = [_timing(name, shape, config, math.nan, failure) for config, failure in result.failures.items()]
    timings += [_timing(name, shape, entrant, statistics.median(times)) for entrant, times in result.samples.items()]
    return sorted(timings, key=lambda timing: timing.milliseconds if timing.milliseconds > 0 else math.inf)


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
    parser.add_argument("--name", action="append", choices=RACED, help="only this pass; repeatable")
    parser.add_argument("--head-dim", type=int, action="append", help="default: 128, 64, 256")
    parser.add_argument("--seqlen", type=int, action="append", help="default: 4096")
    parser.add_argument(
        "--out", type=Path, default=Path("tune.json"), help="JSON of every timing (default: %(default)s)"
    )
    chosen = parser.parse_args(arguments)
    if not torch.cuda.is_available() or interpreting():
        print("tune needs a GPU that triton compiles for", file=sys.stderr)
        return 2
    names: tuple[Pass, ...] = tuple(chosen.name or RACED)
    shapes = [
        Shape(head_dim=head_dim, causal=causal, seqlen=seqlen, tokens=TOKENS, hidden=HIDDEN)
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
        timings = race_all(name, shape, time.monotonic() + left / (len(races) - index))
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
        config = str(timing.config or "")
        print(f"  {timing.name:32} {config:36}  {timing.milliseconds:8.3f} ms  {timing.tflops:6.1f} TFLOP/s")
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


if __name__ == "__main__":
    sys.exit(main())
