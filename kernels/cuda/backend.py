"""Our CUDA kernels as a backend of the interface: which kernels a forward and a backward launch, in which order.

Tensors on a GPU go to the kernels themselves; tensors on the CPU go to the emulator, which runs the same source.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from fa2verify.kernels.cuda import emulator, gpu, gpu_compiler, host_compiler
from fa2verify.kernels.cuda.call import CallStructure, Words, make_structure, word_of
from fa2verify.kernels.cuda.configuration import (
    MAX_HEAD_DIM,
    OWN_KEYS,
    Feature,
    Name,
    Tiles,
    Variant,
    one_pass_tiles,
    padded_head_dim,
    relevant,
    variant,
)
from fa2verify.kernels.interface.call import Call
from fa2verify.kernels.interface.signature import MOST, Layout, placed
from fa2verify.kernels.problem import DType

_CAPABILITY = (8, 0)
_MAX_BLOCKS = 2**31 - 1
_DTYPES: dict[torch.dtype, DType] = {torch.float16: "float16", torch.bfloat16: "bfloat16"}


class CudaBackend:
    """Our CUDA kernels; see `fa2verify.kernels.interface.backend.Backend`.

    Every call raises ValueError for a length above `configuration.MAX_SEQLEN` and for more blocks than a grid has.
    """

    name = "cuda"
    max_head_dim = MAX_HEAD_DIM

    def unavailable(self, device: torch.device) -> tuple[str, ...]:
        """Why they cannot run on `device`, in sentences: a GPU takes NVRTC, a CPU a compiler for the emulator."""
        if device.type == "cpu":
            return host_compiler.unavailable()
        if device.type != "cuda":
            return (f"the CUDA kernels run on cuda devices and, emulated, on the cpu, not on {device.type!r}",)
        if torch.version.hip is not None:
            return ("it is for NVIDIA GPUs; this torch is built for ROCm",)
        capability = torch.cuda.get_device_capability(device)
        if capability < _CAPABILITY:
            return (f"it needs compute capability 8.0 or later, not {capability[0]}.{capability[1]}",)
        return gpu_compiler.unavailable()

    def forward(self, call: Call, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> None:
        """Fill `out` and `lse`."""
        if out.is_cpu:
            _poison_rows(out, call.cu_seqlens_q)
            _poison_rows(lse.mT, call.cu_seqlens_q)
        launch("forward", call, {"q": q, "k": k, "v": v, "out": out, "lse": lse})

    def backward(
        self,
        call: Call,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        dout: Tensor,
        dlse: Tensor | None,
        dq: Tensor | None,
        dk: Tensor | None,
        dv: Tensor | None,
        deterministic: bool,
    ) -> None:
        """Fill the gradients that are not None: in one pass, or in two that need no atomics."""
        delta = torch.empty_like(lse)
        dq_sum = None
        if dq is not None and dk is not None and not deterministic and _has_one_pass(call, q.device):
            dq_sum = q.new_empty(dq_sum_shape(call, q), dtype=torch.float32)
        if out.is_cpu:
            offsets = (None, None, call.cu_seqlens_q, call.cu_seqlens_k, call.cu_seqlens_k)
            for tensor, offset in zip((delta, dq_sum, dq, dk, dv), offsets, strict=True):
                if tensor is not None:
                    _poison_rows(tensor, offset)
        read = {"q": q, "k": k, "v": v, "dout": dout, "lse": lse, "delta": delta}
        launch("preprocess", call, {"out": out, "dout": dout, "delta": delta, "dlse": dlse, "dq_sum": dq_sum})
        if dq_sum is not None:
            launch("backward", call, read | {"dq_sum": dq_sum, "dk": dk, "dv": dv})
            launch("postprocess", call, {"dq": dq, "dq_sum": dq_sum})
            return
        if dk is not None and dv is not None:
            launch("backward_dkdv", call, read | {"dk": dk, "dv": dv})
        if dq is not None:
            launch("backward_dq", call, read | {"dq": dq})

    def probabilities(self, call: Call, q: Tensor, k: Tensor, lse: Tensor, weights: Tensor) -> None:
        """Fill the visible part of `weights`."""
        launch("probabilities", call, {"q": q, "k": k, "lse": lse, "weights": weights})


def _has_one_pass(call: Call, device: torch.device) -> bool:
    return one_pass_tiles(padded_head_dim(call.head_dim), _shared_kb(device)) is not None


def dq_sum_shape(call: Call, q: Tensor) -> tuple[int, ...]:
    """(heads_q, tiles of 16 rows, 16 * padded head_dim), as dq_sum.cuh lays it out."""
    if call.cu_seqlens_q is None:
        tiles = call.batch * -(-call.seqlen_q // 16)
    else:
        tiles = -(-(q.shape[0] + 16 * call.batch) // 16)
    return call.heads_q, tiles, 16 * padded_head_dim(call.head_dim)


def _shared_kb(device: torch.device) -> int:
    return emulator.SHARED_KB if device.type == "cpu" else gpu.shared_kb(device)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A launch without addresses.

    structure  the bytes of its `CallStructure`
    words      where the addresses of its tensors go, in their order
    """

    variant: Variant
    blocks: int
    structure: bytes
    words: tuple[int, ...]


