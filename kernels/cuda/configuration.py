"""What is compiled: the kernels, their tile sizes in one table, and the variants that a call selects.

A variant is a kernel, a dtype, a padded head_dim, the features that its code has and its tiles. Everything else
(lengths, heads, strides, masks) is a run-time value, so that thousands of drawn problems need tens of variants.

Tiles fit a block into 255 registers a thread and the shared memory of its GPU, which is what GPUs differ in here: 99 KB
a block for compute capability 8.6, 8.9 and 12.0, 163 for 8.0, 227 for 9.0 and 10.0.
"""

from dataclasses import dataclass, replace
from enum import IntFlag
from typing import Literal, get_args

from fa2verify.kernels.problem import DType

Name = Literal["forward", "preprocess", "backward", "postprocess", "backward_dkdv", "backward_dq", "probabilities"]
NAMES: tuple[Name, ...] = get_args(Name)
PADDED_HEAD_DIMS = (32, 64, 96, 128, 256)
MAX_HEAD_DIM = PADDED_HEAD_DIMS[-1]
# Indices into sequences are 32-bit, and so are sums of two lengths and a window.
MAX_SEQLEN = 2**29 - 1

# KB of shared memory that a block may have, of the GPUs that the table knows.
SHARED_KB = (99, 163, 227)
# Kernels whose blocks own keys; the others' own queries.
OWN_KEYS: tuple[Name, ...] = ("backward", "backward_dkdv")

_ELEMENT = {"float16": "Half", "bfloat16": "BFloat"}


class Feature(IntFlag):
    """What a variant's code is made for; the same bits as in call.cuh."""

    SOFTCAP = 1
    ALIBI = 2
    DROPOUT = 4
    NARROW = 8
    PRESCALE = 16
    ANY = 32


@dataclass(frozen=True, slots=True)
class Tiles:
    """Sizes of one kernel's tiles, and how hard ptxas is to try.

    block_m  queries of a tile
    block_n  keys of a tile; 0: the kernel has none
    warps    of a block
    columns  of head_dim that a block accumulates; 0: all
    stages   tiles of the walked side that are in shared memory at once
    spread   of the one-pass backward: how many of the warps lie along the keys of the scores, along the keys of dK and
             dV, and along the queries of dQ; the rest lie along the other side of each
    level    of ptxas's optimizer, 1 to 3
    """

    block_m: int
    block_n: int = 0
    warps: int = 4
    columns: int = 0
    stages: int = 1
    spread: tuple[int, int, int] = (0, 0, 0)
    level: int = 3

    @property
    def from_registers(self) -> bool:
        """Whether the one-pass backward feeds P and dS to dV and dK from registers: a warp has all that they need."""
        return self.spread[:2] == (self.warps, self.warps)


