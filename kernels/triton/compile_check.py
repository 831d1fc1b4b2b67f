"""Compile our kernels for GPUs that need not be there: `python -m fa2verify.kernels.triton.compile_check`.

Prints registers, spills and shared memory of each entry of the configuration table, and exits 1 if one does not
compile, does not fit its GPU, or lost its wide accesses. ptxas and cuobjdump come with triton; no driver is needed.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_args

from fa2verify.kernels.problem import DType
from fa2verify.kernels.triton.configuration import (
    BLOCK_DS,
    PASSES,
    Configuration,
    Pass,
    Side,
    compiled_configuration,
)
from fa2verify.kernels.triton.mode import interpreting

# Compute capability to the KB of shared memory that a block may have (CUDA C++ Programming Guide, table of technical
# specifications per compute capability).
CAPABILITIES = {80: 163, 89: 99, 90: 227}
# What is compiled beside the plain form: the features alone and all together.
FEATURES: tuple[tuple[str, ...], ...] = (
    (),
    ("window",),
    ("softcap",),
    ("alibi",),
    ("dropout",),
    ("window", "softcap", "alibi", "dropout"),
)
_POINTEE: dict[DType, str] = {"float16": "*fp16", "bfloat16": "*bf16"}
# Passes that walk, and over what.
_WALKS: dict[Pass, Side] = {"forward": "keys", "backward_dkdv": "queries", "backward_dq": "keys"}
_FP32_ROWS = ("lse", "dlse", "delta", "lse_log2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What one kernel is compiled for.

    causal  the mask is bounded on the right, by a causal mask or a window
    window  it is bounded on the left
    tuned   a configuration to try instead of the table's
    """

    name: Pass
    capability: int
    block_d: int
    dtype: DType = "bfloat16"
    causal: bool = True
    window: bool = False
    softcap: bool = False
    alibi: bool = False
    dropout: bool = False
    varlen: bool = False
    aligned: bool = True
    full: bool = True
    tuned: Configuration | None = None

    @property
    def configuration(self) -> Configuration:
        """The entry of the table that this GPU gets, unless it is replaced."""
        entry = self.tuned or compiled_configuration(self.name, self.block_d, CAPABILITIES[self.capability])
        return entry.served(by_descriptors=self.described)

    @property
    def described(self) -> bool:
        """Whether descriptors can serve its calls."""
        return not self.varlen and self.aligned


@dataclass(frozen=True, slots=True)
class Resources:
    """What a compiled kernel takes of a multiprocessor.

    registers  a thread
    spilled    bytes of local memory a thread
    shared     bytes of shared memory a block
    wide       whether no access to global memory moves a 16-bit element on its own
    """

    registers: int
    spilled: int
    shared: int
    wide: bool


def compile_variant(variant: Variant) -> Resources:
    """Compile one variant with Triton's compiler and ptxas; their errors pass through.

    Raises RuntimeError where triton interprets: start Python with TRITON_INTERPRET=0.
    """
    if interpreting():
        raise RuntimeError("triton's interpreter is active and nothing can be compiled; start with TRITON_INTERPRET=0")
    import triton
    from triton.backends.compiler import GPUTarget

    kernel = _kernels()[variant.name]
    constants = _constants(variant)
    signature = {name: "constexpr" if name in constants else _type(name, variant) for name in kernel.arg_names}
    config = variant.configuration
    compiled = triton.compile(
        triton.compiler.ASTSource(
            kernel, signature, {name: constants[name] for name in signature if name in constants}
        ),
        target=GPUTarget("cuda", variant.capability, 32),
        options={"num_warps": config.num_warps, "num_stages": config.num_stages},
    )
    registers, spilled = _resource_usage(compiled.asm["cubin"])
    return Resources(registers, spilled, int(compiled.metadata.shared), not _single_elements(compiled.asm["ptx"]))


def table(capabilities: tuple[int, ...] = tuple(CAPABILITIES), *, every: bool = False) -> Iterator[Variant]:
    """Each entry of the configuration table in its heaviest form, or, with `every`, in all forms."""
    for name, capability, block_d in product(PASSES, capabilities, BLOCK_DS):
        if not every:
            yield Variant(name=name, capability=capability, block_d=block_d)
            continue
        for features, dtype, causal, varlen, (aligned, full) in product(
            FEATURES, get_args(DType), (False, True), (False, True), ((True, True), (True, False), (False, False))
        ):
            yield Variant(
                name=name,
                capability=capability,
                block_d=block_d,
                dtype=dtype,
                causal=causal,
                varlen=varlen,
                aligned=aligned,
                full=full,
                window="window" in features,
                softcap="softcap" in features,
                alibi="alibi" in features,
                dropout="dropout" in features,
            )


def defects(variant: Variant, resources: Resources) -> tuple[str, ...]:
    """Say what is wrong with a compiled variant, in sentences."""
    found = []
    limit = CAPABILITIES[variant.capability] * 1024
    if resources.shared > limit:
        found.append(f"takes {resources.shared:,} bytes of shared memory, sm_{variant.capability} gives {limit:,}")
    # The weights are stored under a mask of single scores; nobody waits for them.
    if variant.aligned and not resources.wide and variant.name != "probabilities":
        found.append("moves single elements though everything is aligned to 16 bytes")
    return tuple(found)


