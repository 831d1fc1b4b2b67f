"""Room on a GPU that several workers share: for one large problem at a time, and for every drawn one.

A large problem takes tens of GB. Whoever tries one holds a lock, so that no two meet, and waits until the others have
given back enough. Without either, a kernel would be said to run out of memory that its neighbours took. That happens to
small problems too, where neighbours keep what they have used: so nobody keeps much, and nobody starts where little is.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock

_GIB = 2**30
# Seconds to wait for memory that others hold: as long as a call takes. What their allocators keep may never come back.
_PATIENCE = 10.0
# The same before a drawn problem, without which nothing would be verified: longer than a neighbour's large one takes.
_LONG_PATIENCE = 60.0
_POLL = 0.5
# A drawn problem takes a GB or two with its reference (`sizes.SIZES`); of a small GPU, a share is left for it.
_FOR_DRAWN, _SHARE = 8 * _GIB, 16
# What a worker's allocator may keep for the next problem.
_KEPT = 2 * _GIB


@contextmanager
def room(directory: Path, device: torch.device, needed: int) -> Iterator[tuple[str, ...]]:
    """Hold `device` for a problem that takes `needed` bytes; gives why there is no room, in sentences. Empty: there is.

    directory  where the lock is kept, a file for each GPU, which other workers of the run share
    """
    if device.type != "cuda":
        yield ()
        return
    gpu = torch.cuda.get_device_properties(device).uuid
    with FileLock(directory / f".room-{gpu}.lock"):
        try:
            yield _wanting(device, needed)
        finally:
            torch.cuda.empty_cache()


class Crowded(BaseException):
    """A GPU too full to try a drawn problem on; no Exception, so that Hypothesis does not set out to shrink it."""


def wait_for_room(device: torch.device) -> None:
    """Return when `device` has room for a drawn problem. Raises Crowded if it has none for a minute."""
    if device.type != "cuda":
        return
    if torch.cuda.memory_reserved(device) > _KEPT:
        torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    needed = min(_FOR_DRAWN, total // _SHARE)
    if free >= needed:
        return
    torch.cuda.empty_cache()
    free = _wait(device, needed, _LONG_PATIENCE)
    if free < needed:
        raise Crowded(
            f"nothing was tried: problems are begun only where {needed / _GIB:.1f} GiB of a GPU's {total / _GIB:.1f} "
            f"are free, and {free / _GIB:.1f} were for {_LONG_PATIENCE:.0f} s. Others hold the rest; fewer workers "
            "(-n) hold less"
        )


def clear(directory: Path) -> None:
    """Remove the locks, which nobody holds any more."""
    for file in directory.glob(".room-*.lock"):
        file.unlink()


def _wanting(device: torch.device, needed: int) -> tuple[str, ...]:
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    if needed > total:
        return (f"It takes {needed / _GIB:.0f} GiB of GPU memory at once, and this GPU has {total / _GIB:.0f}.",)
    free = _wait(device, needed, _PATIENCE)
    if free >= needed:
        return ()
    return (
        f"It takes {needed / _GIB:.0f} GiB of GPU memory at once, and {free / _GIB:.0f} of {total / _GIB:.0f} were "
        f"free for {_PATIENCE:.0f} s: others hold the rest. Fewer workers (-n) leave more.",
    )


def _wait(device: torch.device, needed: int, patience: float) -> int:
    """The bytes that are free: `needed` at least, or what there is after so many seconds."""
    until = time.monotonic() + patience
    free, _ = torch.cuda.mem_get_info(device)
    while free < needed and time.monotonic() < until:
        time.sleep(_POLL)
        free, _ = torch.cuda.mem_get_info(device)
    return free
