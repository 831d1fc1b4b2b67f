"""The C++ source of variants as one text: headers put in place of their #include, then an entry for each variant.

One text makes a cache key that cannot miss a change in a header, and leaves the compiler no search path. `#line` keeps
file and line of every message, the emulator's included.
"""

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from fa2verify.kernels.cuda.configuration import NAMES, Variant

FOLDER = Path(__file__).parent
ENTRY = "entry"  # what a GPU binary calls its kernel
_INCLUDE = re.compile(r'#include "([^"]+)"')


def gpu_source(variant: Variant) -> str:
    """The translation unit of one variant for NVRTC; its kernel is called ENTRY."""
    return (
        f"{flattened((f'{variant.name}.cuh',), leave_out='machine_host.hpp')}\n"
        f'extern "C" __global__ void __launch_bounds__({variant.threads})\n'
        f"{ENTRY}(const __grid_constant__ fa2::Call call) {{ {variant.expression}(call); }}\n"
    )


def host_source(variants: Sequence[Variant]) -> str:
    """The translation unit of the emulator with a function for each variant, called as its kernel."""
    headers = flattened(tuple(f"{name}.cuh" for name in NAMES), leave_out="machine_gpu.cuh")
    size = 'extern "C" size_t call_size() { return sizeof(fa2::Call); }\n'
    return headers + size + "".join(host_entry(variant.name, variant.expression, "fa2::Call") for variant in variants)


def host_entry(name: str, kernel: str, argument: str) -> str:
    """A C function that runs `kernel`, an expression for a function of an `argument`, on a grid of the emulator."""
    return (
        f'extern "C" const char* {name}(const {argument}* argument, unsigned blocks, unsigned threads, '
        "size_t shared_bytes, const fa2::emulator::Range* ranges, unsigned range_count, uint64_t seed) {\n"
        "  return fa2::emulator::launch(blocks, threads, shared_bytes, ranges, range_count, seed, "
        f"[&] {{ {kernel}(*argument); }});\n}}\n"
    )


@cache
def flattened(files: tuple[str, ...], leave_out: str) -> str:
    """Headers of this folder in order, each included header once, where it is first needed, but for `leave_out`."""
    seen = {leave_out}
    return "".join(_lines(file, seen) for file in files)


def _lines(file: str, seen: set[str]) -> str:
    if file in seen:
        return ""
    seen.add(file)
    parts = [f'#line 1 "{file}"\n']
    for number, line in enumerate((FOLDER / file).read_text().splitlines(keepends=True), start=1):
        if line.startswith("#pragma once"):
            parts.append("\n")
        elif found := _INCLUDE.match(line):
            parts.append(f'{_lines(found[1], seen)}#line {number + 1} "{file}"\n')
        else:
            parts.append(line)
    return "".join(parts)