@lru_cache(maxsize=MOST)
def _prepare(
    name: Name,
    call: Call,
    dtype: torch.dtype,
    emulated: bool,
    shared_kb: int,
    layouts: tuple[Layout, ...],
    tiles: Tiles | None,
) -> _Prepared:
    """Kept by signature, see `fa2verify.kernels.interface.signature`; `call` is plain."""
    structure = make_structure(call, layouts)
    features = Feature.ANY if emulated else relevant(name, Feature(structure.features))
    head_dim = padded_head_dim(call.head_dim)
    chosen = variant(name, _DTYPES[dtype], head_dim, features, shared_kb, tiles)
    length, heads = (call.seqlen_k, call.heads_kv) if name in OWN_KEYS else (call.seqlen_q, call.heads_q)
    structure.blocks = -(-length // chosen.rows)
    blocks = structure.blocks * heads * call.batch * chosen.parts
    if blocks > _MAX_BLOCKS:
        raise ValueError(f"{name} would take {blocks} blocks, more than the {_MAX_BLOCKS} of a grid; split the batch")
    return _Prepared(chosen, blocks, bytes(structure), tuple(word_of(name) for name, *_ in layouts))


def launch(name: Name, call: Call, tensors: Mapping[str, Tensor | None], tiles: Tiles | None = None) -> None:
    """Start one kernel on `tensors`, by their names in call.cuh, with the table's tiles or with `tiles`."""
    first = next(tensor for tensor in tensors.values() if tensor is not None)
    plain = call.plain
    given = tensors if plain is call else {**tensors, **call.tensors}
    layouts, addresses = placed(given)
    emulated, shared_kb = first.is_cpu, _shared_kb(first.device)
    prepared = _prepare(name, plain, first.dtype, emulated, shared_kb, layouts, tiles)
    # A copy: another thread may be at the same launch.
    structure = CallStructure.from_buffer_copy(prepared.structure)
    words = Words.from_buffer(structure)
    for word, address in zip(prepared.words, addresses, strict=True):
        words[word] = address
    if emulated:
        known = {name: tensor for name, tensor in given.items() if tensor is not None}
        emulator.launch(prepared.variant, prepared.blocks, structure, known)
    else:
        gpu.launch(prepared.variant, prepared.blocks, structure, first.device)


def _poison_rows(tensor: Tensor, offsets: Tensor | None) -> None:
    """Under the emulator, what a kernel writes begins as NaN, so that an element nobody writes shows.

    offsets  packed: rows past the last sequence are cleared already, and stay
    """
    written = tensor if offsets is None else tensor[: int(offsets[-1])]
    written.fill_(float("nan"))
