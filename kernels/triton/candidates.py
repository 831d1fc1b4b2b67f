"""Configurations worth timing: many, for the script that makes the table; a few, for a GPU without rows of its own.

What is left out cannot run, or should lose: accumulators that do not fit the registers of their warps, tiles that do
not fit shared memory. A GPU without rows of its own races its table's entry and single steps away from it, since the
first call waits for that race.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

from fa2verify.kernels.triton.configuration import Configuration, Pass, compiled_configuration

# The passes whose tiles are raced. The others read and write once, or serve tests: no tile makes much of them.
RACED: tuple[Pass, ...] = ("forward", "backward_dkdv", "backward_dq")
# Entrants of the race that a first call waits for, the table's entry among them.
MOST = 6
# fp32 values a thread: 255 registers, of which addresses and indices need some. A little over it still may win.
_REGISTER_BUDGET = 250
_SIDES = (16, 128)  # rows of a tile: a matrix instruction takes 16, and no table has had more than 128
_STAGES = (1, 4)


def candidates(name: Pass, head_dim: int) -> Iterator[Configuration]:
    """Configurations of one pass for a GPU of 227 KB, over everything that may win."""
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
            for num_stages, descriptors in product((1, 2) if head_dim > 128 else (2, 3), (False, True)):
                config = Configuration(block_m, block_n, num_warps, num_stages, descriptors)
                if fits(name, head_dim, config, 227):
                    yield config


def neighbours(name: Pass, block_d: int, shared_memory: int, *, tma: bool) -> tuple[Configuration, ...]:
    """Look up the table's entry, and find at most MOST - 1 single steps away from it that fit; the entry comes first.

    block_d        head_dim, padded
    shared_memory  KB that a block may have
    tma            whether the GPU can load tiles through descriptors
    Raises ValueError if the GPU has less shared memory than any entry is made for.
    """
    entry = compiled_configuration(name, block_d, shared_memory)
    steps = (
        step
        for step in _steps(entry, name, tma=tma)
        if min(step.block_m, step.block_n) >= _SIDES[0]
        and max(step.block_m, step.block_n) <= _SIDES[1]
        and _STAGES[0] <= step.num_stages <= _STAGES[1]
        and fits(name, block_d, step, shared_memory - _scratch_kb(name, block_d, step, tma=tma))
    )
    return tuple(dict.fromkeys((entry, *steps)))[:MOST]


def fits(name: Pass, block_d: int, config: Configuration, shared_memory: float) -> bool:
    """Whether a configuration's tiles should fit the registers of its warps and `shared_memory` KB."""
    registers = _registers(name, block_d, config.block_m, config.block_n) / (32 * config.num_warps)
    shared = _shared_kb(name, block_d, config.block_m, config.block_n, config.num_stages)
    return registers <= _REGISTER_BUDGET and shared <= shared_memory


def _steps(entry: Configuration, name: Pass, *, tma: bool) -> Iterator[Configuration]:
    """One step in each direction, in the order of what it promises, whether or not it fits."""
    # A program keeps a tile of one side and walks over the other.
    kept, walked = ("block_n", "block_m") if name == "backward_dkdv" else ("block_m", "block_n")

    def resized(side: str, doubled: bool, **others: int) -> Configuration:
        rows: int = getattr(entry, side)
        return _stepped(entry, **{side: rows * 2 if doubled else rows // 2}, **others)

    # As many rows a warp as before: what a byte loaded is used for, against programs that run beside one another.
    grow = entry.num_warps == 4
    yield resized(kept, grow, num_warps=12 - entry.num_warps)
    yield _stepped(entry, num_stages=entry.num_stages - 1)
    yield resized(walked, doubled=False)
    yield _stepped(entry, num_stages=entry.num_stages + 1)
    if tma:
        yield replace(entry, descriptors=not entry.descriptors, resting=True, addressed=None)
    yield resized(walked, doubled=True)
    yield _stepped(entry, num_warps=12 - entry.num_warps)
    yield resized(kept, not grow)


def _stepped(entry: Configuration, **changes: int) -> Configuration:
    """`entry` with changes to its numbers, for the calls that are raced.

    Descriptors serve those. A call that they cannot serve was not raced, and keeps the entry's tile.
    """
    addressed = entry.addressed or replace(entry, descriptors=False) if entry.descriptors else None
    return replace(entry, addressed=addressed, **changes)  # type: ignore[arg-type]  # all of the changes are numbers


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


def _scratch_kb(name: Pass, head_dim: int, config: Configuration, *, tma: bool) -> float:
    """KB that a call may need beyond `_shared_kb`: a tile that is read both ways, or scores that change their layout.

    The race sees one plain call. What wins it must also hold calls with every feature, or without aligned rows. GPUs
    that have TMA keep as many of the tiles that move as there are stages, others one less.
    """
    moving = 2 * head_dim * (config.block_m if name == "backward_dkdv" else config.block_n)
    last_stage = 2 * moving if tma and config.num_stages > 1 else 0
    return (last_stage + max(moving, 4 * config.block_m * config.block_n)) / 1024
