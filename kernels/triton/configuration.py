"""Launch configurations: one table, by pass, padded head_dim and the shared memory that a GPU gives a block.

Compute capability 9.0 gives a block 227 KB, 8.0 gives 163 KB, 8.6, 8.9 and 12.0 give 99 KB. Of the entries for 227 KB
those of the forward and of both passes of the backward at 64, 128 and 256 won races on an H200 (docs/results). No other
entry was raced: there blocks are as large as registers and shared memory allow, since the work a byte loaded grows with
the block. A GPU takes the entry of the largest level that it reaches, or, where no row was raced for it, what won
against that entry in one race there: `fa2verify.kernels.triton.choice` has that rule, and
docs/decisions/0006-tiles-from-a-table.md says why nothing is measured in every process.
`python -m fa2verify.kernels.triton.compile_check` compiles every entry and shows registers, spills and shared memory;
`python -m fa2verify.kernels.triton.tune` races others against them on a GPU.
"""

from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import torch

Pass = Literal["forward", "preprocess", "backward_dkdv", "backward_dq", "probabilities"]
PASSES: tuple[Pass, ...] = get_args(Pass)
BLOCK_DS = (16, 32, 64, 128, 256)
# What a pass' programs may walk over.
Side = Literal["keys", "queries"]


@dataclass(frozen=True, slots=True)
class Configuration:
    """How one kernel is compiled and launched.

    block_m     queries of a block
    block_n     keys of a block
    num_warps   warps that share a program
    num_stages  depth of the software pipeline that loads the next blocks during a block's arithmetic
    descriptors whether the tiles of a dense call are loaded through tensor descriptors (TMA on Hopper and later),
                which need no registers for addresses
    resting     whether the tiles that a program keeps are loaded so too
    addressed   for calls that descriptors cannot serve, where this tile would leave no registers for addresses
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    descriptors: bool = False
    resting: bool = True
    addressed: "Configuration | None" = None

    def served(self, *, by_descriptors: bool) -> "Configuration":
        """This, or what replaces it for a call that descriptors cannot serve."""
        return self if by_descriptors or self.addressed is None else self.addressed

    def __str__(self) -> str:
        loads = (", TMA" if self.resting else ", TMA for what moves") if self.descriptors else ""
        stages = f"{self.num_stages} stage{'s' if self.num_stages > 1 else ''}"
        return f"{self.block_m:3} x {self.block_n:3}, {self.num_warps} warps, {stages}{loads}"

    def box_rows(self, over: Side) -> dict[str, int]:
        """Rows of a tile of each tensor that descriptors load, for a pass that walks over `over`."""
        rows = {"q": self.block_m, "dout": self.block_m, "k": self.block_n, "v": self.block_n}
        moving = ("k", "v") if over == "keys" else ("q", "dout")
        return {name: number for name, number in rows.items() if self.resting or name in moving}


# KB of shared memory that a block may have, largest first.
SHARED_MEMORY = (227, 163, 99)

_Row = dict[int, tuple[Configuration, Configuration, Configuration]]


def _row(*configurations: Configuration) -> tuple[Configuration, Configuration, Configuration]:
    """One entry a level of SHARED_MEMORY; the last one given serves the levels below it too."""
    large, *smaller = configurations
    medium = smaller[0] if smaller else large
    return large, medium, smaller[-1] if smaller else large


_TABLE: dict[Pass, _Row] = {
    "forward": {
        16: _row(Configuration(128, 64, 4, 3)),
        32: _row(Configuration(128, 64, 4, 3)),
        64: _row(Configuration(64, 128, 4, 2, descriptors=True), Configuration(128, 64, 4, 3)),
        # Without a mask the compiler orders the loop better where Q came by addresses: 4 % at 8192 keys.
        128: _row(
            Configuration(64, 64, 4, 3, descriptors=True, resting=False),
            Configuration(128, 64, 8, 3),
            Configuration(64, 64, 4, 2),
        ),
        # One stage of 64 x 128 leaves room for two programs, which overlap one another's loads.
        256: _row(
            Configuration(64, 128, 4, 1, descriptors=True, addressed=Configuration(128, 64, 8, 2)),
            Configuration(64, 64, 8, 2),
            Configuration(64, 32, 8, 2),
        ),
    },
    "preprocess": {block_d: _row(Configuration(64, 64, 4, 1)) for block_d in BLOCK_DS},
    # dK and dV are two fp32 accumulators of block_n x block_d: beside them the widest head_dims leave registers for few
    # queries, unless descriptors do without addresses. 64 queries at 256 spill 88 bytes, and win all the same.
    "backward_dkdv": {
        16: _row(Configuration(32, 128, 8, 3), Configuration(64, 64, 4, 2)),
        32: _row(Configuration(32, 128, 8, 3), Configuration(64, 64, 4, 2)),
        64: _row(
            Configuration(128, 64, 4, 2, descriptors=True), Configuration(32, 128, 8, 3), Configuration(32, 128, 8, 2)
        ),
        128: _row(
            Configuration(64, 64, 4, 2, descriptors=True), Configuration(32, 128, 8, 3), Configuration(32, 64, 8, 2)
        ),
        256: _row(
            Configuration(64, 64, 8, 2, descriptors=True), Configuration(16, 64, 8, 2), Configuration(16, 64, 8, 1)
        ),
    },
    "backward_dq": {
        16: _row(Configuration(128, 64, 4, 3), Configuration(64, 64, 4, 2)),
        32: _row(Configuration(128, 64, 4, 3), Configuration(64, 64, 4, 2)),
        64: _row(Configuration(64, 64, 4, 3), Configuration(128, 64, 8, 3)),
        128: _row(Configuration(128, 64, 8, 3), Configuration(64, 32, 4, 2), Configuration(64, 32, 4, 1)),
        256: _row(
            Configuration(64, 64, 4, 2, descriptors=True, addressed=Configuration(128, 32, 8, 2)),
            Configuration(64, 16, 8, 1),
            Configuration(32, 16, 4, 1),
        ),
    },
    "probabilities": {block_d: _row(Configuration(64, 64, 8 if block_d > 64 else 4, 1)) for block_d in BLOCK_DS},
}

# The interpreter pays a tile operation, not an element: blocks are large, yet lengths above 64 make more than one, and
# block_m differs from block_n so that one taken for the other shows. Descriptors serve dense calls that are aligned, so
# that packed and unaligned ones verify addresses.
_INTERPRETED: dict[Pass, Configuration] = {
    "forward": Configuration(64, 32, 1, 1, descriptors=True),
    "preprocess": Configuration(64, 64, 1, 1),
    "backward_dkdv": Configuration(32, 64, 1, 1, descriptors=True),
    "backward_dq": Configuration(64, 32, 1, 1, descriptors=True),
    "probabilities": Configuration(64, 32, 1, 1),
}


def table_entry(name: Pass, block_d: int, device: torch.device) -> Configuration:
    """Look up one pass in the table, for tensors on `device`.

    Raises ValueError if that is a GPU whose blocks have less shared memory than any entry is made for.
    """
    if device.type == "cpu":
        return _INTERPRETED[name]
    return compiled_configuration(name, block_d, shared_memory(device))


def compiled_configuration(name: Pass, block_d: int, shared_memory: int) -> Configuration:
    """Look up the configuration for a GPU whose blocks may have `shared_memory` KB.

    Raises ValueError if that is less than any entry is made for.
    """
    for level, entry in zip(SHARED_MEMORY, _TABLE[name][block_d], strict=True):
        if level <= shared_memory:
            return entry
    raise ValueError(
        f"this GPU gives a block {shared_memory} KB of shared memory; the kernels need at least {SHARED_MEMORY[-1]}"
    )


@cache
def has_tma(device: torch.device) -> bool:
    """Whether `device` can load tiles by descriptors: a GPU of compute capability 9.0 or later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


@cache
def shared_memory(device: torch.device) -> int:
    """KB of shared memory that one block may have, opted in."""
    properties = torch.cuda.get_device_properties(device)
    return int(properties.shared_memory_per_block_optin) // 1024  # type: ignore[attr-defined]  # torch's stub lacks it
