"""Peak memory of one call above what was allocated before it.

On a GPU the caching allocator counts. On a CPU nobody does, so a dispatch mode adds up the storages that operators
return while they live. It does not see what an operator takes and gives back inside itself; our own operators allocate
through torch, so that their memory shows on any machine.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fa2verify.benchmarks.timing import Call

Gauge = Callable[[Call], int]


def gauge_for(device: torch.device) -> Gauge:
    """What measures a call on `device`, in bytes."""
    return device_peak if device.type == "cuda" else dispatch_peak


def device_peak(call: Call) -> int:
    """Bytes by the caching allocator, each allocation rounded up to its 512."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del result
    return int(peak)


def dispatch_peak(call: Call) -> int:
    """Bytes of the storages that operators returned."""
    with _Storages() as storages:
        result = call()
    del result
    return int(storages.peak)


class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts storages from the operator that returns them first until nobody holds them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage not in given and storage not in self._known:
                    self._count(storage)
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        size = storage.nbytes()
        self._known.add(storage)
        self._now += size
        self.peak = max(self.peak, self._now)
        weakref.finalize(storage, self._release, size)

    def _release(self, size: int) -> None:
        self._now -= size
