"""Compiles the kernels for GPUs that need not be there: `python -m fa2verify.kernels.cuda.build_evidence`.

Prints, and with `--json` writes, registers, spills, shared memory and code size of each variant, as ptxas reports them.
Exits 1 if a variant does not fit its GPU, or spills and is not in SPILLS with its reason. No driver is needed.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import get_args

from fa2verify.kernels.cuda.configuration import (
    NAMES,
    PADDED_HEAD_DIMS,
    Feature,
    Name,
    Variant,
    one_pass_tiles,
    relevant,
    variant,
)
from fa2verify.kernels.cuda.gpu_compiler import compile_verbose, unavailable
from fa2verify.kernels.problem import DType

# KB of shared memory that a block may have (CUDA C++ Programming Guide, specifications per compute capability).
SHARED_MEMORY = {"sm_80": 163, "sm_86": 99, "sm_89": 99, "sm_90": 227, "sm_100": 227, "sm_120": 99}
SINGLE = (Feature.SOFTCAP, Feature.ALIBI, Feature.DROPOUT, Feature.NARROW, Feature.PRESCALE)


@dataclass(frozen=True, slots=True)
class Spill:
    """A spill that is known: which variants, how many bytes a thread at most, and why it stands."""

    name: Name
    head_dims: tuple[int, ...]
    most: int
    reason: str

    def covers(self, evidence: "Evidence") -> bool:
        """Whether this entry accounts for a variant's spill."""
        return (
            evidence.kernel == self.name
            and evidence.head_dim in self.head_dims
            and evidence.spill_stores + evidence.spill_loads <= self.most
        )


