"""Which configuration a call takes: the table's, or on a GPU without rows of its own the winner of one race.

There the first call of a pass and padded head_dim races the table's entry against a few neighbours on one fixed
shape, and the winner is remembered on disk: every later process takes it, so one machine gives one call the same bits.
Lengths, dtype and mask do not choose; why, say docs/decisions/0006-tiles-from-a-table.md and
0007-an-unknown-gpu-races-once.md.

FA2VERIFY_TILES=table never races, and takes nothing that was; FA2VERIFY_TILES=race races on known GPUs too. Nothing
races while the calling stream is captured into a CUDA graph, within `compile_only`, or under the interpreter. Where a
race cannot be run to its end, read or written down, the log has a warning and the table's entry serves: no call fails
for it. A process keeps to what its first call took that was not captured.
"""

import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from statistics import median

import torch
from filelock import FileLock

from fa2verify.kernels.triton import remembered
from fa2verify.kernels.triton.candidates import RACED, neighbours
from fa2verify.kernels.triton.configuration import Configuration, Pass, has_tma, shared_memory, table_entry
from fa2verify.kernels.triton.launch import compiling_only
from fa2verify.kernels.triton.mode import interpreting
from fa2verify.kernels.triton.race import Result, Shape, Tensors, compile_all, race

VARIABLE = "FA2VERIFY_TILES"
# Compute capability, and KB of shared memory a block, of GPUs on which rows of the table won a race: those of head_dim
# 64, 128 and 256. Those of 16 and 32 were never raced and serve there all the same.
_KNOWN = (((9, 0), 227),)
# The one shape. 300 MB of tensors, and some milliseconds a launch on the smallest GPU that can run it.
_SEQLEN, _TOKENS, _HIDDEN = 2048, 8192, 2048
# Of `wins`, which derives them.
_ROUNDS = 11
# Seconds: after these a race compiles no more entrants, and after as many more it times no more rounds.
_LONGEST = 10.0
# Seconds to wait for what the caller's stream has to do, and for a process that is racing.
_IDLE_PATIENCE, _LOCK_PATIENCE = 10.0, 60.0

_log = logging.getLogger(__name__)
_taken: dict[tuple[Pass, int, torch.device], Configuration] = {}


@dataclass(frozen=True, slots=True)
class Gpu:
    """What of a GPU decides its tiles.

    shared_memory  KB that a block may have, opted in
    tma            whether it can load tiles through descriptors
    """

    name: str
    capability: tuple[int, int]
    shared_memory: int
    tma: bool

    @property
    def known(self) -> bool:
        """Whether rows of the table for it were raced."""
        return any(self.capability == capability and self.shared_memory >= level for capability, level in _KNOWN)


def configuration(name: Pass, block_d: int, device: torch.device) -> Configuration:
    """Say which configuration a pass takes for tensors on `device`; the first call of a process may race.

    Raises ValueError if the GPU has too little shared memory, or if FA2VERIFY_TILES is none of its values.
    """
    if device.type == "cpu":
        return table_entry(name, block_d, device)
    return _taken.get((name, block_d, device)) or _choose(name, block_d, device)


def wins(challenger: list[float], champion: list[float]) -> bool:
    """Whether a challenger's times, one a round, are faster than the table's by more than the rounds' noise.

    It is, if even its second slowest round was faster than the second fastest of the table's entry: the margin is the
    spread of both, less one round each that something else may have spoiled. Of two that are equally fast, whose R
    rounds come in any order, a fraction (R^2 + 1) / C(2 R, R) would pass: 0.017 % at R = 11, and 0.09 % for five
    challengers. Whoever was timed in fewer rounds does not win.
    """
    if min(len(challenger), len(champion)) < _ROUNDS:
        return False
    return sorted(challenger)[-2] < sorted(champion)[1]


def winner(entry: Configuration, samples: dict[Configuration, list[float]]) -> Configuration:
    """The fastest of those that win against the table's entry, or the entry; any that ran, if the entry cannot."""
    if entry not in samples:
        return min(samples, key=lambda config: median(samples[config]), default=entry)
    faster = [config for config in samples if config != entry and wins(samples[config], samples[entry])]
    return min(faster, key=lambda config: median(samples[config]), default=entry)


def _choose(name: Pass, block_d: int, device: torch.device) -> Configuration:
    """What a pass takes, kept for the process unless only the moment forbids a race."""
    entry, asked, gpu = table_entry(name, block_d, device), _asked(), _gpu(device)
    key = name, block_d, device
    if name not in RACED or asked == "table" or (gpu.known and asked != "race"):
        return _taken.setdefault(key, entry)
    entrants = neighbours(name, block_d, gpu.shared_memory, tma=gpu.tma)
    if _must_not_race(device):
        return _remembered(gpu, name, block_d, entrants) or entry
    return _taken.setdefault(key, _settle(gpu, name, block_d, entrants, device))


def _asked() -> str:
    value = os.environ.get(VARIABLE, "")
    if value not in ("", "table", "race"):
        raise ValueError(
            f"{VARIABLE} is {value!r}; it may be 'table' (never race), 'race' (race on every GPU, those that the table "
            "was made on too) or unset (race on the others)"
        )
    return value


@cache
def _gpu(device: torch.device) -> Gpu:
    capability = torch.cuda.get_device_capability(device)
    return Gpu(torch.cuda.get_device_name(device), capability, shared_memory(device), has_tma(device))


def _must_not_race(device: torch.device) -> bool:
    """Whether this call only compiles, is interpreted, or is part of a CUDA graph, on its own device or another."""
    if compiling_only() or interpreting() or torch.cuda.is_current_stream_capturing():
        return True
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def _key(gpu: Gpu, name: Pass, block_d: int) -> remembered.Key:
    import triton

    return remembered.Key(
        gpu=gpu.name,
        capability=gpu.capability,
        triton=triton.__version__,
        sources=remembered.sources(),
        name=name,
        block_d=block_d,
    )