def main(arguments: list[str] | None = None) -> int:
    """Run the check; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="compile_check", description="Compile the kernels of the configuration table."
    )
    parser.add_argument(
        "--sm", type=int, action="append", choices=sorted(CAPABILITIES), help="only this GPU; repeatable"
    )
    parser.add_argument("--name", action="append", choices=PASSES, help="only this pass; repeatable")
    parser.add_argument("--block-d", type=int, action="append", choices=BLOCK_DS, help="only this size; repeatable")
    parser.add_argument("--every", action="store_true", help="every dtype, mask, length form and alignment")
    chosen = parser.parse_args(arguments)
    if interpreting():
        # This process interprets for good: triton's standard library is decorated already.
        command = [sys.executable, "-m", "fa2verify.kernels.triton.compile_check", *(arguments or sys.argv[1:])]
        return subprocess.run(command, env=os.environ | {"TRITON_INTERPRET": "0"}, check=False).returncode
    status = 0
    print(f"{'pass':14} {'sm':>2} {'d':>3} {'variant':32} {'m x n':>8} warps stages  registers  spilled  shared KB")
    for variant in table(tuple(chosen.sm or CAPABILITIES), every=chosen.every):
        if variant.name not in (chosen.name or PASSES) or variant.block_d not in (chosen.block_d or BLOCK_DS):
            continue
        resources = compile_variant(variant)
        found = defects(variant, resources)
        status = max(status, bool(found))
        print(_line(variant, resources), *found, flush=True)
    return int(status)


def _line(variant: Variant, resources: Resources) -> str:
    config = variant.configuration
    flags = [name for name in ("causal", *FEATURES[-1], "varlen", "aligned", "full") if getattr(variant, name)]
    return (
        f"{variant.name:14} {variant.capability} {variant.block_d:3} {' '.join([variant.dtype[:2], *flags]):32} "
        f"{config.block_m:3} x{config.block_n:3} {config.num_warps:5} {config.num_stages:6}  {resources.registers:9}  "
        f"{resources.spilled:7}  {resources.shared / 1024:9.1f}"
    )


def _kernels() -> dict[Pass, Any]:
    from fa2verify.kernels.triton.backward_dkdv import backward_dkdv_kernel
    from fa2verify.kernels.triton.backward_dq import backward_dq_kernel
    from fa2verify.kernels.triton.forward import forward_kernel
    from fa2verify.kernels.triton.preprocess import preprocess_kernel
    from fa2verify.kernels.triton.probabilities import probabilities_kernel

    return {
        "forward": forward_kernel,
        "preprocess": preprocess_kernel,
        "backward_dkdv": backward_dkdv_kernel,
        "backward_dq": backward_dq_kernel,
        "probabilities": probabilities_kernel,
    }


def _constants(variant: Variant) -> dict[str, object]:
    config = variant.configuration
    constants: dict[str, object] = {
        "negative": False,
        "varlen": variant.varlen,
        "aligned": variant.aligned,
        "full": variant.full,
        "has_dlse": False,
        "descriptors": config.descriptors and variant.described,
        "resting": config.descriptors and variant.described and config.resting,
        "dlse": None,
        "block_m": config.block_m,
        "block_n": config.block_n,
        "block_d": variant.block_d,
    }
    present = {
        "cu_seqlens_q": variant.varlen,
        "cu_seqlens_k": variant.varlen,
        "window_left": variant.window,
        "window_right": variant.causal,
        "cap_scale": variant.softcap,
        "alibi_slopes": variant.alibi,
        "dropout_seed": variant.dropout,
    }
    return constants | {name: None for name, given in present.items() if not given}


def _type(name: str, variant: Variant) -> str:
    config = variant.configuration
    if name in ("scale", "scale_log2", "cap_scale", "dropout_rescale"):
        return "fp32"
    over = _WALKS.get(variant.name)
    if over and config.descriptors and variant.described and (rows := config.box_rows(over).get(name)):
        element = _POINTEE[variant.dtype].removeprefix("*")
        return f"tensordesc<{element}[1, 1, {rows}, {variant.block_d}]>"
    if name == "dropout_seed":
        return "*i64"
    if name in (*_FP32_ROWS, "alibi_slopes"):
        return "*fp32"
    if name.startswith("cu_seqlens"):
        return "*i32"
    if name.endswith("stride") or name in (
        "blocks",
        "seqlen_q",
        "seqlen_k",
        "heads_q",
        "heads_kv",
        "head_dim",
        "bottom_right",
        "window_left",
        "window_right",
        "dropout_threshold",
        "column_blocks",
        "weights_rows",
        "weights_columns",
    ):
        return "i32"
    return _POINTEE[variant.dtype]


def _resource_usage(cubin: bytes) -> tuple[int, int]:
    """Read (registers, bytes of local memory) a thread off the cubin, with cuobjdump."""
    import triton

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        text = subprocess.run(
            [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    registers, stack, local = (re.search(rf"{name}:(\d+)", text) for name in ("REG", "STACK", "LOCAL"))
    if registers is None or stack is None or local is None:
        raise RuntimeError(f"cuobjdump printed no resource usage: {text!r}")
    # ptxas keeps what it spills on the stack; the kernels have no stack variables of their own.
    return int(registers[1]), int(stack[1]) + int(local[1])


def _single_elements(ptx: str) -> list[str]:
    """Find accesses to global memory that move one 16-bit element, as the compiler must where alignment is unknown."""
    return [line.strip() for line in ptx.splitlines() if re.search(r"(ld|st)\.global\S*\.[bu]16", line)]


if __name__ == "__main__":
    sys.exit(main())
