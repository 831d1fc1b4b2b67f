"""The same call again: the same bits where the problem is deterministic, an answer as right as the first elsewhere.

On a GPU what decides is what else it is doing: which blocks run at once, and in which order their atomics arrive. So
there every call is repeated, the device idle, partly and fully taken by other streams in turn. A defect that shows in
one call of a hundred is missed by n calls with a chance of 0.99^n; a run in the default profile makes a few hundred.

On a CPU nothing else runs inside a call. What can differ from one call to the next is a schedule that is drawn anew, as
the emulator's is, or state that the kernel keeps: one more call, of those that promise their bits, shows either.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from fa2verify.verify.judgement.judge import Breach, judge
from fa2verify.verify.relations.relation import Call, bits_breach

RULE = "R4 repetition"

# Calls after the first, by device type.
REPEATS = {"cpu": 1, "cuda": 15}

# What other streams are given before a call: matrices of this width, on so many streams, so often. One of 256 takes a
# few of a GPU's processors, four of 2048 all; twenty in a row outlast a call of the size that is drawn.
_LOADS = ((0, 0, 0), (256, 1, 20), (2048, 4, 20))


def repetition(call: Call) -> Breach | None:
    """Call again, and compare. Raises what the kernel raises."""
    device = call.tensors.q.device
    if not _repeated(call):
        return None
    for repeat in range(1, REPEATS[device.type] + 1):
        with busy(device, repeat):
            outputs = call.kernel(call.problem, call.tensors)
        which = f"call {repeat + 1}"
        if not call.ordered:
            judgement = judge(call.problem, call.kernel, outputs, call.truth)
            if not judgement.passed:
                return f"{RULE}, {judgement.rule}", f"{which}: {judgement.message}"
            continue
        for name in call.owed:
            breach = bits_breach(RULE, name, getattr(call.outputs, name), getattr(outputs, name, None), which)
            if breach:
                return breach
    return None


def _repeated(call: Call) -> bool:
    return call.ordered or call.tensors.q.device.type != "cpu"


@contextmanager
def busy(device: torch.device, turn: int) -> Iterator[None]:
    """Give the device's other streams work that runs beside the block's; nothing on a CPU.

    turn  selects how much: none, a little, all of the device
    """
    if device.type == "cpu":
        yield
        return
    width, streams, times = _LOADS[turn % len(_LOADS)]
    matrix = torch.ones(width, width, dtype=torch.float16, device=device)
    torch.cuda.current_stream(device).synchronize()
    others = _other_streams(device)[:streams]
    for other in others:
        with torch.cuda.stream(other):
            for _ in range(times):
                matrix @ matrix  # what it gives is nobody's; its memory stays this stream's
    try:
        yield
    finally:
        for other in others:
            other.synchronize()


@cache
def _other_streams(device: torch.device) -> tuple[torch.cuda.Stream, ...]:
    """As many as any load takes, always the same: cuBLAS keeps tens of MB for each stream that it was called on."""
    most = max(streams for _, streams, _ in _LOADS)
    return tuple(torch.cuda.Stream(device) for _ in range(most))  # type: ignore[no-untyped-call]