# The same for every head_dim.
_PREPROCESS, _POSTPROCESS, _PROBABILITIES = Tiles(64), Tiles(64), Tiles(64, 64)
# By head_dim, then by KB of shared memory: the entry for the most that the GPU has holds.
_ByShared = dict[int, dict[int, Tiles]]
_FORWARD: _ByShared = {
    32: {99: Tiles(128, 64)},
    64: {99: Tiles(64, 128)},
    96: {99: Tiles(128, 64)},
    128: {99: Tiles(128, 64)},
    256: {99: Tiles(64, 64), 227: Tiles(128, 128, 8)},
}
# With any of these what is done to a score needs registers: larger tiles spill, take twice as long to compile, and lost
# the race or drew it (docs/results).
_TERMS = Feature.SOFTCAP | Feature.ALIBI | Feature.DROPOUT | Feature.PRESCALE
_FORWARD_WITH_TERMS = {96: Tiles(64, 64), 128: Tiles(64, 64), 256: Tiles(64, 64)}
# The one-pass backward. From registers, a warp has 32 keys where two accumulators of 32 x head_dim fit its own, since
# each load of a query then serves twice as many products, and else 16. Through shared memory its keys of the scores are
# not those of its accumulators. Of the forward and of this, 64, 128 and 256 were raced on an H200 (docs/results).
_ONE_PASS: _ByShared = {
    32: {99: Tiles(32, 128, 4, stages=2, spread=(4, 4, 2))},
    64: {99: Tiles(32, 128, 4, stages=2, spread=(4, 4, 1))},
    96: {99: Tiles(64, 64, 4, stages=2, spread=(4, 4, 4)), 163: Tiles(64, 128, 8, stages=2, spread=(8, 8, 4))},
    128: {99: Tiles(64, 64, 4, spread=(4, 4, 2)), 163: Tiles(64, 128, 8, stages=2, spread=(4, 2, 2))},
    # 99 KB hold tiles of 32 x 32, whose dQ would be added to memory twice as often as with 64 x 64. At 227, level 1 is
    # 2 % faster (docs/results); with features, and elsewhere, it loses 2 to 11 %.
    256: {163: Tiles(64, 64, 8, spread=(4, 2, 2)), 227: Tiles(64, 64, 8, stages=2, spread=(4, 2, 2), level=1)},
}
_TWO_PASS: dict[int, tuple[Tiles, Tiles]] = {
    # head_dim: backward_dkdv, backward_dq
    32: (Tiles(64, 128, 8, 32, 2), Tiles(128, 64, 8, stages=2)),
    64: (Tiles(64, 128, 8, 64, 2), Tiles(128, 64, 8, stages=2)),
    96: (Tiles(64, 128, 8, 96), Tiles(128, 64, 8)),
    128: (Tiles(64, 128, 8, 128), Tiles(128, 64, 8)),
    # Two accumulators of 16 x 256 would not fit the registers of a warp: a block takes half of the columns.
    256: (Tiles(32, 64, 4, 128), Tiles(64, 32)),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One kernel, compiled for a dtype, a padded head_dim and a set of features."""

    name: Name
    dtype: DType
    head_dim: int
    features: Feature
    tiles: Tiles

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.tiles.warps

    @property
    def rows(self) -> int:
        """Rows that a block owns: queries, or keys."""
        return self.tiles.block_n if self.name in OWN_KEYS else self.tiles.block_m

    @property
    def parts(self) -> int:
        """Blocks that share a tile's work, each with its own columns of head_dim."""
        return self.head_dim // self.tiles.columns if self.tiles.columns else 1

    @property
    def shared_bytes(self) -> int:
        """Bytes of shared memory of a block; the emulator checks that no kernel uses more."""
        tiles, row = self.tiles, 2 * self.head_dim
        match self.name:
            case "forward":
                return (tiles.block_m + 2 * tiles.block_n) * row
            case "preprocess":
                return 0
            case "backward":
                # P and dS, or, from registers, as many of dS as there are stages.
                scores = tiles.stages if tiles.from_registers else 2
                fixed = 2 * tiles.block_n * row + scores * 2 * tiles.block_m * tiles.block_n
                return fixed + tiles.stages * tiles.block_m * (2 * row + 8)
            case "postprocess":
                return tiles.block_m * row
            case "backward_dkdv":
                return 2 * tiles.block_n * row + tiles.stages * tiles.block_m * (2 * row + 8)
            case "backward_dq":
                return 2 * tiles.block_m * row + tiles.stages * 2 * tiles.block_n * row
            case "probabilities":
                return (tiles.block_m + tiles.block_n) * row

    @property
    def expression(self) -> str:
        """The C++ function."""
        tiles = self.tiles
        sizes = {
            "forward": (tiles.block_m, tiles.block_n, tiles.warps),
            "preprocess": (tiles.block_m, tiles.warps),
            "backward": (tiles.block_m, tiles.block_n, tiles.warps, *tiles.spread, tiles.stages),
            "postprocess": (tiles.block_m, tiles.warps),
            "backward_dkdv": (tiles.block_m, tiles.block_n, tiles.columns, tiles.stages),
            "backward_dq": (tiles.block_m, tiles.block_n, tiles.stages),
            "probabilities": (tiles.block_m, tiles.block_n),
        }[self.name]
        arguments = ", ".join(map(str, (f"fa2::{_ELEMENT[self.dtype]}", self.head_dim, *sizes, int(self.features))))
        return f"fa2::{self.name}<{arguments}>"


def variant(
    name: Name,
    dtype: DType,
    head_dim: int,
    features: Feature,
    shared_kb: int = SHARED_KB[0],
    tiles: Tiles | None = None,
) -> Variant:
    """The variant for a GPU whose blocks may have `shared_kb` of shared memory, with the table's tiles or with `tiles`.

    Raises ValueError if the table has no entry for so little shared memory.
    """
    tiles = tiles or _tiles(name, head_dim, features, shared_kb)
    if tiles is None:
        raise ValueError(f"no {name} of head_dim {head_dim} fits {shared_kb} KB of shared memory")
    return Variant(name, dtype, head_dim, features, tiles)


def variants(dtype: DType, head_dim: int, features: Feature, shared_kb: int) -> tuple[Variant, ...]:
    """Those of all kernels that a GPU with `shared_kb` has."""
    names = [name for name in NAMES if name != "backward" or one_pass_tiles(head_dim, shared_kb)]
    return tuple(variant(name, dtype, head_dim, features, shared_kb) for name in names)


def one_pass_tiles(head_dim: int, shared_kb: int) -> Tiles | None:
    """The table's tiles of the one-pass backward; None where two passes serve better."""
    return _for_shared(_ONE_PASS[head_dim], shared_kb)


def _tiles(name: Name, head_dim: int, features: Feature, shared_kb: int) -> Tiles | None:
    match name:
        case "forward" if features & _TERMS and head_dim in _FORWARD_WITH_TERMS:
            return _FORWARD_WITH_TERMS[head_dim]
        case "forward":
            return _for_shared(_FORWARD[head_dim], shared_kb)
        case "backward":
            tiles = one_pass_tiles(head_dim, shared_kb)
            return replace(tiles, level=3) if tiles and features else tiles
        case "backward_dkdv":
            return _TWO_PASS[head_dim][0]
        case "backward_dq":
            return _TWO_PASS[head_dim][1]
        case "preprocess":
            return _PREPROCESS
        case "postprocess":
            return _POSTPROCESS
        case "probabilities":
            return _PROBABILITIES


def _for_shared(entries: dict[int, Tiles], shared_kb: int) -> Tiles | None:
    fitting = [least for least in entries if least <= shared_kb]
    return entries[max(fitting)] if fitting else None


def padded_head_dim(head_dim: int) -> int:
    """The smallest head_dim of the table that holds `head_dim`. Raises ValueError if none does."""
    for padded in PADDED_HEAD_DIMS:
        if 1 <= head_dim <= padded:
            return padded
    raise ValueError(f"head_dim is {head_dim}; it must be 1 to {MAX_HEAD_DIM}")


def relevant(name: Name, features: Feature) -> Feature:
    """The part of a call's features that one kernel's code depends on."""
    return features & Feature.NARROW if name in ("preprocess", "postprocess") else features
