"""Launches of the passes that walk: a program owns a block of one side and goes along the other side's tiles.

Forward and dQ own queries and walk over keys; dK and dV own keys and walk over queries. Tiles come through tensor
descriptors where the table says so and the call allows it, else by addresses.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from fa2verify.kernels.interface.call import Call
from fa2verify.kernels.interface.signature import MOST, Layout, placed
from fa2verify.kernels.triton.arguments import arguments, padded_block_d
from fa2verify.kernels.triton.configuration import Configuration, Side
from fa2verify.kernels.triton.descriptor import describe, described, use_descriptors
from fa2verify.kernels.triton.launch import Launch, prepare


def walk(kernel: Any, over: Side, call: Call, tensors: Mapping[str, Tensor], config: Configuration) -> None:
    """Launch `kernel` on `tensors`, by the names of its arguments; those of the call itself are added."""
    device = tensors["q"].device
    given: dict[str, Any] = {**tensors, **call.tensors}
    launch, descriptions = _prepare(kernel, over, call.plain, placed(given)[0], device, config)
    for name, description in descriptions.items():
        given[name] = described(tensors[name], description)
    launch(given, device, tensors["q"].dtype)


@lru_cache(maxsize=MOST)
def _prepare(
    kernel: Any, over: Side, call: Call, layouts: tuple[Layout, ...], device: torch.device, config: Configuration
) -> tuple[Launch, dict[str, TensorDescriptor]]:
    """The launch, and the descriptions of tensors that descriptors serve, by name."""
    given = arguments(call, layouts)
    rows = config.box_rows(over)
    loaded = tuple(layout for layout in layouts if layout[0] in rows)
    descriptors = use_descriptors(config, given, loaded, device)
    config = config.served(by_descriptors=descriptors)
    flags = {"descriptors": descriptors, "resting": descriptors and config.resting}
    if over == "keys":
        blocks, heads = triton.cdiv(call.seqlen_q, config.block_m), call.heads_q
    else:
        blocks, heads = triton.cdiv(call.seqlen_k, config.block_n), call.heads_kv
    launch = prepare(kernel, (blocks, heads, call.batch), config, given | flags)
    if not descriptors:
        return launch, {}
    block_d = padded_block_d(call.head_dim)
    return launch, {layout[0]: describe(layout, rows[layout[0]], block_d) for layout in loaded}