def _remembered(gpu: Gpu, name: Pass, block_d: int, entrants: tuple[Configuration, ...]) -> Configuration | None:
    """The winner of an earlier race, if there is one to be read."""
    key = _key(gpu, name, block_d)
    try:
        return remembered.read(remembered.file_of(key), key, entrants)
    except (OSError, RuntimeError, remembered.Damaged) as error:
        _log.warning("%s, head_dim %d: the table's tiles serve: %s", name, block_d, error)
        return None


def _settle(
    gpu: Gpu, name: Pass, block_d: int, entrants: tuple[Configuration, ...], device: torch.device
) -> Configuration:
    """The winner of an earlier race, in this process or another, or else of one that is run now."""
    key = _key(gpu, name, block_d)
    try:
        file = remembered.file_of(key)
        found = remembered.read(file, key, entrants)
        if found is None:
            # Before the lock: what the stream waits for may be another process, which may be waiting for the lock.
            _wait_until_idle(device)
            # One for all races, of threads and processes: two at a time would time each other.
            with FileLock(file.with_name("race.lock"), timeout=_LOCK_PATIENCE):
                found = remembered.read(file, key, entrants)
                if found is None:
                    return _race(gpu, key, entrants, device)
    except torch.AcceleratorError:
        raise  # the context may be lost, and the call with it
    except Exception as error:  # noqa: BLE001 - a compiler's and a file system's too: the call can do without the race
        _log.warning("%s, head_dim %d, on %s: the table's tiles serve: %s", name, block_d, gpu.name, error)
        return entrants[0]
    _log.info("%s, head_dim %d, on %s: took %s, as %s says", name, block_d, gpu.name, found, file)
    return found


def _wait_until_idle(device: torch.device) -> None:
    """Let the caller's stream finish, so that a race has the GPU to itself; RuntimeError if it takes too long."""
    with torch.cuda.device(device):
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        until = time.monotonic() + _IDLE_PATIENCE
        while not event.query():  # type: ignore[no-untyped-call]
            if time.monotonic() > until:
                raise RuntimeError(f"no race: the stream had more than {_IDLE_PATIENCE:.0f} s of work before the call")
            time.sleep(1e-3)


def _race(gpu: Gpu, key: remembered.Key, entrants: tuple[Configuration, ...], device: torch.device) -> Configuration:
    """Race and remember. Raises OSError if the outcome cannot be written: what is not remembered is not taken."""
    begin = time.monotonic()
    # In a thread of its own: the caller's stream, modes of torch's dispatcher, inference mode, and whatever else
    # belongs to a thread, neither change the race nor notice it.
    with ThreadPoolExecutor(1, thread_name_prefix="fa2verify-race") as pool:
        result = pool.submit(_result, key.name, key.block_d, entrants, device, begin + _LONGEST).result()
    if not result.samples:
        raise RuntimeError(f"none could run: {result.failures[entrants[0]]}")
    if len(result.samples.get(entrants[0], ())) < _ROUNDS and entrants[0] in result.samples:
        raise RuntimeError(f"the race was not over after {time.monotonic() - begin:.0f} s")
    found = winner(entrants[0], result.samples)
    remembered.write(remembered.file_of(key), key, found, result.samples)
    where, seconds = f"{key.name}, head_dim {key.block_d}, on {gpu.name}", time.monotonic() - begin
    _log.info("%s: raced %d of %d in %.1f s, took %s", where, len(result.samples), len(entrants), seconds, found)
    for config, times in sorted(result.samples.items(), key=lambda entry: median(entry[1])):
        remark = ", the table's" * (config == entrants[0]) + ", taken" * (config == found)
        spread = f"{median(times):8.4f} ms, {min(times):.4f} to {max(times):.4f} in {len(times)} rounds"
        _log.info("  %-42s %s%s", config, spread, remark)
    for config, failure in result.failures.items():
        _log.info("  %-42s could not run: %s", config, failure)
    return found


def _result(
    name: Pass, block_d: int, entrants: tuple[Configuration, ...], device: torch.device, deadline: float
) -> Result[Configuration]:
    """Compile and time, on a stream and in memory that nobody else uses; the memory is the GPU's again afterwards.

    In a thread that ends with it: `device` stays the thread's until the pool is gone, lest CUDA begin on another GPU.
    """
    torch.cuda.set_device(device)
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    # Only torch's own allocator has pools. One that goes away gives back its memory, and nothing of the caller's.
    pool = torch.cuda.MemPool() if torch.cuda.get_allocator_backend() == "native" else None
    with torch.cuda.stream(stream), torch.cuda.use_mem_pool(pool, device) if pool else nullcontext():
        return _timed(name, block_d, entrants, device, deadline)


def _timed(
    name: Pass, block_d: int, entrants: tuple[Configuration, ...], device: torch.device, deadline: float
) -> Result[Configuration]:
    """Compile and time on the current stream. The tensors go with this function, before the pool that they are in."""
    shape = Shape(head_dim=block_d, causal=True, seqlen=_SEQLEN, tokens=_TOKENS, hidden=_HIDDEN)
    tensors = Tensors(shape, device)
    launches = {config: tensors.launch(name, config) for config in entrants}
    compiled = compile_all(list(launches.values()), deadline)
    # A time of its own: cut short by slow compilers, no race would ever say anything.
    until = time.monotonic() + _LONGEST
    return race({config: launches[config] for config in entrants[:compiled]}, entrants[0], _ROUNDS, until)
