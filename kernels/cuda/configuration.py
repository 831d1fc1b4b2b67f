"""What is compiled: the kernels, their tile sizes in one table, and the variants that a call selects.

A variant is a kernel, a dtype, a padded head_dim and the features that its code has. Everything else (lengths, heads,
strides, masks) is a run-time value, so that thousands of drawn problems need tens of variants.

Tiles fit a block into the 99 KB of shared memory of compute capability 8.6, 8.9 and 12.0, and 255 registers a thread.
"""

from dataclasses import dataclass
from enum import IntFlag
from typing import Literal, get_args

from fa2verify.kernels.problem import DType

Name = Literal["forward", "preprocess", "backward_dkdv", "backward_dq", "probabilities"]
NAMES: tuple[Name, ...] = get_args(Name)
PADDED_HEAD_DIMS = (32, 64, 96, 128, 256)
MAX_HEAD_DIM = PADDED_HEAD_DIMS[-1]
# Indices into sequences are 32-bit, and so are sums of two lengths and a window.
MAX_SEQLEN = 2**29 - 1

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
    """Sizes of one kernel's tiles.

    block_m  queries of a tile
    block_n  keys of a tile; 0: the kernel has none
    warps    of a block
    columns  of head_dim that a block accumulates; 0: all
    stages   tiles of the walked side that are in shared memory at once
    """

    block_m: int
    block_n: int = 0
    warps: int = 4
    columns: int = 0
    stages: int = 1


# The same for every head_dim.
_PREPROCESS, _PROBABILITIES = Tiles(64), Tiles(64, 64)
_TABLE: dict[int, tuple[Tiles, Tiles, Tiles]] = {
    # head_dim: forward, backward_dkdv, backward_dq
    32: (Tiles(128, 64), Tiles(64, 128, 8, 32, 2), Tiles(128, 64, 8, stages=2)),
    64: (Tiles(128, 64), Tiles(64, 128, 8, 64, 2), Tiles(128, 64, 8, stages=2)),
    96: (Tiles(128, 64), Tiles(64, 128, 8, 96), Tiles(128, 64, 8)),
    128: (Tiles(128, 64), Tiles(64, 128, 8, 128), Tiles(128, 64, 8)),
    # Two accumulators of 16 x 256 would not fit the registers of a warp: a block takes half of the columns.
    256: (Tiles(64, 64), Tiles(32, 64, 4, 128), Tiles(64, 32)),
}


@dataclass(frozen=True, slots=True)
class Variant:
    """One kernel, compiled for a dtype, a padded head_dim and a set of features."""

    name: Name
    dtype: DType
    head_dim: int
    features: Feature

    @property
    def tiles(self) -> Tiles:
        """Its entry of the table."""
        forward, backward_dkdv, backward_dq = _TABLE[self.head_dim]
        return {
            "forward": forward,
            "preprocess": _PREPROCESS,
            "backward_dkdv": backward_dkdv,
            "backward_dq": backward_dq,
            "probabilities": _PROBABILITIES,
        }[self.name]

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return 32 * self.tiles.warps

    @property
    def rows(self) -> int:
        """Rows that a block owns: queries, or keys in `backward_dkdv`."""
        return self.tiles.block_n if self.name == "backward_dkdv" else self.tiles.block_m

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
            "backward_dkdv": (tiles.block_m, tiles.block_n, tiles.columns, tiles.stages),
            "backward_dq": (tiles.block_m, tiles.block_n, tiles.stages),
            "probabilities": (tiles.block_m, tiles.block_n),
        }[self.name]
        arguments = ", ".join(map(str, (f"fa2::{_ELEMENT[self.dtype]}", self.head_dim, *sizes, int(self.features))))
        return f"fa2::{self.name}<{arguments}>"


def padded_head_dim(head_dim: int) -> int:
    """The smallest head_dim of the table that holds `head_dim`. Raises ValueError if none does."""
    for padded in PADDED_HEAD_DIMS:
        if 1 <= head_dim <= padded:
            return padded
    raise ValueError(f"head_dim is {head_dim}; it must be 1 to {MAX_HEAD_DIM}")


def relevant(name: Name, features: Feature) -> Feature:
    """The part of a call's features that one kernel's code depends on."""
    return features & Feature.NARROW if name == "preprocess" else features