_TWO_FRAGMENTS = (
    "a warp holds two fragments of rows, so that each K and V fragment which it loads serves both, and leaves the loop "
    "few registers: addresses are stored before the loop and read back once a tile (read off the disassembly)"
)
_TWO_ACCUMULATORS = (
    "dK and dV are two accumulators of a warp, and leave few registers: addresses are stored before the loop and read "
    "back once a tile (read off the disassembly)"
)
_FOUR_TILES = (
    "dK, dV, S and dP take 192 of a thread's 255 registers, on 8.6, 8.9 and 12.0 dK, dV and dQ as many; what a feature "
    "adds to addresses and row statistics does not always fit the rest"
)
_OCCUPANCY = "ptxas stops at 128 registers, with which two blocks fit a multiprocessor, and spills addresses"
SPILLS: tuple[Spill, ...] = (
    Spill("forward", (64,), 8, "the mask of dropout, two registers, lives beside S, 16 x 128 a warp"),
    Spill("forward", (96, 128), 212, _TWO_FRAGMENTS),
    Spill(
        "forward", (256,), 40, "O is an accumulator of 16 x 256 and S one of 16 x 128: 192 of a thread's 255 registers"
    ),
    Spill("backward", (64, 96, 128, 256), 148, _FOUR_TILES),
    Spill("backward_dkdv", (96, 128, 256), 188, _TWO_ACCUMULATORS),
    Spill("backward_dq", (32,), 64, _OCCUPANCY),
    Spill(
        "probabilities",
        (96, 128),
        16,
        "ptxas stops at 64 or 80 registers, with which six or more blocks fit; a kernel for tests alone",
    ),
)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one compiled variant takes.

    registers     a thread
    spill_stores  bytes a thread writes to local memory, spill_loads: reads
    shared        bytes a block
    size          bytes of the binary
    """

    kernel: Name
    arch: str
    dtype: DType
    head_dim: int
    features: tuple[str, ...]
    registers: int
    spill_stores: int
    spill_loads: int
    shared: int
    size: int

    @property
    def defects(self) -> tuple[str, ...]:
        """What is wrong with it, in sentences."""
        found = []
        limit = SHARED_MEMORY[self.arch] * 1024
        if self.shared > limit:
            found.append(f"takes {self.shared:,} bytes of shared memory; {self.arch} gives a block {limit:,}")
        if (self.spill_stores or self.spill_loads) and not any(spill.covers(self) for spill in SPILLS):
            found.append("spills, and no entry of SPILLS says why")
        return tuple(found)


def variants(
    names: Sequence[Name],
    head_dims: Sequence[int],
    dtypes: Sequence[DType] = get_args(DType),
    *,
    shared_kb: int,
    every: bool = False,
) -> Iterator[Variant]:
    """Variants without a feature, with each feature alone, and with all; with `every`, all combinations that occur.

    shared_kb  shared memory that a block may have
    """
    if every:
        subsets = [sum(chosen, Feature(0)) for chosen in product(*((Feature(0), one) for one in SINGLE))]
        transformed = Feature.SOFTCAP | Feature.ALIBI
        subsets = [one for one in subsets if not (one & Feature.PRESCALE and one & transformed)]
    else:
        subsets = [Feature(0), *SINGLE, sum(SINGLE, Feature(0)) & ~Feature.PRESCALE]
    for name, head_dim, dtype in product(names, head_dims, dtypes):
        if name in ("backward", "postprocess") and one_pass_tiles(head_dim, shared_kb) is None:
            continue
        for features in dict.fromkeys(relevant(name, subset) for subset in subsets):
            yield variant(name, dtype, head_dim, features, shared_kb)


def evidence(compiled: Variant, arch: str) -> Evidence:
    """Compile one variant; NVRTC's errors pass through. Raises RuntimeError if ptxas does not say what it took."""
    code, log = compile_verbose(compiled, arch)
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    if registers is None or spills is None:
        raise RuntimeError(f"ptxas printed no resource usage of {compiled.expression} for {arch}: {log!r}")
    return Evidence(
        kernel=compiled.name,
        arch=arch,
        dtype=compiled.dtype,
        head_dim=compiled.head_dim,
        features=tuple(one.name for one in SINGLE if one & compiled.features and one.name),
        registers=int(registers[1]),
        spill_stores=int(spills[1]),
        spill_loads=int(spills[2]),
        shared=compiled.shared_bytes,
        size=len(code.code),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="build_evidence", description="Compile the CUDA kernels and show what they take."
    )
    parser.add_argument("--arch", nargs="+", choices=SHARED_MEMORY, default=["sm_80", "sm_90"])
    parser.add_argument("--kernel", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--head-dim", nargs="+", type=int, choices=PADDED_HEAD_DIMS, default=PADDED_HEAD_DIMS)
    parser.add_argument("--dtype", nargs="+", choices=get_args(DType), default=get_args(DType))
    parser.add_argument("--every", action="store_true", help="every combination of features")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the evidence here too")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilers at once (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    if reasons := unavailable():
        parser.error("; ".join(reasons))
    found: list[Evidence] = []
    status = 0
    columns = f"{'registers':>9}{'spilled':>9}{'shared KB':>11}{'binary KB':>11}"
    print(f"{'kernel':14}{'arch':>7}{'d':>5}  {'variant':44}{columns}")
    with ProcessPoolExecutor(chosen.jobs, mp_context=get_context("spawn")) as pool:
        for arch in chosen.arch:
            todo = variants(
                chosen.kernel, chosen.head_dim, chosen.dtype, shared_kb=SHARED_MEMORY[arch], every=chosen.every
            )
            for one in pool.map(partial(evidence, arch=arch), todo):
                found.append(one)
                status |= bool(one.defects)
                print(_line(one), *one.defects, flush=True)
    if chosen.json:
        chosen.json.write_text(json.dumps([asdict(one) for one in found], indent=1) + "\n")
    return status


def _line(one: Evidence) -> str:
    variant = " ".join((one.dtype, *(feature.lower() for feature in one.features)))
    return (
        f"{one.kernel:14}{one.arch:>7}{one.head_dim:5}  {variant:44}{one.registers:9}"
        f"{one.spill_stores + one.spill_loads:9}{one.shared / 1024:11.1f}{one.size / 1024:11.1f}"
    )


if __name__ == "__main__":
    sys.exit(main())
