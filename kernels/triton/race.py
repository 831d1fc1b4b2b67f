"""Races between launch configurations on a GPU: the tensors, the compiling, and rounds in which each is timed once.

Round by round, because a GPU's clock falls as it warms and rises as it rests: entrants that take turns meet the same
clock, and what differs between two rounds of one entrant is the noise by which two entrants may differ and be equal.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from fa2verify.kernels.interface.call import Call
from fa2verify.kernels.triton.arguments import padded_block_d
from fa2verify.kernels.triton.configuration import Configuration, Pass, table_entry
from fa2verify.kernels.triton.launch import compile_only

_FAR = 1.25
_MIN_MS = 3.0  # of launches between two events, so that their resolution (0.5 us) is far below the noise
# After as many rounds, whatever is far behind is not timed again; one more, and the deadline may end the race.
_TRIAL_ROUNDS = 2

Launch = Callable[[], None]
Entrant = TypeVar("Entrant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One problem to time, dense and bf16, with as many keys as queries and one key head a query head.

    tokens  batch * seqlen
    hidden  heads * head_dim
    """

    head_dim: int
    causal: bool
    seqlen: int
    tokens: int
    hidden: int

    @property
    def flops(self) -> float:
        """Of the forward's two products."""
        return 4 * self.tokens * self.seqlen * self.hidden / (2 if self.causal else 1)


class Tensors:
    """A shape's tensors on a device, drawn from a generator of their own, and each pass as something to launch."""

    def __init__(self, shape: Shape, device: torch.device) -> None:
        from fa2verify.kernels.triton.forward import forward
        from fa2verify.kernels.triton.preprocess import preprocess

        heads, batch = shape.hidden // shape.head_dim, max(1, shape.tokens // shape.seqlen)
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
        # The table's entry, by name: a first call that asked which to take would begin another race inside this one.
        entry = table_entry("forward", padded_block_d(shape.head_dim), device)
        forward(self.call, self.q, self.k, self.v, self.out, self.lse, entry)
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


@dataclass(frozen=True, slots=True)
class Result(Generic[Entrant]):
    """What a race measured.

    samples   milliseconds a launch, one a round; fewer for those that fell far behind
    failures  why others could not run
    """

    samples: dict[Entrant, list[float]]
    failures: dict[Entrant, str]


def race(entrants: Mapping[Entrant, Launch], reference: Entrant, rounds: int, deadline: float) -> Result[Entrant]:
    """Time the entrants on the current stream in `rounds` rounds, or in three or more where `deadline` comes first.

    reference  the one that the others are compared with: it stays to the end, however slow, and nobody is far behind it
    deadline   of time.monotonic()
    Raises torch.AcceleratorError where a launch took the CUDA context with it.
    """
    failures = {entrant: failure for entrant, launch in entrants.items() if (failure := attempt(launch))}
    left = {entrant: launch for entrant, launch in entrants.items() if entrant not in failures}
    samples: dict[Entrant, list[float]] = {entrant: [] for entrant in left}
    repeats = {entrant: math.ceil(_MIN_MS / max(timed(launch, 1), _MIN_MS / 100)) for entrant, launch in left.items()}
    for round_index in range(rounds):
        if round_index > _TRIAL_ROUNDS and time.monotonic() > deadline:
            break
        for entrant, launch in left.items():
            samples[entrant].append(timed(launch, repeats[entrant]))
        others = [min(times) for entrant, times in samples.items() if entrant != reference]
        if round_index == _TRIAL_ROUNDS - 1 and others:
            limit = _FAR * min(others)
            left = {
                entrant: launch
                for entrant, launch in left.items()
                if entrant == reference or min(samples[entrant]) < limit
            }
    return Result(samples, failures)


def compile_all(launches: Sequence[Launch], deadline: float = math.inf) -> int:
    """Compile what the launches need on all processors: one after the other would take most of the time there is.

    Returns how many were compiled, the first ones: those that would begin after `deadline`, of time.monotonic(), are
    left out, but never the first. What does not compile says so when it is launched.
    """
    import triton

    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    done = 0
    while done < len(launches) and (not done or time.monotonic() < deadline):
        wave = launches[done : done + processors]
        with (
            ThreadPoolExecutor(processors) as pool,
            triton.AsyncCompileMode(pool, ignore_errors=True),
            compile_only(),
        ):
            for launch in wave:
                launch()
        done += len(wave)
    return done


def attempt(launch: Launch) -> str:
    """Launch once and wait for it; why it could not run, or an empty string."""
    try:
        launch()
        synchronise()
    except torch.AcceleratorError:
        raise  # the context may be lost: every later figure would be wrong
    except Exception as error:  # noqa: BLE001 - the compiler's: whatever it raises is why this cannot run
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
    return ""


def synchronise() -> None:
    """Wait for the current stream, and no other: what another one waits for may be this process' next step."""
    torch.cuda.current_stream().synchronize()


def timed(launch: Launch, repeats: int) -> float:
    """Milliseconds a launch, over `repeats` in a row on the current stream."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    for _ in range(repeats):
        launch()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / repeats
