"""Tiles worth timing, by kernel and head_dim: `tune.py` races them.

What is left out cannot run, or should lose: tiles that are no whole number of a block's copies, accumulators that do
not fit the registers, tiles that do not fit shared memory, a spread of the warps that reads far more from shared memory
a product than the best one does. The one-pass backward reads much: at the peak of mma.sync an m16n8k16 takes 2 cycles
of a multiprocessor of compute capability 8.0, 1.6 or so of 9.0, and a load of four 8 x 8 matrices (512 bytes, 128 a
cycle) takes 4. It also adds to memory 4 bytes of dQ for each 2.5 * block_n operations: wide tiles of keys are among the
candidates though narrow ones read less.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Literal

from fa2verify.kernels.cuda.configuration import Feature, Tiles, one_pass_tiles, variant

Tuned = Literal["forward", "backward", "backward_dkdv", "backward_dq"]
# fp32 values of a thread's accumulators; 255 registers, of which operands, addresses and indices need some.
_MOST_VALUES = 208
# Of the one-pass backward, apart for each of the two widest tiles of keys, and for those that feed dV and dK from
# registers, which have fewer barriers, and the rest: times the fewest loads a product, and how many are raced at most.
_MOST_LOADS, _MOST_CANDIDATES = 1.4, 5
_REGISTERS, _BLOCK_OVERHEAD_KB = 65536, 1


def candidates(kernel: Tuned, head_dim: int, shared_kb: int) -> Iterator[Tiles]:
    """Tiles of `kernel` for a padded head_dim and a GPU's KB of shared memory a block; the table's come first."""
    table = one_pass_tiles(head_dim, shared_kb) if kernel == "backward" else _of_table(kernel, head_dim, shared_kb)
    found = list(_fitting(kernel, head_dim, shared_kb))
    if kernel == "backward":
        found.sort(key=lambda tiles: loads_a_product(tiles, head_dim))
        widest = sorted({tiles.block_n for tiles in found})[-2:]
        groups = product(widest, (True, False))
        found = [tiles for group in groups for tiles in _best([one for one in found if _group(one) == group], head_dim)]
    # The table's level of ptxas beside the usual one, with which all others are raced.
    first = () if table is None else tuple(dict.fromkeys((table, replace(table, level=3))))
    yield from first
    yield from (tiles for tiles in found if tiles not in first)


def _group(tiles: Tiles) -> tuple[int, bool]:
    return tiles.block_n, tiles.from_registers


def _best(alike: list[Tiles], head_dim: int) -> list[Tiles]:
    """The first of these, which are sorted by loads a product."""
    enough = [
        one for one in alike if loads_a_product(one, head_dim) <= _MOST_LOADS * loads_a_product(alike[0], head_dim)
    ]
    return enough[:_MOST_CANDIDATES]


def _of_table(kernel: Tuned, head_dim: int, shared_kb: int) -> Tiles:
    return variant(kernel, "bfloat16", head_dim, Feature(0), shared_kb).tiles


def _fitting(kernel: Tuned, head_dim: int, shared_kb: int) -> Iterator[Tiles]:
    for tiles in _possible(kernel, head_dim, shared_kb):
        chosen = variant(kernel, "bfloat16", head_dim, Feature(0), tiles=tiles)
        if chosen.shared_bytes <= shared_kb * 1024 and values_a_thread(kernel, tiles, head_dim) <= _MOST_VALUES:
            yield tiles


def _possible(kernel: Tuned, head_dim: int, shared_kb: int) -> Iterator[Tiles]:
    match kernel:
        case "forward":
            for block_m, block_n, warps in product((64, 128), (32, 48, 64, 80, 96, 128), (4, 8)):
                if block_m % (16 * warps) == 0 and block_n % _rows_at_once(warps, head_dim) == 0:
                    yield Tiles(block_m, block_n, warps)
        case "backward":
            for block_m, block_n, warps, stages in product((32, 64, 128), (32, 64, 128, 256), (4, 8), (1, 2)):
                sides = [1 << power for power in range(warps.bit_length())]
                for spread in product(sides, sides, sides):
                    tiles = Tiles(block_m, block_n, warps, stages=stages, spread=spread)
                    if _spreads(tiles, head_dim):
                        yield tiles
        case "backward_dkdv":
            table = _of_table(kernel, head_dim, shared_kb)
            for block_m, block_n, stages in product((32, 64, 128), (64, 128), (1, 2)):
                if block_m <= 2 * block_n:
                    yield replace(table, block_m=block_m, block_n=block_n, warps=block_n // 16, stages=stages)
        case "backward_dq":
            for block_m, block_n, stages in product((64, 128), (32, 64, 128), (1, 2)):
                yield Tiles(block_m, block_n, block_m // 16, stages=stages)


def _rows_at_once(warps: int, head_dim: int) -> int:
    """Rows that a block fetches with one copy a thread; a tile is a multiple of them (`fetch_tile` in tile.cuh)."""
    chunks = head_dim // 8
    return 32 * warps // (chunks if 32 * warps % chunks == 0 else 4)


def _shares(tiles: Tiles, head_dim: int) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """(rows, columns) of a warp's part of the scores, of dK and dV, and of dQ, of the one-pass backward."""
    scores, sums, dq = tiles.spread
    return (
        (tiles.block_n // scores, tiles.block_m // (tiles.warps // scores)),
        (tiles.block_n // sums, head_dim // (tiles.warps // sums)),
        (tiles.block_m // dq, head_dim // (tiles.warps // dq)),
    )


def _spreads(tiles: Tiles, head_dim: int) -> bool:
    """Whether every warp has whole fragments: rows by 16, columns by 16, which is what a matrix load brings."""
    group = 64 if tiles.block_m % 64 == 0 else 32
    shares = _shares(tiles, head_dim)
    return all(rows >= 16 and columns % 16 == 0 and columns for rows, columns in shares) and shares[2][0] <= group


def loads_a_product(tiles: Tiles, head_dim: int) -> float:
    """Matrix loads from shared memory a tensor-core product, of the one-pass backward."""
    scores, sums, dq = ((rows // 16, columns // 16) for rows, columns in _shares(tiles, head_dim))
    left = 0 if tiles.from_registers else sums[0]
    loads = 2 * (head_dim // 16) * sum(scores) + 2 * (tiles.block_m // 16) * (left + sums[1])
    loads += tiles.block_n // 16 * sum(dq)
    return loads * tiles.warps / (5 * tiles.block_m * tiles.block_n * head_dim / 2048)


def values_a_thread(kernel: Tuned, tiles: Tiles, head_dim: int) -> int:
    """fp32 values that a thread holds at once at its fullest."""
    threads, scores = 32 * tiles.warps, tiles.block_m * tiles.block_n
    match kernel:
        case "forward":
            return (tiles.block_m * head_dim + scores) // threads
        case "backward":
            return (2 * tiles.block_n * head_dim + max(2 * scores, tiles.block_m * head_dim)) // threads
        case "backward_dkdv":
            return (2 * tiles.block_n * tiles.columns + 2 * scores) // threads
        case "backward_dq":
            return (tiles.block_m * head_dim + 2 * scores) // threads


def blocks_a_multiprocessor(shared_bytes: int, threads: int, registers: int, shared_kb: int) -> int:
    """Blocks that a multiprocessor holds, whose shared memory is a block's most and 1 KB that each block costs."""
    by_memory = (shared_kb + _BLOCK_OVERHEAD_KB) * 1024 // (shared_bytes + _BLOCK_OVERHEAD_KB * 1024)
    return min(by_memory, _REGISTERS // (threads * -(-registers // 8) * 8))
