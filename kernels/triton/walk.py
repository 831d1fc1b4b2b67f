"""Launches of the passes that walk: a program owns a block of one side and goes along the other side's tiles.

Forward and dQ own queries and walk over keys; dK and dV own keys and walk over queries. The tiles that move come
through tensor descriptors where the table says so and the call allows it, else by addresses.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from fa2verify.kernels.interface.call import Call
from fa2verify.kernels.interface.signature import MOST, Layout, placed
from fa2verify.kernels.triton.arguments import arguments, padded_block_d
from fa2verify.kernels.triton.configuration import MOVING, Configuration, Side
from fa2verify.kernels.triton.descriptor import describe, use_descriptors
from fa2verify.kernels.triton.launch import Launch, prepare


def walk(kernel: Any, over: Side, call: Call, tensors: Mapping[str, Tensor], config: Configuration) -> None:
    """Launch `kernel` on `tensors`, by the names of its arguments; those of the call itself are added."""
    device = tensors["q"].device
    given: dict[str, Any] = {**tensors, **call.tensors}
    launch, box = _prepare(kernel, over, call.plain, placed(given)[0], device, config)
    if box:
        given |= {name: describe(tensors[name], *box) for name in MOVING[over]}
    launch(given, device)


@lru_cache(maxsize=MOST)
def _prepare(
    kernel: Any, over: Side, call: Call, layouts: tuple[Layout, ...], device: torch.device, config: Configuration
) -> tuple[Launch, tuple[int, int] | None]:
    """The launch, and the box of a moving tile where there are descriptors."""
    given = arguments(call, layouts)
    moving = tuple(layout for layout in layouts if layout[0] in MOVING[over])
    given["descriptors"] = use_descriptors(config, given, moving, device)
    if over == "keys":
        blocks, heads, rows = triton.cdiv(call.seqlen_q, config.block_m), call.heads_q, config.block_n
    else:
        blocks, heads, rows = triton.cdiv(call.seqlen_k, config.block_n), call.heads_kv, config.block_m
    launch = prepare(kernel, (blocks, heads, call.batch), config, given)
    return launch, (rows, padded_block_d(call.head_dim)) if given["descriptors"] else None
